"""Engine failures cost the attempt budget, across the runs that go on by themselves; nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chain.chain import PLAN, Chain, deliver, faulty_engine

GOES_ON = {"mqi/retry_of": "run1", "dagster/parent_run_id": "run1"}


@pytest.mark.parametrize(
    ("tags", "starts"),
    [
        ({}, 2),
        ({**GOES_ON, "mqi/engine_failures": "0"}, 2),
        ({**GOES_ON, "mqi/engine_failures": "1"}, 1),
        # A person's re-execution carries the tags of the run before it, and begins anew.
        ({"mqi/retry_of": "run1", "dagster/parent_run_id": "run2", "mqi/engine_failures": "1"}, 2),
    ],
    ids=["first run", "goes on without failures", "goes on after one", "a person's re-execution"],
)
def test_the_budget_is_that_of_all_runs_since_a_person_asked(
    tmp_path: Path, tags: dict[str, str], starts: int
) -> None:
    (tmp_path / "mode").write_text("nan")
    chain = Chain(
        tmp_path / "site",
        {"engine": faulty_engine(tmp_path / "mode"), "execution": {"attempts": 2}},
        given=deliver(tmp_path / "in", plan=PLAN).folder,
    )
    case, _ = chain.run_intake()
    outcome = chain.run("beam", f"{case}__b02", tags)
    assert not outcome.success and outcome.code == "engine"
    assert chain.engine_starts() == starts
    attempts = [(one.number, one.outcome) for one in chain.site.ledger.attempts.history(f"{case}__b02")]
    assert attempts == [(number, "failed") for number in range(1, starts + 1)]
