"""The benchmark of the way to a cluster runs, in its smallest form, and says how its targets went."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGET = re.compile(r"target .*: (?:met|missed) \(\d+\.\d\d\)")


@pytest.mark.slow
def test_the_benchmark_moves_looks_and_submits_and_names_its_targets() -> None:
    if os.geteuid() != 0:
        pytest.skip("a real cluster needs root")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.hpc", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 2 and "missing " in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith("loopback SSH, load ")
    assert [line for line in said[-2:] if not TARGET.fullmatch(line)] == []
    titles = [line.partition(" (times")[0] for line in said if " (times: " in line]
    assert titles == [
        "10 CSVs up",
        "10 CSVs + 5 MB up",
        "10 CSVs + 5 MB down",
        "5 MB down (a raw dose)",
        "a look at all jobs",
        "submission of 3 jobs",
    ]
    assert "10 pending + 10 just finished: ours" in done.stdout
