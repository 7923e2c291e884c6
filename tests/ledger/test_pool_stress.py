"""Eight processes of two time zones fight for three GPUs, in both databases: never two owners of one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqi_dagster.ledger.database import sqlite_url
from mqi_dagster.ledger.ledger import Ledger
from tests.ledger.ledger_rows import waiting
from tests.ledger.pool_holders import GPUS, PROCESSES, hold_all, owners_by_log

MEMORY = Path("/dev/shm")
ZONES = ("Asia/Seoul", "UTC")


@pytest.fixture
def unflushed(url: str) -> Iterator[str]:
    """An empty database without a disk's flush at each of its 24,000 commits: nothing here needs it."""
    if not url.startswith("sqlite") or not os.access(MEMORY, os.W_OK):
        yield url
        return
    folder = Path(tempfile.mkdtemp(prefix="mqi-pool.", dir=MEMORY))
    try:
        yield sqlite_url(folder / "ledger.db")
    finally:
        shutil.rmtree(folder)


def fight(url: str, times: int, log: Path) -> None:
    seconds = hold_all(url, ZONES, times, log)
    held = owners_by_log(log)
    assert sum(held.values()) == PROCESSES * times
    assert set(held) == {f"GPU-{index}" for index in range(GPUS)}
    ledger = Ledger.open(url)
    assert ledger.leases.all() == []
    assert waiting(ledger) == []
    print(f"{PROCESSES} x {times} acquisitions on {GPUS} GPUs: {seconds:.1f} s")


def test_no_gpu_has_two_owners(unflushed: str, tmp_path: Path) -> None:
    fight(unflushed, 10, tmp_path / "log")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_gpu_has_two_owners_in_8000_acquisitions(unflushed: str, tmp_path: Path) -> None:
    fight(unflushed, 1000, tmp_path / "log")


def test_the_judge_sees_a_second_owner(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("1 acquire GPU-0 7\n2 acquire GPU-0 8\n3 release GPU-0 7\n4 release GPU-0 8\n")
    with pytest.raises(AssertionError, match="two owners"):
        owners_by_log(log)
