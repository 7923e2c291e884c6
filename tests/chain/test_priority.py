"""An urgent case overtakes: in what the sensors ask for, in the queue's tags, and in a full queue."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from mqi_dagster.errors import InputError
from mqi_dagster.lifecycle import run_requests
from mqi_dagster.operations.priority import make_urgent
from mqi_dagster.people.rights import Actor
from mqi_dagster.synthetic.request import BuiltInPlan
from tests.chain.chain import Chain

OWNER = Actor.of_this_account()
ONE = BuiltInPlan(beams=1, layers=1, spots=4, layer_seconds=0.02, energies_mev=(100.0,))


def arrived(chain: Chain, *seeds: int) -> list[str]:
    """Cases that have been seen and for which nothing was asked yet, in the order of their arrival."""
    for seed in seeds:
        chain.deliver(plan=ONE, seed=seed, case_name=f"case-{seed}")
        chain.tick("case_arrivals", launch=False)
    return [row.case for row in chain.site.ledger.arrivals.all()]


def test_the_intake_of_an_urgent_case_is_asked_for_first_and_its_run_says_so(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    first, second, third = arrived(chain, 1, 2, 3)
    assert make_urgent(chain.instance, chain.site, OWNER, third, 9) == 0
    requests = chain.tick("case_arrivals", launch=False)
    assert [request.partition_key for request in requests] == [third, first, second]
    assert [request.tags["dagster/priority"] for request in requests] == ["9", "0", "0"]
    row = chain.site.ledger.arrivals.get(third)
    assert row is not None and row.priority == 9, "a scan leaves it as it is"


def test_an_urgent_case_overtakes_cases_whose_beams_were_put_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(tmp_path / "site")
    first, second, third = arrived(chain, 1, 2, 3)
    chain.tick("case_arrivals")
    monkeypatch.setattr(run_requests, "QUEUED_AT_MOST", 0)
    assert chain.tick("beams_to_simulate") == [], "the queue is full: all three are put off"
    make_urgent(chain.instance, chain.site, OWNER, third, 1)
    (overtaken,) = chain.tick("beams_to_simulate", launch=False)
    assert overtaken.partition_key == f"{third}__b02", "a full queue keeps only ordinary cases out"
    limited = {"mqi/case": third, "mqi/gpu": "simulation", "mqi/upload": "local", "dagster/priority": "1"}
    assert limited.items() <= overtaken.tags.items()
    monkeypatch.setattr(run_requests, "QUEUED_AT_MOST", 200)
    requests = chain.tick("beams_to_simulate", launch=False)
    assert [str(request.partition_key)[:-5] for request in requests] == [third, first, second]


def test_runs_that_wait_get_the_priority_and_those_in_work_keep_theirs(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    (case,) = arrived(chain, 1)
    job = chain.definitions.resolve_job_def("beam")
    tags = {"mqi/case": case, "dagster/priority": "0"}
    waiting, working = (
        chain.instance.create_run_for_job(job, tags=tags, status=status)
        for status in (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED)
    )
    assert make_urgent(chain.instance, chain.site, OWNER, case, 4) == 1

    def priority(run: dg.DagsterRun) -> str:
        found = chain.instance.get_run_by_id(run.run_id)
        assert found is not None
        return found.tags["dagster/priority"]

    assert (priority(waiting), priority(working)) == ("4", "0")


def test_a_case_that_nobody_knows_gets_none(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    with pytest.raises(InputError, match="no case P1"):
        make_urgent(chain.instance, chain.site, OWNER, "P1.fx0001", 4)
