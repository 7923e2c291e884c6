"""A job that is not wanted any more: confirmed gone, or still known to be unwanted; and wanted again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mqi_dagster.errors import UnreachableError
from tests.slurm.beams import NAME, Beam, Bench, assert_done_once, jobs_of, live_jobs
from tests.slurm.faults import closed, frozen, queued, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def assert_cancelled(cluster: Any, bench: Bench, beam: Beam, job: str) -> None:
    """Slurm, the accounting and the ledger agree, and nothing is left; asked for again, it runs."""
    assert queued(cluster, job) == "CANCELLED"
    assert live_jobs(cluster) == []
    row = bench.ledger.jobs.get(NAME, beam.job.key)
    assert row is not None and (row.state, row.job_id) == ("cancelled", job)
    # Again: nothing happens.
    bench.executor.cancel(beam.job, None)
    bench.steer(seconds=0.5)
    bench.drive(beam)
    assert_done_once(cluster, bench, beam)
    assert sorted(state for _, state in jobs_of(cluster, beam)) == ["CANCELLED", "COMPLETED"]


def test_pending_job(cluster: Any, bench: Callable[..., Bench]) -> None:
    on = bench()
    beam = on.beam()
    with closed(cluster):
        handle = on.executor.submit(beam.job)
        on.executor.cancel(beam.job, handle)
    assert_cancelled(cluster, on, beam, handle.job_id)


def test_running_job(cluster: Any, bench: Callable[..., Bench]) -> None:
    on = bench()
    beam = on.beam(seconds=20)
    handle = on.executor.submit(beam.job)
    running(cluster, on, handle.job_id)
    assert on.executor.leave(beam.job, handle, cancelled=False) is True
    assert live_jobs(cluster) == [handle.job_id]
    assert on.executor.leave(beam.job, handle, cancelled=True) is False
    assert_cancelled(cluster, on, beam, handle.job_id)


def test_job_that_was_never_submitted(cluster: Any, bench: Callable[..., Bench]) -> None:
    on = bench()
    beam = on.beam()
    on.executor.cancel(beam.job, None)
    assert on.ledger.jobs.get(NAME, beam.job.key) is None
    folder = "/".join(beam.job.parents)
    on.ledger.jobs.reserve(NAME, beam.job.key, beam.job.name, folder)
    on.executor.cancel(beam.job, None)
    row = on.ledger.jobs.get(NAME, beam.job.key)
    assert row is not None and (row.state, row.job_id) == ("cancelled", None)
    on.drive(beam)
    assert_done_once(cluster, on, beam)
    assert len(jobs_of(cluster, beam)) == 1


def test_while_the_controller_hangs_the_intent_is_kept(cluster: Any, bench: Callable[..., Bench]) -> None:
    on = bench()
    beam = on.beam(seconds=20)
    handle = on.executor.submit(beam.job)
    running(cluster, on, handle.job_id)
    with frozen(cluster, "slurmctld"), pytest.raises(UnreachableError):
        on.executor.cancel(beam.job, handle)
    row = on.ledger.jobs.get(NAME, beam.job.key)
    assert row is not None and row.cancel_requested_at is not None and not row.state.ended
    on.another_executor().cancel(beam.job, None)
    assert_cancelled(cluster, on, beam, handle.job_id)
