"""A plan for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dose.dose_cases import write_plan


@pytest.fixture
def plan_path(tmp_path: Path) -> Path:
    """A small RT Ion Plan."""
    return write_plan(tmp_path / "plan.dcm")
