"""The folder of a job, and an executor for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqi_dagster.execution.local import LocalExecutor


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The folder of a job."""
    return tmp_path / "work"


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[LocalExecutor]:
    """A local executor; whatever a failed test left running is ended."""
    made = LocalExecutor(tmp_path / "state")
    yield made
    for child in made._children.values():
        if child.process.returncode is None:
            os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()
