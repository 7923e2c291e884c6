"""A submission that is broken off, repeated or answered wrongly: never a second success, never none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mqi_dagster.errors import UnreachableError
from mqi_dagster.hpc.shell import run
from mqi_dagster.hpc.slurm import gpus_of
from tests.slurm.beams import NAME, Bench, assert_done_once, jobs_of, worker
from tests.slurm.faults import closed, done, frozen, known, misbehaving, queued, running, submit_by_hand
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SBATCH_KILLED = {
    "before": 'if first; then kill -9 $(submitters); exit 1; fi\nexec "$real" "$@"',
    "in": (
        'if first; then kill -9 $(submitters); sleep 1; "$real" "$@" >/dev/null; exit; fi\nexec "$real" "$@"'
    ),
    # It gets through only when the client has asked the queue in vain and has submitted again.
    "long in": (
        'if first; then kill -9 $(submitters); exec >/dev/null 2>&1; sleep 6; "$real" "$@"; exit; fi\n'
        'exec "$real" "$@"'
    ),
    "after": 'if first; then "$real" "$@" >/dev/null; kill -9 $(submitters); exit; fi\nexec "$real" "$@"',
}


@pytest.mark.parametrize("moment", SBATCH_KILLED)
def test_submitting_shell_killed_around_sbatch(
    cluster: Any, bench: Callable[..., Bench], moment: str
) -> None:
    on = bench(slurm={"intervals": {"unknown_submission_seconds": 2}})
    twice = moment == "long in"
    beam = on.beam(seconds=6 if twice else 0.5)
    with misbehaving(cluster, on, "sbatch", SBATCH_KILLED[moment]) as called, on.driven(beam):
        wait_for(called.exists, "sbatch was called")
        if twice:
            wait_for(lambda: len(jobs_of(cluster, beam)) == 2, "the late job")
    assert_done_once(cluster, on, beam)
    assert len(jobs_of(cluster, beam)) == 1 + twice
    assert len([one for one in on.traced() if one[0] == "start"]) == 1


def test_an_account_whose_environment_names_another_cluster(
    cluster: Any, bench: Callable[..., Bench]
) -> None:
    # A login shell that serves SSH reads this file first.
    profile = Path(f"~{cluster.settings.user}").expanduser() / ".bashrc"
    before = profile.read_bytes() if profile.exists() else None
    profile.write_text(
        "export SLURM_CLUSTERS=elsewhere SQUEUE_FORMAT=%i SQUEUE_STATES=RUNNING SACCT_FORMAT=jobid"
        " SBATCH_PARTITION=none SINFO_FORMAT=%P\n"
    )
    profile.chmod(0o644)
    try:
        on = bench()
        assert run(on.executor.connection, ["sh", "-c", "echo $SLURM_CLUSTERS"]).text == "\n"
        beam = on.beam()
        with on.driven(beam):
            pass
        assert_done_once(cluster, on, beam)
        assert gpus_of(on.executor.connection, on.slurm)
    finally:
        if before is None:
            profile.unlink()
        else:
            profile.write_bytes(before)


def test_submitting_shell_killed_after_the_id_was_written(cluster: Any, bench: Callable[..., Bench]) -> None:
    on = bench()
    beam = on.beam()
    body = '"$real" "$@" || exit\nif [ "${@: -1}" = job.id ] && first; then kill -9 $(submitters); fi'
    with misbehaving(cluster, on, "mv", body) as called, on.driven(beam):
        wait_for(called.exists, "the id was written")
    assert_done_once(cluster, on, beam)
    assert len(jobs_of(cluster, beam)) == 1


@pytest.mark.parametrize("moment", ["before", "after"])
def test_client_killed_while_sbatch_is_slow(cluster: Any, bench: Callable[..., Bench], moment: str) -> None:
    on = bench()
    beam = on.beam()
    slow = {
        "before": 'if first; then sleep 3; fi\nexec "$real" "$@"',
        "after": 'id=$("$real" "$@") || exit\nif first; then sleep 3; fi\necho "$id"',
    }
    with misbehaving(cluster, on, "sbatch", slow[moment]) as called:
        with worker(on, beam) as process:
            wait_for(called.exists, "sbatch was called")
            process.kill()
        row = on.ledger.jobs.get(NAME, beam.job.key)
        assert row is not None and row.job_id is None
        on.drive(beam)
    assert_done_once(cluster, on, beam)
    assert len(jobs_of(cluster, beam)) == 1


def test_eight_processes_submit_one_beam_at_once(cluster: Any, bench: Callable[..., Bench]) -> None:
    on = bench()
    beam = on.beam(seconds=3)
    with (
        misbehaving(cluster, on, "sbatch", 'sleep 1; exec "$real" "$@"'),
        worker(on, beam, processes=8) as process,
    ):
        assert process.stdout is not None
        said = process.stdout.read().decode().splitlines()
    on.drive(beam)
    assert beam.handle is not None
    assert said == [f"job {beam.handle.job_id}"] * 8
    assert_done_once(cluster, on, beam)
    assert len(jobs_of(cluster, beam)) == 1


def test_controller_frozen_so_that_sbatch_times_out_but_the_job_runs(
    cluster: Any, bench: Callable[..., Bench]
) -> None:
    on = bench()
    beam = on.beam()
    fails = '"$real" "$@"; code=$?; [ $code -eq 0 ] || first; exit $code'
    with misbehaving(cluster, on, "sbatch", fails) as failed, on.driven(beam), frozen(cluster, "slurmctld"):
        wait_for(failed.exists, "sbatch has failed")
    assert_done_once(cluster, on, beam)
    assert len(jobs_of(cluster, beam)) == 1
    assert any("Socket timed out" in words for words in beam.spoken.words), beam.spoken.words


@pytest.mark.parametrize("winner", ["first", "second"])
def test_second_job_for_one_folder_leaves_and_the_one_that_ran_counts(
    cluster: Any, bench: Callable[..., Bench], winner: str
) -> None:
    on = bench()
    beam = on.beam(seconds=1.5)
    with on.driven(beam):
        with closed(cluster):
            wait_for(lambda: beam.handle, "submitted")
            assert beam.handle is not None
            ours = beam.handle.job_id
            other = submit_by_hand(cluster, on, on.folder_of(beam), f"moqui_{beam.job.name}", beam.job.key)
            late = other if winner == "first" else ours
            done(cluster, "scontrol", "hold", late)
        early = ours if late == other else other
        running(cluster, on, early)
        done(cluster, "scontrol", "release", late)
        wait_for(lambda: queued(cluster, late) == "FAILED", "the second job has left")
    assert_done_once(cluster, on, beam)
    assert sorted(jobs_of(cluster, beam)) == sorted([(early, "COMPLETED"), (late, "FAILED")])
    assert done(cluster, "sacct", "-X", "-n", "-P", "-j", late, "-o", "ExitCode") == "98:0"
    row = on.ledger.jobs.get(NAME, beam.job.key)
    assert row is not None and row.job_id == early


def test_submission_without_an_answer_is_cancelled_all_the_same(
    cluster: Any, bench: Callable[..., Bench]
) -> None:
    on = bench()
    beam = on.beam(seconds=30)
    with misbehaving(cluster, on, "sbatch", SBATCH_KILLED["after"]), pytest.raises(UnreachableError):
        on.executor.submit(beam.job)
    (lost,) = wait_for(lambda: known(cluster, beam), "the job is there")
    running(cluster, on, lost)
    on.executor.cancel(beam.job, None)
    row = on.ledger.jobs.get(NAME, beam.job.key)
    assert row is not None and (row.state, row.job_id) == ("cancelled", lost)
    assert queued(cluster, lost) == "CANCELLED"
    # Whoever wants the beam after all gets another job.
    on.steer(seconds=0.5)
    on.drive(beam)
    assert_done_once(cluster, on, beam)
    assert len(jobs_of(cluster, beam)) == 2
