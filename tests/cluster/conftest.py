"""One cluster with accounting for all tests that need it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster import Cluster

from tests.cluster.slurm_cluster import running_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of two nodes with accounting."""
    with running_cluster() as started:
        yield started
