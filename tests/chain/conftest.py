"""Fixtures of the chain's tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

# The engine and Dagster's own records say nothing here that the tests need.
os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")


@pytest.fixture(autouse=True)
def plain_and_quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures in the metadata and a short poll, except where a test asks for ``as_in_production``."""
    if "as_in_production" in request.fixturenames:
        return
    from mqi_dagster.assets import figures
    from mqi_dagster.execution.local import LocalExecutor

    monkeypatch.setattr(figures, "of_interpretation", lambda *arguments: {})
    monkeypatch.setattr(figures, "of_rt_dose", lambda *arguments: {})
    monkeypatch.setattr(LocalExecutor, "poll_seconds", 0.05)


@pytest.fixture
def as_in_production() -> None:
    """Leaves pictures and poll times as they are."""
