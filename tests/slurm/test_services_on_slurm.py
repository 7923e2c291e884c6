"""Beams on the cluster under Dagster's real services: stopped, killed, queued and cancelled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tests.services.stack import Stack
from tests.slurm.beams import live_jobs
from tests.slurm.site_on_slurm import HOST, jobs_of_root, sections, steer, traced
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STALE_SECONDS = 3
TERMINATE = """
mutation Terminate($runId: String!) {
  terminateRun(runId: $runId, terminatePolicy: SAFE_TERMINATE) { __typename }
}
"""


@pytest.fixture
def site(cluster: Any, shared: Path, tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Makes a site on the cluster with running services; at the end no process of it is left."""
    made: list[Stack] = []

    def make(**slurm: Any) -> Stack:
        given = sections(cluster.connection(), shared, tmp_path.name, **slurm)
        steer(shared, tmp_path.name, seconds=2)
        stack = Stack(tmp_path / "stack", given)
        made.append(stack)
        stack.start()
        return stack

    yield make
    for stack in made:
        stack.stop()
        assert stack.processes() == {}


def starts(shared: Path, name: str) -> list[str]:
    """Beams whose engines were started, each as often as it was."""
    return [beam for what, _, _, _, _, beam in traced(shared, name) if what == "start"]


def at_work(
    site: Callable[..., Stack], shared: Path, name: str, *, seed: int
) -> tuple[Stack, str, dg.DagsterRun]:
    """A site, a case of one beam and the run of it, once its engine runs, which will not end by itself."""
    stack = site()
    steer(shared, name, seconds=3600)
    case = stack.case_of(stack.deliver(seed=seed, beams=1))
    wait_for(lambda: starts(shared, name), "the engine runs")
    (run,) = stack.runs("beam")
    return stack, case, run


def test_beams_in_flight_outlive_three_stops_of_the_whole_service(
    site: Callable[..., Stack], cluster: Any, shared: Path, tmp_path: Path
) -> None:
    name = tmp_path.name
    stack = site()
    steer(shared, name, seconds=3600)
    cases = [stack.case_of(stack.deliver(seed=seed, beams=4)) for seed in (21, 22)]
    wait_for(lambda: len(starts(shared, name)) == 8, "eight engines run", 300)
    for end in (stack.stop, stack.kill_everything, stack.stop):
        end()
        assert stack.processes() == {}
        wait_for(lambda: all_stale(stack), "every heartbeat is stale")
        assert len(live_jobs(cluster)) == 8
        stack.start()
        wait_for(lambda: len(working(stack)) == 8, "eight runs watch their jobs again", 300)
    steer(shared, name, seconds=1)
    for case in cases:
        stack.wait_for_conclusion(case)
    wait_for(lambda: not live_jobs(cluster), "an empty queue")
    assert len(starts(shared, name)) == 8, "an engine was started twice"
    wait_for(lambda: states(cluster, shared / name) == ["COMPLETED"] * 8, "eight jobs in the accounting")
    assert stack.ledger().leases.all() == []
    for asset in ("raw_dose", "rt_dose", "handed_over"):
        assert sorted(stack.materialised(asset).values()) == [1] * 8, asset
    assert not list((shared / name).glob("*/*/*/job.sh")), "a folder of a job is left on the cluster"


@pytest.mark.gate
def test_after_a_crash_of_the_services_machine_another_run_watches_the_same_job(
    site: Callable[..., Stack], cluster: Any, shared: Path, tmp_path: Path
) -> None:
    name = tmp_path.name
    stack, case, crashed = at_work(site, shared, name, seed=24)
    jobs = live_jobs(cluster)
    start_again = stack.crash("code", *stack.workers())
    start_again()
    wait_for(lambda: stack.answers("code"), "the code location is there again")

    def taken_up() -> bool:
        (lease,) = stack.ledger().leases.all()
        return lease.owner != crashed.run_id and working(stack) == [f"{case}__b02"]

    wait_for(taken_up, "another run watches the job")
    assert live_jobs(cluster) == jobs
    steer(shared, name, seconds=1)
    stack.wait_for_conclusion(case)
    first, second = stack.runs("beam")
    assert (first.run_id, first.status) == (crashed.run_id, dg.DagsterRunStatus.FAILURE)
    assert second.status is dg.DagsterRunStatus.SUCCESS
    assert len(starts(shared, name)) == 1, "an engine was started twice"
    assert stack.ledger().leases.all() == []
    attempts = [(one.number, one.outcome) for one in stack.ledger().attempts.history(f"{case}__b02")]
    assert attempts == [(1, "succeeded")]


def all_stale(stack: Stack) -> bool:
    """Whether a reaper would find every lease without a heartbeat."""
    limit = datetime.now(UTC) - timedelta(seconds=STALE_SECONDS)
    return all(lease.heartbeat_at < limit for lease in stack.ledger().leases.all())


def working(stack: Stack) -> list[str]:
    """Beams whose lease is renewed by a run that is in work now."""
    started = {run.run_id for run in stack.runs("beam") if run.status is dg.DagsterRunStatus.STARTED}
    return [lease.partition for lease in stack.ledger().leases.all() if lease.owner in started]


def states(cluster: Any, root: Path) -> list[str]:
    return [state for _, state, _ in jobs_of_root(cluster, root)]


def test_fifty_beams_on_eight_gpus_never_share_one(
    site: Callable[..., Stack], cluster: Any, shared: Path, tmp_path: Path
) -> None:
    name = tmp_path.name
    stack = site()
    steer(shared, name, seconds=3600)
    cases = [stack.case_of(stack.deliver(seed=seed, beams=10)) for seed in range(31, 36)]
    wait_for(lambda: len(starts(shared, name)) == 8, "every GPU is taken", 300)
    assert len(live_jobs(cluster)) <= 8, "more jobs than slots"
    steer(shared, name, seconds=1)
    most = 0

    def concluded() -> bool:
        nonlocal most
        runs = stack.runs("beam")
        most = max(most, sum(run.status is dg.DagsterRunStatus.STARTED for run in runs))
        return set(cases) <= set(stack.markers()) and not stack.unfinished()

    wait_for(concluded, "five cases concluded", 800)
    trace = traced(shared, name)
    assert len(starts(shared, name)) == 50
    wait_for(lambda: states(cluster, shared / name) == ["COMPLETED"] * 50, "fifty jobs in the accounting")
    assert most <= 10, "more run workers than the pool allows: eight slots and a buffer of two"
    begun: dict[str, tuple[str, str]] = {}
    held: dict[tuple[str, str], str] = {}
    for what, job, node, gpus, _, _ in sorted(trace, key=lambda line: line[4]):
        if what == "start":
            assert gpus in {"0", "1", "2", "3"}, "a job without exactly one GPU of its node"
            assert (node, gpus) not in held, "two jobs on one GPU"
            held[(node, gpus)] = job
            begun[job] = (node, gpus)
        else:
            assert held.pop(begun[job]) == job
    assert held == {}
    assert len(set(begun.values())) == 8


def test_a_cancelled_case_cancels_its_job_and_a_retry_submits_another(
    site: Callable[..., Stack], cluster: Any, shared: Path, tmp_path: Path
) -> None:
    name = tmp_path.name
    stack, case, run = at_work(site, shared, name, seed=41)
    told = stack._mqi("case", "cancel", case, "--site", str(stack.site))
    assert told == f"{case}__b02: cancelled ({run.run_id})\n"
    assert live_jobs(cluster) == []
    assert [run.status for run in stack.runs("beam")] == [dg.DagsterRunStatus.CANCELED]
    assert stack.ledger().leases.all() == []
    (job,) = stack.ledger().jobs.all(HOST)
    assert job.state == "cancelled"
    steer(shared, name, seconds=1)
    stack._mqi("case", "retry", case, "--site", str(stack.site))
    stack.wait_for_conclusion(case)
    wait_for(
        lambda: sorted(states(cluster, shared / name)) == ["CANCELLED", "COMPLETED"],
        "one cancelled and one completed job",
    )


def test_a_cancel_that_the_cluster_does_not_answer_is_done_when_it_is_back(
    site: Callable[..., Stack], cluster: Any, shared: Path, tmp_path: Path
) -> None:
    stack, _, run = at_work(site, shared, tmp_path.name, seed=51)
    cluster.freeze("slurmctld")
    stack.graphql(TERMINATE, runId=run.run_id)
    wait_for(lambda: not stack.unfinished(), "the run has ended without the cluster")
    assert [lease.job_id for lease in stack.ledger().leases.all()] == [run_job(stack)]
    cluster.thaw("slurmctld")
    wait_for(lambda: not live_jobs(cluster), "the job is cancelled")
    wait_for(lambda: stack.ledger().leases.all() == [], "the slot is free")
    assert [run.status for run in stack.runs("beam")] == [dg.DagsterRunStatus.CANCELED]


def run_job(stack: Stack) -> str | None:
    (job,) = stack.ledger().jobs.all(HOST)
    return job.job_id
