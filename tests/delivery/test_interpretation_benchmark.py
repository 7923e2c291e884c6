"""The benchmark runs, compares the values it wrote, and says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_benchmark_finds_all_values_equal_and_stays_in_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.interpret", "--samples", "200000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("equal") == 3 and "DIFFERENT" not in done.stdout
    assert "peak below 150 MB: met" in done.stdout
