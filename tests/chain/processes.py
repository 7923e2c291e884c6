"""Worker processes, and who still lives below a folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chain.chain import Chain

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def worker_of(chain: Chain, instance_folder: Path, job: str, key: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run in a process of its own, ended with the block at the latest."""
    assert chain.given is not None
    arguments = [chain.settings_file, chain.given, instance_folder, job, key]
    log = chain.folder / "worker.log"
    with log.open("wb") as stream:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.chain.worker", *map(str, arguments)],
            cwd=ROOT,
            stdout=stream,
            stderr=stream,
        )
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


def descendants(ancestor: int) -> dict[int, str]:
    """Living processes, zombies left out, that a process started, directly or not: pid and command line."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if fields[0] not in "ZX":
            parents[int(entry.name)] = int(fields[1])
            commands[int(entry.name)] = command
    found = {ancestor}
    while grown := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= grown
    return {pid: commands[pid] for pid in found - {ancestor}}


def alive(processes: dict[int, str]) -> dict[int, str]:
    """Those of the processes that still live, and are no zombies."""
    found = {}
    for pid, command in processes.items():
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            now = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if state not in "ZX" and now == command:
            found[pid] = command
    return found


def intervals(trace: Path) -> list[tuple[float, float]]:
    """Start and end of every engine of a trace of ``quick.py``, by time."""
    begun: dict[str, float] = {}
    found = []
    for line in trace.read_text().splitlines():
        what, pid, at = line.split()
        if what == "start":
            begun[pid] = float(at)
        else:
            found.append((begun.pop(pid), float(at)))
    assert not begun
    return sorted(found)
