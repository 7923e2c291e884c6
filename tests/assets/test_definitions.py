"""What the code location declares is what was agreed upon, and Dagster itself can load it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from mqi_dagster.definitions import build_definitions
from mqi_dagster.resources.site import SETTINGS_VARIABLE, Site
from tests.assets.definitions_snapshot import SNAPSHOT, snapshot

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_declared_is_what_the_snapshot_says(tmp_path: Path) -> None:
    """Where this fails and the change is wanted: `make snapshot`, and the diff is what a reviewer reads."""
    declared = snapshot(build_definitions(Site(tmp_path / "mqi.yaml")))
    assert declared.splitlines() == SNAPSHOT.read_text(encoding="utf-8").splitlines()


def test_whatever_is_asked_for_is_there(tmp_path: Path) -> None:
    dg.Definitions.validate_loadable(build_definitions(Site(tmp_path / "mqi.yaml")))


def test_an_import_reads_nothing_of_the_site(tmp_path: Path) -> None:
    """Dagster builds the definitions when it loads the code location, and says then what is wrong."""
    settings = tmp_path / "mqi.yaml"
    settings.write_text("site: {timezone: Mars/Base}")
    environment = {**os.environ, SETTINGS_VARIABLE: str(settings)}
    program = """
import mqi_dagster.definitions as module
try:
    module.defs()
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert "Mars/Base" in done.stdout, done.stderr
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_dagster_s_own_check_of_a_checkout_passes(tmp_path: Path) -> None:
    """As `dagster definitions validate` says it, which reads [tool.dagster] of pyproject.toml."""
    environment = {**os.environ, "DAGSTER_HOME": "", SETTINGS_VARIABLE: str(tmp_path / "mqi.yaml")}
    program = Path(sys.executable).with_name("dagster")
    done = subprocess.run(
        [str(program), "definitions", "validate"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
