"""Login nodes whose Slurm is a fake, one for each shell that may be a node's ``sh``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.naming import JobFolder
from mqi_dagster.settings import Host
from tests.hpc.hpc_cases import make_folder
from tests.hpc.login_node import LoginNode


@pytest.fixture(params=["dash", "bash"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> LoginNode:
    """A login node with one of the shells."""
    shell = shutil.which(request.param)
    if shell is None:
        pytest.skip(f"{request.param} is not installed here")
    return LoginNode(tmp_path / "node", shell)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of all jobs on the cluster."""
    made = tmp_path / "shared" / "moqui"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def folder(root: Path) -> JobFolder:
    """Where the job's folder belongs."""
    return make_folder(root)


@pytest.fixture
def nowhere() -> Connection:
    """A connection that is never opened."""
    host = {"host": "127.0.0.1", "user": "u", "key_file": "k", "known_hosts": "h"}
    return Connection(Host.model_validate(host))
