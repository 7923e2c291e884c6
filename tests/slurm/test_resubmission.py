"""The same key asked for again after its job has ended: when a new job is submitted, and when it must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mqi_dagster.hpc.errors import IntegrityError
from tests.slurm.beams import NAME, Beam, Bench, jobs_of
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def completed(cluster: Any, beam: Beam) -> int:
    return sum(state == "COMPLETED" for _, state in jobs_of(cluster, beam))


def test_a_result_that_was_removed_is_made_again(cluster: Any, bench: Callable[..., Bench]) -> None:
    on = bench()
    beam = on.beam()
    assert on.drive(beam).state == "succeeded"
    assert beam.handle is not None
    on.executor.clear(beam.job, beam.handle)
    for path in beam.fetched.values():
        path.unlink()
    again = on.drive(beam, on.another_executor())
    assert again.state == "succeeded"
    wait_for(lambda: completed(cluster, beam) == 2, "both jobs in the accounting")
    row = on.ledger.jobs.get(NAME, beam.job.key)
    assert row is not None and len(row.retired) == 1


def test_a_result_that_is_not_what_its_job_noted_is_refused_and_made_again(
    cluster: Any, bench: Callable[..., Bench]
) -> None:
    on = bench()
    beam = on.beam()
    handle = on.executor.submit(beam.job)
    wait_for(lambda: on.executor.poll(beam.job, handle).state.ended, "the job has ended")
    (output,) = on.folder_of(beam).glob("starts/*/outputs/2")
    content = bytearray(output.read_bytes())
    content[100] ^= 1
    output.write_bytes(content)
    with pytest.raises(IntegrityError, match="differs from what its job has noted"):
        on.drive(beam)
    assert on.drive(beam).state == "succeeded"
    assert [path.name for path in beam.fetched.values()] == [name.split("/")[1] for name in beam.job.outputs]
    wait_for(lambda: completed(cluster, beam) == 2, "both jobs in the accounting")


def test_a_failure_that_was_the_nodes_is_given_up_and_the_engine_starts_anew(
    cluster: Any, bench: Callable[..., Bench]
) -> None:
    on = bench()
    beam = on.beam()
    on.steer(exit_code=3)
    assert (on.drive(beam).state, beam.status.exit_code if beam.status else None) == ("failed", 3)
    # Asked again it is the same failure: attempts are counted by whoever asks.
    assert on.drive(beam).state == "failed"
    on.steer()
    on.executor.give_up(beam.job, "the GPU was lost")
    assert on.drive(beam).state == "succeeded"
    wait_for(lambda: completed(cluster, beam) == 1, "the accounting")


def test_a_cancel_waits_for_its_own_job_alone(cluster: Any, bench: Callable[..., Bench]) -> None:
    on = bench()
    beam = on.beam()
    on.steer(seconds=3600)
    first = on.executor.submit(beam.job)
    wait_for(lambda: on.traced(), "the engine runs")
    on.executor.cancel(beam.job, first)
    second = on.executor.submit(beam.job)
    assert second.job_id != first.job_id
    on.executor.cancel_beam(beam.job.name)
    wait_for(lambda: [state for _, state in jobs_of(cluster, beam)] == ["CANCELLED"] * 2, "both cancelled")
