"""Fixtures of the embedded engine's tests."""

from __future__ import annotations

import pytest

from mqi_dagster.machine import Machine, Machines


@pytest.fixture(scope="session")
def generic(machines: Machines) -> Machine:
    """The commissioned machine of the product."""
    return machines.named("GENERIC")
