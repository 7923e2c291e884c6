"""A controller that dies, forgets or talks nonsense: nothing is taken for an end, and nothing runs twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from beams import NAME, Beam, Bench, assert_done_once, jobs_of, sha256, wait
from faults import Memory, closed, done, login, misbehaving, queued, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def submitted(beam: Beam) -> str:
    """The job's id, as soon as there is one."""
    handle = wait(lambda: beam.handle, "submitted")
    return str(handle.job_id)


def ends(bench: Bench) -> int:
    """How many engines have come to their end."""
    return len([one for one in bench.traced() if one[0] == "end"])


@pytest.mark.parametrize(("seconds", "lasts"), [(1, 9), (10, 12)])
def test_controller_killed_after_a_submission(
    cluster: Any, bench: Callable[..., Bench], seconds: int, lasts: int
) -> None:
    on = bench()
    beam = on.beam(seconds=lasts)
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
        wait(lambda: list(on.folder_of(beam).glob("starts/*/result.json")), "the job's end")
        memory.restore()
        done(cluster, "scontrol", "update", "PartitionName=gpu", "State=UP")
        if not known:
            use_up_an_id(cluster)
    if known:
        # It is started again: then the node refuses its id, or the job itself finds its own work done.
        assert_done_once(
            cluster, on, beam, ended=wait(lambda: jobs_of(cluster, beam), "accounting", 30)[0][1]
        )
    assert beam.status is not None and beam.status.state == "succeeded"
    assert {name: sha256(path) for name, path in beam.fetched.items()} == beam.expected
    assert ends(on) == 1
    row = on.ledger.cluster_job(NAME, beam.job.key)
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
    wait(lambda: queued(cluster, strange) == "RUNNING", "it runs")
    cluster.kill("slurmctld")
    wait(ended.exists, "it has ended")
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
    row = on.ledger.cluster_job(NAME, beam.job.key)
    assert row is not None and row.job_id != lost and row.retired == (lost,)
    assert_done_once(cluster, on, beam)
    assert ends(on) == 1


@pytest.mark.parametrize("lost_as", ["waiting", "running", "waiting, and the next answer is lost too"])
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
            body = (
                'if first; then "$real" "$@" >/dev/null; kill -9 $(submitters); exit; fi\nexec "$real" "$@"'
            )
            called = stack.enter_context(misbehaving(cluster, on, "sbatch", body))
        memory.restore()
        # Until then its engine runs, if it began: the node is told to end it when it reports its jobs.
        wait(lambda: any("lost" in words for words in beam.spoken.words), "given up", 40)
        on.steer(seconds=0.5)
        if lost_as.endswith("too"):
            wait(called.exists, "submitted again")
    row = on.ledger.cluster_job(NAME, beam.job.key)
    # A node that remembers the id makes it two.
    assert row is not None and ((row.job_id, row.retired) == (lost, ()) or began)
    assert_done_once(cluster, on, beam)
    assert ends(on) == 1


def test_accounting_down_from_before_the_submission_until_after_the_end(
    cluster: Any, bench: Callable[..., Bench]
) -> None:
    on = bench()
    beam = on.beam()
    cluster.kill("slurmdbd")
    assert cluster.slurm("sacct").returncode != 0
    with on.driven(beam):
        pass
    assert beam.status is not None and beam.status.state == "succeeded"
    cluster.start_one("slurmdbd")
    assert_done_once(cluster, on, beam)
    assert len(jobs_of(cluster, beam)) == 1


def test_accounting_lost_while_a_job_runs_and_the_controller_forgets_the_job(
    cluster: Any, bench: Callable[..., Bench]
) -> None:
    on = bench()
    beam = on.beam(seconds=2)
    with on.driven(beam):
        job = submitted(beam)
        running(cluster, on, job)
        cluster.kill("slurmdbd")
        with closed(cluster):
            wait(lambda: queued(cluster, job) == "COMPLETED", "the end", 30)
    cluster.start_one("slurmdbd")
    assert_done_once(cluster, on, beam)
    assert len(jobs_of(cluster, beam)) == 1


NONSENSE = {
    "garbage": "head -c 300 /dev/urandom; exit 0",
    "nothing": "exit 0",
    "other words": "echo 'JOBID PARTITION NAME USER ST TIME'; exit 0",
    "failure": "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1",
    "killed": "kill -9 $$",
}


def test_squeue_that_talks_nonsense_decides_nothing(cluster: Any, bench: Callable[..., Bench]) -> None:
    believed = {"absent_seconds": 0.1, "lost_seconds": 0.1, "result_wait_seconds": 0.1}
    on = bench(slurm={"intervals": believed})
    beam = on.beam(seconds=5)

    def looked(turns: int) -> Any:
        """The next look that has come back, after so many more."""
        before = on.ledger.cluster_look(NAME)
        assert before is not None
        return wait(
            lambda: (
                (one := on.ledger.cluster_look(NAME))
                and one.turn >= before.turn + turns
                and one.looking_until is None
                and one
            ),
            "a look",
        )

    with on.driven(beam):
        running(cluster, on, submitted(beam))
        for answer, body in NONSENSE.items():
            with misbehaving(cluster, on, "squeue", body):
                assert "squeue" in looked(3).failure, answer
                row = on.ledger.cluster_job(NAME, beam.job.key)
                assert row is not None and not row.state.ended and beam.status is None, answer
        wait(lambda: ends(on), "the engine's end", 30)
    assert any("has not answered since" in words for words in beam.spoken.words)
    assert_done_once(cluster, on, beam)
    assert len(jobs_of(cluster, beam)) == 1


def test_squeue_that_talks_nonsense_makes_no_second_submission(
    cluster: Any, bench: Callable[..., Bench]
) -> None:
    on = bench()
    beam = on.beam()
    lost = 'if first; then "$real" "$@" >/dev/null; kill -9 $(submitters); exit; fi\nexec "$real" "$@"'
    with misbehaving(cluster, on, "sbatch", lost), on.driven(beam):
        with misbehaving(cluster, on, "squeue", "exit 0"):
            wait(lambda: any("no list of jobs" in words for words in beam.spoken.words), "asked in vain")
        assert beam.handle is None
    assert_done_once(cluster, on, beam)
    assert len(jobs_of(cluster, beam)) == 1


def test_without_munged_nothing_is_known_and_nothing_fails(cluster: Any, bench: Callable[..., Bench]) -> None:
    on = bench(host={"call_seconds": 4})
    beam, late = on.beam(seconds=4), on.beam()
    with on.driven(beam):
        running(cluster, on, submitted(beam))
        cluster.kill("munged")
        with on.driven(late):
            wait(lambda: late.spoken.words, "a submission without an answer", 30)
            wait(
                lambda: (one := on.ledger.cluster_look(NAME)) and one.failing_since, "a look without one", 30
            )
            assert (beam.status, late.status) == (None, None)
            cluster.start_one("munged")
    assert_done_once(cluster, on, beam, late)
    assert len(jobs_of(cluster, beam)) == len(jobs_of(cluster, late)) == 1
