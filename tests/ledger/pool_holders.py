"""Processes that take and give back GPUs as fast as they can, and a log by which they are judged."""

from __future__ import annotations

import functools
import os
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from mqi_dagster.ledger.leases import Lease, Need
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.slots import Slot, SlotKind
from tests.ledger.ledger_doubles import Forked
from tests.waiting import wait_for

GPUS, PROCESSES = 3, 8
STALE, WAIT = timedelta(seconds=60), timedelta(seconds=5)
LIMIT_SECONDS = 1100.0


def _hold(url: str, zone: str, me: int, times: int, log: Path) -> None:
    os.environ["TZ"] = zone
    time.tzset()
    ledger = Ledger.open(url)
    stream = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(what: str, lease: Lease) -> None:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        os.write(stream, f"{now} {what} {lease.slots[0].uuid} {os.getpid()}\n".encode())

    for number in range(times):
        beam, owner = f"P{me}.fx0001__b{number:02d}", f"run-{me}-{number}"
        need = Need(SlotKind.GPU, "here")

        def taken(beam: str = beam, owner: str = owner, need: Need = need) -> Lease | None:
            answer = ledger.leases.acquire(beam, owner, need, stale_after=STALE, wait=WAIT)
            return answer if isinstance(answer, Lease) else None

        # Refusals are what most of the time goes to, and prove nothing: the takings do.
        found = wait_for(taken, f"a GPU after {number} of {times}", LIMIT_SECONDS)
        assert found is not None
        note("acquire", found)
        if number == 0:
            wait_for(functools.partial(_all_taken, ledger, log.with_suffix(".all_taken")), "all GPUs taken")
        note("release", found)
        assert ledger.leases.release(found)


def _all_taken(ledger: Ledger, seen: Path) -> bool:
    """Whether some process has seen every GPU taken: only then is there something to fight for."""
    if not seen.exists() and len(ledger.leases.all()) == GPUS:
        seen.touch()
    return seen.exists()


def hold_all(url: str, zones: Sequence[str], times: int, log: Path) -> float:
    """Let every process take a GPU so many times; the seconds it took.

    Args:
        url: Of the ledger.
        zones: Time zones of the processes, in turn.
        times: Acquisitions of each process.
        log: Gets a line at each acquisition and release.
    """
    ledger = Ledger.open(url)
    ledger.slots.declare("here", [Slot(SlotKind.GPU, index, f"GPU-{index}", 24000) for index in range(GPUS)])
    began = time.monotonic()
    children = [
        Forked(functools.partial(_hold, url, zones[me % len(zones)], me, times, log))
        for me in range(PROCESSES)
    ]
    assert [child.wait() for child in children] == [0] * PROCESSES
    return time.monotonic() - began


def owners_by_log(log: Path) -> Counter[str]:
    """How often each GPU was held, from the log alone; AssertionError where one had two owners at once."""
    lines = sorted(
        (int(moment), what == "acquire", gpu, pid)
        for moment, what, gpu, pid in (line.split() for line in log.read_text().splitlines())
    )
    holders: dict[str, str] = {}
    held: Counter[str] = Counter()
    for moment, acquired, gpu, pid in lines:
        if acquired:
            assert gpu not in holders, f"{gpu} had two owners at {moment}: {holders[gpu]} and {pid}"
            holders[gpu] = pid
            held[gpu] += 1
        else:
            assert holders.pop(gpu, None) == pid, f"{gpu} was given back by {pid}, which did not have it"
    assert holders == {}
    return held
