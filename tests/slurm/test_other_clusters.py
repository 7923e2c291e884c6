"""A cluster without accounting, whose jobs are held to their memory where the machine can do that."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import cgroups_possible

from tests.cluster.slurm_cluster import running_cluster
from tests.slurm.beams import NAME, Bench, assert_done_once, jobs_of, make_shared
from tests.slurm.faults import Memory, done, queued, running
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def bare() -> Iterator[Any]:
    """It forgets a job a minute after its end, and then nobody knows it."""
    with running_cluster(accounting="none", kill_wait=2, cgroup=cgroups_possible()) as started:
        assert started.slurm("sacct").returncode != 0
        yield started


@pytest.fixture
def bench_there(bare: Any, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes benches on it."""
    base = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="mqw"))
    base.chmod(0o755)
    shared = make_shared(base / "shared", bare.settings.user)
    yield lambda **changes: Bench(tmp_path, bare.connection(), shared, **changes)
    bare.slurm("scancel", f"--user={bare.settings.user}")
    shutil.rmtree(base)


def test_success(bare: Any, bench_there: Callable[..., Bench]) -> None:
    on = bench_there()
    beam = on.beam()
    with on.driven(beam):
        pass
    assert_done_once(bare, on, beam)
    assert len(jobs_of(bare, beam)) == 1


def test_success_that_is_looked_for_when_the_controller_has_forgotten_it(
    bare: Any, bench_there: Callable[..., Bench]
) -> None:
    on = bench_there()
    beam = on.beam()
    memory = Memory(bare)
    handle = on.executor.submit(beam.job)
    wait_for(lambda: queued(bare, handle.job_id) == "COMPLETED", "the end")
    memory.restore()
    assert queued(bare, handle.job_id) == ""
    on.drive(beam)
    assert_done_once(bare, on, beam)
    assert len(jobs_of(bare, beam)) == 1


def test_engine_that_fails_is_reported_with_its_exit_code(
    bare: Any, bench_there: Callable[..., Bench]
) -> None:
    on = bench_there()
    beam = on.beam()
    on.steer(exit_code=3)
    on.drive(beam)
    assert beam.status is not None
    assert (beam.status.state, beam.status.exit_code) == ("failed", 3)
    on.steer()
    again = on.next_attempt(beam)
    on.drive(again)
    assert_done_once(bare, on, again)
    assert [state for _, state in jobs_of(bare, beam)] == ["FAILED", "COMPLETED"]


def test_job_cancelled_by_somebody_else(bare: Any, bench_there: Callable[..., Bench]) -> None:
    on = bench_there()
    beam = on.beam(seconds=30)
    with on.driven(beam):
        handle = wait_for(lambda: beam.handle, "submitted")
        running(bare, on, handle.job_id)
        done(bare, "scancel", handle.job_id)
    assert beam.status is not None and beam.status.state == "cancelled"
    assert beam.status.reason == "cancelled on the cluster (cancelled)"
    on.steer(seconds=0.5)
    with on.driven(beam):
        pass
    assert_done_once(bare, on, beam)
    assert sorted(state for _, state in jobs_of(bare, beam)) == ["CANCELLED", "COMPLETED"]


def test_out_of_memory_where_slurm_knows_it(bare: Any, bench_there: Callable[..., Bench]) -> None:
    if not bare.settings.cgroup:
        print("no cgroups here: only the case without them ran, FAILED 0:9")
        pytest.skip("memory limits need root and cgroup v1")
    print("out of memory with cgroups: the job ends as OUT_OF_MEMORY")
    on = bench_there(slurm={"memory_mb": 120})
    beam = on.beam()
    on.steer(memory_mb=170)
    on.drive(beam)
    assert beam.handle is not None and beam.status is not None
    assert queued(bare, beam.handle.job_id) == "OUT_OF_MEMORY"
    assert beam.status.state == "failed" and "OUT_OF_MEMORY" in beam.status.reason
    row = on.ledger.jobs.get(NAME, beam.job.key)
    assert row is not None and row.state == "out_of_memory"
    again = on.next_attempt(beam)
    on.drive(again)
    assert again.handle is not None
    assert queued(bare, again.handle.job_id, "%m") == "240M"
    assert_done_once(bare, on, again)
