"""One real cluster for all tests of this folder, and a bench on it for each."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.slurm_cluster import running_cluster
from tests.slurm.beams import Bench, live_jobs, make_shared
from tests.slurm.wire import Gate
from tests.waiting import wait_for


@pytest.fixture(scope="session")
def whole_cluster() -> Iterator[Any]:
    """A cluster of two nodes with four simulated GPUs each, with accounting."""
    # A short message timeout: a frozen controller costs a test that long.
    with running_cluster(message_timeout=4, min_job_age=20, kill_wait=2, slurmd_timeout=20) as started:
        yield started


@pytest.fixture
def cluster(whole_cluster: Any) -> Iterator[Any]:
    """The cluster with every daemon up and an empty queue, before and after the test."""
    whole_cluster.start()
    yield whole_cluster
    whole_cluster.start()
    whole_cluster.slurm("scancel", "--me")
    whole_cluster.slurm("scancel", f"--user={whole_cluster.settings.user}")
    wait_for(lambda: not live_jobs(whole_cluster), "an empty queue")


@pytest.fixture(scope="session")
def shared(whole_cluster: Any) -> Iterator[Path]:
    """A folder of the jobs' account, beside the cluster's own."""
    base = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="mqw"))
    base.chmod(0o755)
    yield make_shared(base / "shared", whole_cluster.settings.user)
    shutil.rmtree(base)


@pytest.fixture
def bench(cluster: Any, shared: Path, tmp_path: Path) -> Callable[..., Bench]:
    """Makes benches on the cluster."""

    def make(**changes: Any) -> Bench:
        return Bench(tmp_path, cluster.connection(), shared, **changes)

    return make


@pytest.fixture
def gate(cluster: Any, tmp_path: Path) -> Iterator[Gate]:
    """A gate in front of the cluster's sshd."""
    made = Gate(cluster.connection().port, cluster.connection().known_hosts, tmp_path)
    yield made
    made.close()
