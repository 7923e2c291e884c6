"""Fixtures that every room's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqi_dagster.engine.embedded.install import Installation, install_engine
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.machine import Machines, read_machines


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real input beside the checkout; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "cases").is_dir():
        pytest.skip("the folder with real cases is not here")
    return folder


@pytest.fixture(scope="session")
def machines() -> Machines:
    """The machines of the product's own machine files."""
    return read_machines(Path(__file__).resolve().parents[1] / "mqi_dagster" / "config" / "machines")


@pytest.fixture(scope="session")
def mcsquare() -> Installation:
    """A real MCsquare in the user's cache; tests that need it skip where no package index answers."""
    try:
        return install_engine()
    except InfrastructureError as error:
        pytest.skip(f"MCsquare cannot be fetched: {error}")
