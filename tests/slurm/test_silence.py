"""No accounting, a squeue that talks nonsense, no authentication: nothing is known, nothing fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.slurm.beams import NAME, Bench, assert_done_once, jobs_of
from tests.slurm.faults import ends, misbehaving, running, submitted
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


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


def test_accounting_lost_while_a_job_runs(cluster: Any, bench: Callable[..., Bench]) -> None:
    on = bench()
    beam = on.beam(seconds=2)
    with on.driven(beam):
        running(cluster, on, submitted(beam))
        cluster.kill("slurmdbd")
    assert cluster.pid("slurmdbd") is None
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
        before = on.ledger.clusters.get(NAME)
        assert before is not None
        return wait_for(
            lambda: (
                (one := on.ledger.clusters.get(NAME))
                and one.turn >= before.turn + turns
                and one.polling_until is None
                and one
            ),
            "a look",
        )

    with on.driven(beam):
        running(cluster, on, submitted(beam))
        for answer, body in NONSENSE.items():
            with misbehaving(cluster, on, "squeue", body):
                assert "squeue" in looked(2).failure, answer
                row = on.ledger.jobs.get(NAME, beam.job.key)
                assert row is not None and not row.state.ended and beam.status is None, answer
        wait_for(lambda: ends(on), "the engine's end")
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
            wait_for(lambda: any("no list of jobs" in words for words in beam.spoken.words), "asked in vain")
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
            wait_for(lambda: late.spoken.words, "a submission without an answer")
            wait_for(
                lambda: (one := on.ledger.clusters.get(NAME)) and one.failing_since, "a look without one"
            )
            assert (beam.status, late.status) == (None, None)
            cluster.start_one("munged")
    assert_done_once(cluster, on, beam, late)
    assert len(jobs_of(cluster, beam)) == len(jobs_of(cluster, late)) == 1
