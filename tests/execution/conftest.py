"""The folder of a job."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The folder of a job."""
    return tmp_path / "work"
