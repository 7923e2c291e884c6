"""Seeded sites, on disk where several processes open them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqi_dagster.operations.instance import open_instance, write_instance
from tests.worklist.seeded import Seeded


@pytest.fixture
def seeded(empty_instance: Path, tmp_path: Path) -> Iterator[Seeded]:
    """A site without a case, whose services seem to live.

    Its limits are 10 runs, 4 of one case, 3 simulations.
    """
    home = tmp_path / "site" / "dagster"
    home.parent.mkdir()
    shutil.copytree(empty_instance, home)
    made = Seeded(tmp_path / "site", None)
    write_instance(made.site.settings)
    with open_instance(made.site.settings) as instance:
        made.instance = instance
        made.ledger()
        with made.served():
            yield made
    made.site.ledger.close()
