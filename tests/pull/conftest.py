"""A site with workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pull.lab import Lab

MakeLab = Callable[..., Lab]


@pytest.fixture
def make_lab(tmp_path: Path) -> Iterator[MakeLab]:
    """Makes a site with workers; what was started is ended."""
    made: list[Lab] = []

    def make(pull: dict[str, Any] | None = None, settings_file: Path | None = None) -> Lab:
        made.append(Lab(tmp_path / f"lab{len(made)}", pull, settings_file))
        return made[-1]

    yield make
    for lab in made:
        lab.close()


@pytest.fixture(scope="module", params=["https", "folder"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Lab, dict[str, Any]]]:
    """A site whose server runs, and what its workers are told of the way to it."""
    folder = tmp_path_factory.mktemp("served")
    shared = folder / "shared"
    shared.mkdir(mode=0o770)
    by_folder = request.param == "folder"
    lab = Lab(folder, {"folder": str(shared)} if by_folder else None)
    lab.serve()
    yield lab, {"server": None, "folder": str(shared)} if by_folder else {}
    lab.close()


@pytest.fixture
def way(served: tuple[Lab, dict[str, Any]]) -> Iterator[tuple[Lab, dict[str, Any]]]:
    """The same, with no worker left at the end."""
    yield served
    served[0].end_workers()


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    """A site with workers."""
    return make_lab()
