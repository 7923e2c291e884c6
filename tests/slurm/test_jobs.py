"""A beam's way over a real cluster where nothing goes wrong, and what is left of it there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.slurm.beams import MARKERS, Bench, assert_done_once, jobs_of
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_two_beams_run_as_one_job_each_and_come_back_verified(
    cluster: Any, bench: Callable[..., Bench]
) -> None:
    on = bench()
    beams = [on.beam(2), on.beam(3, counts=(700, 300))]
    with on.driven(*beams):
        pass
    assert_done_once(cluster, on, *beams)
    assert beams[0].expected != beams[1].expected
    for beam in beams:
        assert len(jobs_of(cluster, beam)) == 1
        assert "batch 10 of 10" in beam.spoken.words
        listed = cluster.slurm(
            "sacct", "-n", "-P", "-j", beam.handle.job_id, "-X", "-o", "JobName,Comment,User"
        )
        assert listed.stdout.strip() == f"moqui_{beam.job.name}|{beam.job.key}|{cluster.settings.user}"


def test_a_second_worker_attaches_to_the_job_that_runs(cluster: Any, bench: Callable[..., Bench]) -> None:
    on = bench()
    beam = on.beam(seconds=3)
    first = on.executor.submit(beam.job)
    wait_for(lambda: on.traced(), "the engine runs")
    other = on.another_executor()
    assert other.submit(beam.job) == first
    on.drive(beam, other)
    assert_done_once(cluster, on, beam)
    assert len(jobs_of(cluster, beam)) == 1
    assert len([one for one in on.traced() if one[0] == "start"]) == 1


def test_clearing_removes_the_jobs_folder_and_nothing_else(cluster: Any, bench: Callable[..., Bench]) -> None:
    on = bench()
    beam, other = on.beam(), on.beam()
    with on.driven(beam, other):
        pass
    assert beam.handle is not None
    for name in MARKERS:
        for path in on.folder_of(beam).rglob("*"):
            assert name not in path.name
            if path.is_file():
                assert name.encode() not in path.read_bytes()
    assert on.executor.clear(beam.job, beam.handle) == ""
    assert not on.folder_of(beam).exists()
    assert on.folder_of(other).is_dir()
    # Again, and after somebody else has removed it: nothing happens.
    assert on.executor.clear(beam.job, beam.handle) == ""
