"""A run's worker is killed at every step of a beam on the cluster; the next run goes on from there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mqi_dagster.ledger.cluster_jobs import ClusterJob
from mqi_dagster.partitions import beam_key
from tests.chain.chain import Chain
from tests.chain.processes import worker_of
from tests.slurm.site_on_slurm import HOST, jobs_of_root, sections, steer, traced
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def chain(cluster: Any, shared: Path, tmp_path: Path, disk_instance: dg.DagsterInstance) -> Chain:
    """A site on the cluster with one case taken in, and an instance that several processes can open."""
    made = Chain(
        tmp_path / "site", sections(cluster.connection(), shared, tmp_path.name), instance=disk_instance
    )
    steer(shared, tmp_path.name, seconds=2)
    case = made.deliver()
    made.given = case.folder
    made.reopen()
    return made


def row_of(chain: Chain, key: str) -> ClusterJob | None:
    rows = chain.site.ledger.jobs.all(HOST, key)
    return rows[-1] if rows else None


def leased(chain: Chain, key: str, shared: Path, name: str) -> bool:
    return chain.site.ledger.leases.get(key) is not None


def reserved(chain: Chain, key: str, shared: Path, name: str) -> bool:
    return row_of(chain, key) is not None


def staged(chain: Chain, key: str, shared: Path, name: str) -> bool:
    return any((shared / name).glob("*/*/*/MANIFEST.sha256"))


def submitted(chain: Chain, key: str, shared: Path, name: str) -> bool:
    return any((shared / name).glob("*/*/*/job.id"))


def noted(chain: Chain, key: str, shared: Path, name: str) -> bool:
    lease = chain.site.ledger.leases.get(key)
    return lease is not None and lease.job_id is not None


def running(chain: Chain, key: str, shared: Path, name: str) -> bool:
    return bool(traced(shared, name))


def ended(chain: Chain, key: str, shared: Path, name: str) -> bool:
    row = row_of(chain, key)
    return row is not None and row.state.ended


def cleared(chain: Chain, key: str, shared: Path, name: str) -> bool:
    row = row_of(chain, key)
    return row is not None and row.removed_at is not None


@pytest.mark.parametrize(
    "step",
    [leased, reserved, staged, submitted, noted, running, ended, cleared],
    ids=lambda step: step.__name__,
)
def test_a_worker_killed_at_a_step_is_followed_by_one_that_goes_on(
    step: Callable[[Chain, str, Path, str], bool],
    chain: Chain,
    cluster: Any,
    shared: Path,
    tmp_path: Path,
) -> None:
    case, outcome = chain.run_intake()
    assert outcome.success
    key, name = beam_key(case, 2), tmp_path.name
    folder = tmp_path / "dagster"
    chain.instance.add_dynamic_partitions("beam", [key])
    with worker_of(chain, folder, "beam", key) as worker:

        def reached() -> bool:
            assert worker.poll() is None, (chain.folder / "worker.log").read_text()[-3000:]
            return bool(step(chain, key, shared, name))

        wait_for(reached, "the step at which the worker dies")
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    if step in (noted, cleared):
        # The code server has seen the death; in the other cases only the heartbeat tells of it.
        (run,) = chain.instance.get_runs(dg.RunsFilter(job_name="beam"))
        chain.instance.report_run_failed(run)
    killed_in = chain.site.ledger.progress.get(key)
    print("killed while", killed_in.phase if killed_in else "before anything was reported")
    with worker_of(chain, folder, "beam", key) as worker:
        assert worker.wait(150) == 0, (chain.folder / "worker.log").read_text()[-3000:]
    wait_for(lambda: [j for j in jobs_of_root(cluster, shared / name) if j[1] == "COMPLETED"], "accounting")
    jobs = jobs_of_root(cluster, shared / name)
    assert [state for _, state, _ in jobs] == ["COMPLETED"], jobs
    assert [what for what, *_ in traced(shared, name)] == ["start", "end"]
    assert chain.site.ledger.leases.all() == []
    assert chain.metadata("handed_over", key)["files"] == 2
    row = row_of(chain, key)
    assert row is not None and row.job_id == jobs[0][0]
