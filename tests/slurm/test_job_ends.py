"""Every way in which Slurm ends a job before its engine is done, and what becomes of the beam."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from tests.slurm.beams import NAME, Beam, Bench, assert_done_once, jobs_of
from tests.slurm.faults import closed, done, ends, queued, running, start_again_now, submitted
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LONG = 60.0


def long_job(cluster: Any, bench: Bench, beam: Beam) -> str:
    """The id of the beam's job, once its engine runs."""
    job = submitted(beam)
    running(cluster, bench, job)
    return job


def fresh(bench: Bench) -> Beam:
    """A beam whose engine would take long."""
    beam = bench.beam()
    bench.steer(seconds=LONG)
    return beam


def starts(bench: Bench) -> int:
    """How many engines have begun."""
    return len([one for one in bench.traced() if one[0] == "start"])


@pytest.mark.parametrize("requeue", [True, False])
def test_node_down(cluster: Any, bench: Callable[..., Bench], requeue: bool) -> None:
    on = bench(slurm={"requeue": requeue})
    beam = fresh(on)
    with on.driven(beam):
        job = long_job(cluster, on, beam)
        node = queued(cluster, job, "%N")
        done(cluster, "scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        if requeue:
            start_again_now(cluster, job)
        else:
            wait_for(lambda: queued(cluster, job) == "NODE_FAIL", "the job's end")
        on.steer(seconds=0.5)
        cluster.slurm("scontrol", "update", f"NodeName={node}", "State=RESUME")
    assert_done_once(cluster, on, beam)
    assert len(jobs_of(cluster, beam)) == (1 if requeue else 2)
    assert starts(on) == 2
    if requeue:
        row = on.ledger.jobs.get(NAME, beam.job.key)
        assert row is not None and row.result is not None and '"start":1' in row.result
        assert (row.job_id, row.retired) == (job, ())


@pytest.mark.parametrize(("partition", "jobs"), [("low", 1), ("lowc", 2)])
def test_job_preempted(cluster: Any, bench: Callable[..., Bench], partition: str, jobs: int) -> None:
    requeued = jobs == 1
    on = bench(slurm={"partition": partition, "requeue": requeued})
    beam = fresh(on)
    with on.driven(beam):
        job = long_job(cluster, on, beam)
        wide = ("--partition=gpu", "--nodes=2", "--gres=gpu:4", "--output=/dev/null")
        done(cluster, "sbatch", *wide, "--chdir=/tmp", "--wrap", "sleep 1")
        if requeued:
            start_again_now(cluster, job)
        else:
            wait_for(lambda: queued(cluster, job) == "PREEMPTED", "preempted")
        on.steer(seconds=0.5)
    assert_done_once(cluster, on, beam)
    assert len(jobs_of(cluster, beam)) == jobs
    assert starts(on) == 2


def test_time_limit_is_reported_and_the_next_attempt_has_twice_the_time(
    cluster: Any, bench: Callable[..., Bench]
) -> None:
    on = bench(slurm={"time_limit_minutes": 7})
    beam = fresh(on)
    with on.driven(beam):
        job = long_job(cluster, on, beam)
        assert queued(cluster, job, "%l") == "7:00"
        done(cluster, "scontrol", "update", f"JobId={job}", "EndTime=now")
    assert beam.status is not None and beam.status.state == "timed_out"
    assert beam.status.reason == "Slurm says TIMEOUT"
    on.steer(seconds=0.5)
    again = on.next_attempt(beam)
    with on.driven(again):
        pass
    assert again.handle is not None
    assert queued(cluster, again.handle.job_id, "%l") == "14:00"
    assert_done_once(cluster, on, again)
    assert jobs_of(cluster, beam) == [(job, "TIMEOUT")]


def test_out_of_memory_is_reported_and_the_next_attempt_has_twice_the_memory(
    cluster: Any, bench: Callable[..., Bench]
) -> None:
    print("out of memory without cgroups: the job ends as FAILED 0:9")
    on = bench(slurm={"memory_mb": 120})
    beam = on.beam()
    on.steer(memory_mb=170, seconds=8)
    with on.driven(beam):
        job = submitted(beam)
        running(cluster, on, job)
        wait_for(lambda: ends(on) or queued(cluster, job) == "FAILED", "the job's end")
    assert beam.status is not None and beam.status.state == "failed"
    assert "out of memory" in beam.status.reason
    row = on.ledger.jobs.get(NAME, beam.job.key)
    assert row is not None and row.state == "out_of_memory"
    wait_for(
        lambda: "0:9" in done(cluster, "sacct", "-X", "-n", "-P", "-j", job, "-o", "ExitCode"), "exit code"
    )
    on.steer(memory_mb=170, seconds=4)
    again = on.next_attempt(beam)
    with on.driven(again):
        pass
    assert again.handle is not None
    assert queued(cluster, again.handle.job_id, "%m") == "240M"
    assert_done_once(cluster, on, again)
    assert jobs_of(cluster, beam) == [(job, "FAILED")]


def test_job_cancelled_by_somebody_else_is_reported_and_runs_when_it_is_asked_for_again(
    cluster: Any, bench: Callable[..., Bench]
) -> None:
    on = bench()
    beam = fresh(on)
    with on.driven(beam):
        job = long_job(cluster, on, beam)
        done(cluster, "scancel", job)
    assert beam.status is not None and beam.status.state == "cancelled"
    assert beam.status.reason == "cancelled on the cluster (cancelled by 0)"
    on.steer(seconds=0.5)
    with on.driven(beam):
        pass
    assert_done_once(cluster, on, beam)
    assert sorted(state for _, state in jobs_of(cluster, beam)) == ["CANCELLED", "COMPLETED"]


def test_folder_removed_while_the_job_waits(cluster: Any, bench: Callable[..., Bench]) -> None:
    on = bench()
    beam = on.beam()
    with on.driven(beam):
        with closed(cluster):
            job = submitted(beam)
            shutil.rmtree(on.folder_of(beam))
        wait_for(lambda: queued(cluster, job) == "FAILED", "the job's end")
    assert_done_once(cluster, on, beam)
    assert [state for _, state in sorted(jobs_of(cluster, beam))] == ["FAILED", "COMPLETED"]
    assert starts(on) == 1
