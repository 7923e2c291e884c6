"""PostgreSQL may show a row after others with a higher number: no case is lost to that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqi_dagster.lifecycle.run_requests import Position
from tests.chain.chain import ONE_BEAM, Chain


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """A chain with two cases in its inbox, which are taken in."""
    made = Chain(tmp_path / "site")
    for seed in (1, 2):
        made.deliver(plan=ONE_BEAM, seed=seed)
    made.tick("case_arrivals")
    return made


def test_a_check_that_shows_late_still_has_its_beams_simulated(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = chain.runs_of("intake")
    storage = chain.instance.event_log_storage
    true = storage.get_asset_check_execution_history

    def without_the_first(*arguments: Any, **named: Any) -> Any:
        return [record for record in true(*arguments, **named) if record.partition != first]

    with monkeypatch.context() as early:
        early.setattr(storage, "get_asset_check_execution_history", without_the_first)
        chain.tick("beams_to_simulate")
    assert chain.runs_of("beam") == [f"{second}__b02"]
    chain.tick("beams_to_simulate")
    assert sorted(chain.runs_of("beam")) == sorted([f"{first}__b02", f"{second}__b02"])
    chain.tick("beams_to_simulate")
    assert len(chain.runs_of("beam")) == 2


def test_a_beam_whose_end_shows_late_still_has_its_case_concluded(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.tick("beams_to_simulate")
    first, second = (beam.partition("__")[0] for beam in chain.runs_of("beam"))
    true = chain.instance.fetch_run_status_changes
    hidden = {
        run.run_id for run in chain.instance.get_runs() if run.tags["dagster/partition"].startswith(first)
    }

    def without_the_first(*arguments: Any, **named: Any) -> Any:
        found = true(*arguments, **named)
        kept = [record for record in found.records if record.run_id not in hidden]
        return type(found)(kept, found.cursor, found.has_more)

    with monkeypatch.context() as early:
        early.setattr(chain.instance, "fetch_run_status_changes", without_the_first)
        chain.tick("cases_to_conclude")
    assert chain.runs_of("conclusion") == [second]
    chain.tick("cases_to_conclude")
    assert chain.runs_of("conclusion") == [second, first]
    assert chain.tick("cases_to_conclude") == []


@given(
    order=st.lists(st.integers(1, 400), unique=True, min_size=1, max_size=60),
    size=st.integers(1, 7),
)
def test_every_row_is_read_once_if_it_shows_before_200_others(order: list[int], size: int) -> None:
    position, read, highest = Position(), [], 0
    for start in range(0, len(order), size):
        shown = order[start : start + size]
        new = [number for number in order[: start + size] if position.is_new(number)]
        assert set(new) == {number for number in shown if number > highest - 200}
        read += new
        position = Position.of(position.past(new).content())
        highest = max([highest, *new])
        assert position.floor == max(0, highest - 200)
    assert len(read) == len(set(read))


def test_a_position_of_before_rows_were_remembered_reads_none_of_them_again() -> None:
    position = Position.of({"after": 500, "pending": []})
    assert not any(position.is_new(number) for number in range(501))
    assert position.is_new(501)
