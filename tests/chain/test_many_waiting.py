"""When more waits than a tick can ask for: nobody is lost or overtaken, and no tick grows with the crowd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mqi_dagster.lifecycle import run_requests
from mqi_dagster.sensors import arrivals, beams, conclusion
from mqi_dagster.synthetic.request import BuiltInPlan
from tests.chain.chain import Chain
from tests.chain.ended_runs import queued

TINY = BuiltInPlan(beams=2, layers=1, spots=4, layer_seconds=0.02, energies_mev=(100.0, 120.0))


class Counted:
    """A function that is called as before, and counted."""

    def __init__(self, module: Any, name: str, patch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self._real = getattr(module, name)
        patch.setattr(module, name, self)

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        return self._real(*arguments)


def taken_in(chain: Chain, count: int) -> list[str]:
    """Cases that were delivered and whose intake has passed, in the order of their intake."""
    for seed in range(1, count + 1):
        chain.deliver(plan=TINY, seed=seed)
    chain.tick("case_arrivals")
    return chain.runs_of("intake")


def cases_of(keys: list[str]) -> list[str]:
    return list(dict.fromkeys(key.partition("__")[0] for key in keys))


def test_with_a_full_queue_no_case_is_opened_and_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(tmp_path / "site")
    cases = taken_in(chain, 4)
    opened = Counted(beams, "read_manifest", monkeypatch)
    with monkeypatch.context() as full:
        full.setattr(run_requests, "QUEUED_AT_MOST", 0)
        for _ in range(2):
            assert chain.tick("beams_to_simulate") == []
    assert opened.calls == 0
    chain.tick("beams_to_simulate")
    assert sorted(cases_of(chain.runs_of("beam"))) == sorted(cases)


@pytest.mark.slow
def test_a_tick_opens_no_more_cases_than_it_can_ask_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(tmp_path / "site")
    cases = taken_in(chain, 4)
    monkeypatch.setattr(run_requests, "REQUESTS_PER_TICK", 3)
    opened = Counted(beams, "read_manifest", monkeypatch)
    asked = []
    for looks in (2, 4):
        asked.append([str(request.partition_key) for request in chain.tick("beams_to_simulate")])
        assert opened.calls == looks
    asked.append([str(request.partition_key) for request in chain.tick("beams_to_simulate")])
    # The half of a case that had no room comes before the cases behind it.
    assert [len(keys) for keys in asked] == [3, 3, 2]
    assert cases_of([key for keys in asked for key in keys]) == cases_of(chain.runs_of("beam"))
    assert sorted(cases_of(chain.runs_of("beam"))) == sorted(cases)
    assert sorted(chain.runs_of("beam")) == sorted(f"{case}__b0{n}" for case in cases for n in (2, 3))
    for _ in range(2):
        assert chain.tick("beams_to_simulate") == []


def test_the_beams_of_an_urgent_case_are_asked_for_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(tmp_path / "site")
    cases = taken_in(chain, 3)
    with monkeypatch.context() as full:
        full.setattr(run_requests, "QUEUED_AT_MOST", 0)
        chain.tick("beams_to_simulate")
    row = chain.site.ledger.arrivals.get(cases[1])
    assert row is not None
    chain.site.ledger.arrivals.set_priority(row.case, 5)
    monkeypatch.setattr(run_requests, "REQUESTS_PER_TICK", 2)
    requests = chain.tick("beams_to_simulate")
    assert [request.partition_key for request in requests] == [f"{cases[1]}__b02", f"{cases[1]}__b03"]
    assert [request.tags["dagster/priority"] for request in requests] == ["5", "5"]


def test_an_urgent_case_gets_past_a_queue_that_is_full_of_beams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(tmp_path / "site")
    ordinary, urgent = taken_in(chain, 2)
    row = chain.site.ledger.arrivals.get(urgent)
    assert row is not None
    chain.site.ledger.arrivals.set_priority(row.case, 5)
    counted = chain.instance.get_runs_count

    def two_beams_queued(filters: dg.RunsFilter) -> int:
        """In place of runs in the queue, which only a daemon can have put there."""
        queued = [dg.DagsterRunStatus.QUEUED]
        return 2 if filters.statuses == queued and filters.job_name is None else counted(filters)

    monkeypatch.setattr(chain.instance, "get_runs_count", two_beams_queued)
    monkeypatch.setattr(run_requests, "QUEUED_AT_MOST", 2)
    requests = chain.tick("beams_to_simulate")
    assert [request.partition_key for request in requests] == [f"{urgent}__b02", f"{urgent}__b03"]
    new = chain.deliver(plan=TINY, seed=9)
    assert new.folder.is_dir()
    assert len(chain.tick("case_arrivals")) == 1
    assert chain.tick("beams_to_simulate") == []
    assert ordinary not in cases_of(chain.runs_of("beam"))


def test_a_queue_full_of_what_a_person_has_started_in_the_pages_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(tmp_path / "site")
    ordinary, urgent = taken_in(chain, 2)
    chain.site.ledger.arrivals.set_priority(urgent, 5)
    monkeypatch.setattr(run_requests, "QUEUED_AT_MOST", 2)
    monkeypatch.setattr(run_requests, "URGENT_AT_MOST", 2)

    def wanted() -> list[str]:
        return [str(request.partition_key) for request in chain.tick("beams_to_simulate", launch=False)]

    for _ in range(5):
        queued(chain, **{"dagster/backfill": "chqrvmpx"})
    assert wanted() == [f"{urgent}__b02", f"{urgent}__b03"], "two find room, the urgent ones first"
    for _ in range(2):
        queued(chain, **{"dagster/sensor_name": "beams_to_simulate"})
    assert wanted() == [f"{urgent}__b02", f"{urgent}__b03"], "there is room beyond for urgent ones"
    for _ in range(2):
        queued(chain, **{"dagster/sensor_name": "run_outcomes"})
    assert wanted() == []
    assert ordinary not in cases_of(chain.runs_of("beam"))


def test_courses_in_the_queue_take_no_place_from_beams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(tmp_path / "site")
    (case,) = taken_in(chain, 1)
    monkeypatch.setattr(run_requests, "QUEUED_AT_MOST", 2)
    for sensor in ("dicom_arrivals", "dicom_arrivals", "run_outcomes"):
        queued(chain, "course", "PABCDEFGHI.co0001", **{"dagster/sensor_name": sensor})
    queued(chain, **{"dagster/sensor_name": "run_outcomes"})
    requests = chain.tick("beams_to_simulate", launch=False)
    assert [request.partition_key for request in requests] == [f"{case}__b02"], "one beam is in the queue"


def test_a_case_that_cannot_be_opened_holds_up_nobody_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(tmp_path / "site")
    cases = taken_in(chain, 3)
    monkeypatch.setattr(run_requests, "SECONDS_PER_TICK", 0.0)
    first, *_ = _order(chain, monkeypatch)
    for manifest in (chain.data / "cases" / first).rglob("manifest.json"):
        manifest.unlink()
    for _ in range(3):
        chain.tick("beams_to_simulate")
    assert sorted(cases_of(chain.runs_of("beam"))) == sorted(set(cases) - {first})


def _order(chain: Chain, patch: pytest.MonkeyPatch) -> list[str]:
    """The cases in the order in which the sensor has put them off."""
    with patch.context() as full:
        full.setattr(run_requests, "QUEUED_AT_MOST", 0)
        chain.tick("beams_to_simulate")
    return run_requests.read_cursor(chain.cursors["beams_to_simulate"])[1]


@pytest.mark.slow
def test_more_conclusions_than_a_tick_asks_for_follow_at_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(tmp_path / "site")
    cases = taken_in(chain, 3)
    chain.tick("beams_to_simulate")
    monkeypatch.setattr(conclusion, "REQUESTS_PER_TICK", 2)
    assert len(chain.tick("cases_to_conclude")) == 2
    assert len(chain.tick("cases_to_conclude")) == 1
    assert sorted(chain.runs_of("conclusion")) == sorted(cases)
    monkeypatch.setattr(run_requests, "SECONDS_PER_TICK", 0.0)
    chain.cursors["cases_to_conclude"] = None
    for _ in range(3):
        chain.tick("cases_to_conclude")
    assert sorted(chain.runs_of("conclusion")) == sorted(cases)


def test_a_case_whose_partition_somebody_has_deleted_concludes_and_keeps_no_other_waiting(
    tmp_path: Path,
) -> None:
    chain = Chain(tmp_path / "site")
    cases = taken_in(chain, 2)
    chain.tick("beams_to_simulate")
    chain.instance.delete_dynamic_partition("case", cases[0])
    assert len(chain.tick("cases_to_conclude")) == 2
    assert sorted(chain.runs_of("conclusion")) == sorted(cases)


def test_a_plan_is_opened_once_however_long_its_case_waits_for_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(tmp_path / "site")
    for seed in (1, 2, 3):
        chain.deliver(plan=TINY, seed=seed)
    opened = Counted(arrivals, "cases_of", monkeypatch)
    with monkeypatch.context() as full:
        full.setattr(run_requests, "QUEUED_AT_MOST", 0)
        for _ in range(3):
            assert chain.tick("case_arrivals") == []
    assert opened.calls == 3
    assert len(chain.tick("case_arrivals")) == 3


def test_in_a_crowded_inbox_a_new_case_is_seen_before_the_old_ones_are_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(tmp_path / "site")
    taken_in(chain, 3)
    # The services are started again: they have forgotten what they have opened.
    chain.reopen()
    new = chain.deliver(plan=TINY, seed=9)
    monkeypatch.setattr(run_requests, "SECONDS_PER_TICK", 0.0)
    opened = Counted(arrivals, "cases_of", monkeypatch)
    requests = chain.tick("case_arrivals")
    assert opened.calls == 1
    assert len(requests) == 1
    assert chain.site.ledger.arrivals.get(str(requests[0].partition_key)) is not None
    assert new.folder.is_dir()
    for _ in range(3):
        assert chain.tick("case_arrivals") == []
    assert opened.calls == 4
    assert chain.tick("case_arrivals") == []
    assert opened.calls == 4


def test_what_was_asked_for_at_the_last_tick_takes_no_place_of_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(tmp_path / "site")
    for seed in (1, 2, 3, 4):
        chain.deliver(plan=TINY, seed=seed)
    for module in (arrivals, run_requests):
        monkeypatch.setattr(module, "REQUESTS_PER_TICK", 2)
    asked = [[str(request.partition_key) for request in chain.tick("case_arrivals")] for _ in range(3)]
    assert [len(keys) for keys in asked] == [2, 2, 0]
    assert len({key for keys in asked for key in keys}) == 4
