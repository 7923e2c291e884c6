"""`make demo-slurm`: one job a beam on a real cluster, and bit for bit the doses of a local run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqi_dagster.embedded_engine.install import Installation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
MQI = Path(sys.executable).with_name("mqi")
HISTORIES = "20000"


def ran(*argv: object, timeout: float = 400) -> str:
    """What a command that has to succeed prints."""
    done = subprocess.run([str(part) for part in argv], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def root() -> Iterator[Path]:
    """Where the demo's cluster lies, with its jobs beside it."""
    if os.geteuid() != 0:
        pytest.skip("a real cluster needs root")
    made = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="mqd"))
    yield made
    ran(sys.executable, DEPLOY / "cluster", "clean", "--root", made)
    shutil.rmtree(made.with_name(f"{made.name}-work"), ignore_errors=True)


def doses(handover: Path) -> dict[str, str]:
    """SHA-256 of every RT Dose by beam and name; the case has another pseudonym in another site."""
    return {
        f"{path.parent.name.rpartition('__')[2]}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(handover.glob("*/*/*.dcm"))
    }


def test_the_demo_on_slurm_gives_the_doses_of_a_local_run(
    root: Path, tmp_path: Path, mcsquare: Installation
) -> None:
    site = tmp_path / "site"
    try:
        said = ran(sys.executable, DEPLOY / "demo_slurm.py", site, root, "--histories", HISTORIES)
        assert "handed over" in said
        jobs = json.loads(ran(MQI, "cluster", "jobs", "--site", site, "--all", "--json"))
        assert [job["state"] for job in jobs] == ["succeeded"] * 3
        assert len({job["job"] for job in jobs}) == 3
        accounting = said.partition("sacct")[2]
        for job in jobs:
            (line,) = (line for line in accounting.splitlines() if f"moqui_{job['beam']} " in line)
            assert line.split()[0] == job["job"] and " COMPLETED " in line
        (inbox,) = (site / "inbox").iterdir()
        ran(MQI, "case", "run", inbox, "--out", tmp_path / "local", "--histories", HISTORIES)
        on_cluster = doses(site / "handover")
        assert len(on_cluster) == 6
        assert on_cluster == doses(tmp_path / "local" / "handover")
        again = ran(sys.executable, DEPLOY / "demo_slurm.py", site, root, "--histories", HISTORIES)
        assert "the case of an earlier demo" in again
        assert len(json.loads(ran(MQI, "cluster", "jobs", "--site", site, "--all", "--json"))) == 3
    finally:
        ran(MQI, "stop", "--site", site)
