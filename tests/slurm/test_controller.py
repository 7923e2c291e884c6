"""A controller that dies, forgets or talks nonsense: nothing is taken for an end, and nothing runs twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from tests.slurm.beams import NAME, Bench, assert_done_once, jobs_of, sha256
from tests.slurm.faults import Memory, closed, done, ends, login, misbehaving, queued, running, submitted
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.parametrize(("seconds", "lasts"), [(1, 9), (10, 12)])
def test_controller_killed_after_a_submission(
    cluster: Any, bench: Callable[..., Bench], seconds: int, lasts: int
) -> None:
    on = bench()
    beam = on.beam(seconds=lasts)
    # The ends of earlier jobs, which would come back to life.
    cluster.save()
    with on.driven(beam):
        submitted(beam)
        # Not when something has happened, but so long after: what the controller has saved by then decides.
        time.sleep(seconds)
        cluster.kill("slurmctld")
        cluster.start_one("slurmctld")
    assert_done_once(cluster, on, beam)
    assert ends(on) == 1


@pytest.mark.parametrize("known", [True, False])
def test_job_that_ended_while_the_controller_was_dead(
    cluster: Any, bench: Callable[..., Bench], known: bool
) -> None:
    on = bench()
    beam = on.beam(seconds=1)
    memory = Memory(cluster)
    with on.driven(beam):
        with closed(cluster):
            job = submitted(beam)
            if known:
                # As one that waits: that is what the next controller knows.
                memory = Memory(cluster)
        running(cluster, on, job)
        cluster.kill("slurmctld")
        wait_for(lambda: list(on.folder_of(beam).glob("starts/*/result.json")), "the job's end")
        memory.restore()
        done(cluster, "scontrol", "update", "PartitionName=gpu", "State=UP")
        if not known:
            use_up_an_id(cluster)
    if known:
        # It is started again: then the node refuses its id, or the job itself finds its own work done.
        assert_done_once(
            cluster, on, beam, ended=wait_for(lambda: jobs_of(cluster, beam), "accounting")[0][1]
        )
    assert beam.status is not None and beam.status.state == "succeeded"
    assert {name: sha256(path) for name, path in beam.fetched.items()} == beam.expected
    assert ends(on) == 1
    row = on.ledger.jobs.get(NAME, beam.job.key)
    assert row is not None and (row.job_id, row.retired) == (job, ())


def use_up_an_id(cluster: Any) -> None:
    """So that no later job gets one which a node still remembers."""
    done(
        cluster, "scancel", done(cluster, "sbatch", "--parsable", "--hold", "--chdir=/tmp", "--wrap", "true")
    )


def test_id_that_a_node_remembers_of_somebody_else(cluster: Any, bench: Callable[..., Bench]) -> None:
    on = bench()
    beam = on.beam()
    memory = Memory(cluster)
    ended = on.shared / f"ended-{on.trace.name}"
    options = "--parsable --job-name=moqui_x --comment=x --gres=gpu:1 -o /dev/null"
    strange = login(cluster, f"/usr/bin/sbatch {options} --wrap 'sleep 1; touch {ended}'")
    wait_for(lambda: queued(cluster, strange) == "RUNNING", "it runs")
    cluster.kill("slurmctld")
    wait_for(ended.exists, "it has ended")
    memory.restore()
    with on.driven(beam):
        assert submitted(beam) == strange
    assert_done_once(cluster, on, beam)
    assert [state for _, state in sorted(jobs_of(cluster, beam))] == ["CANCELLED", "COMPLETED"]
    assert ends(on) == 1


def test_id_of_a_forgotten_job_given_to_somebody_else(cluster: Any, bench: Callable[..., Bench]) -> None:
    on = bench(slurm={"intervals": {"absent_seconds": 2}})
    beam = on.beam()
    memory = Memory(cluster)
    # In the memory the partition is up.
    done(cluster, "scontrol", "update", "PartitionName=gpu", "State=DOWN")
    with on.driven(beam):
        lost = submitted(beam)
        memory.restore()
        strange = "/usr/bin/sbatch --parsable --job-name=moqui_x --comment=x -o /dev/null --wrap 'exit 0'"
        assert login(cluster, strange) == lost
    row = on.ledger.jobs.get(NAME, beam.job.key)
    assert row is not None and row.job_id != lost and row.retired == (lost,)
    assert_done_once(cluster, on, beam)
    assert ends(on) == 1


@pytest.mark.parametrize("lost_as", ["waiting", "running", "unanswered", "unanswered and waiting"])
def test_id_of_a_forgotten_job_given_to_its_own_successor(
    cluster: Any, bench: Callable[..., Bench], lost_as: str
) -> None:
    began = lost_as == "running"
    # One that began has to be ended by its node first.
    on = bench(slurm={"intervals": {"absent_seconds": 5 if began else 2}})
    beam = on.beam()
    on.steer(seconds=60)
    memory = Memory(cluster)
    if not began:
        done(cluster, "scontrol", "update", "PartitionName=gpu", "State=DOWN")
    with on.driven(beam), ExitStack() as stack:
        lost = submitted(beam)
        if began:
            running(cluster, on, lost)
        elif lost_as != "waiting":
            # Neither is the answer of the next submission heard.
            body = (
                'if first; then "$real" "$@" >/dev/null; kill -9 $(submitters); exit; fi\nexec "$real" "$@"'
            )
            called = stack.enter_context(misbehaving(cluster, on, "sbatch", body))
        memory.restore()
        if lost_as == "unanswered and waiting":
            stack.enter_context(closed(cluster))
        # Until then its engine runs, if it began: the node is told to end it when it reports its jobs.
        wait_for(lambda: any("lost" in words for words in beam.spoken.words), "given up")
        on.steer(seconds=0.5)
        if lost_as.startswith("unanswered"):
            wait_for(called.exists, "submitted again")
            wait_for(lambda: (row := on.ledger.jobs.get(NAME, beam.job.key)) and row.job_id, "found")
    row = on.ledger.jobs.get(NAME, beam.job.key)
    # A node that remembers the id makes it two.
    assert row is not None and ((row.job_id, row.retired) == (lost, ()) or began)
    assert_done_once(cluster, on, beam)
    assert ends(on) == 1
