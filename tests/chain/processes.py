"""Worker processes, and who still lives below a folder."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from chain import Chain


def start_worker(chain: Chain, instance_folder: Path, job: str, key: str) -> subprocess.Popen[str]:
    """A run in a process of its own."""
    assert chain.given is not None
    arguments = [chain.settings_file, chain.given, instance_folder, job, key]
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("worker.py")), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something is true."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.02)


def living_below(folder: Path) -> dict[int, str]:
    """Processes, zombies left out, that work in a folder or below: pid and command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            here = (entry / "cwd").readlink().is_relative_to(folder)
        except OSError:
            continue
        if here and state not in "ZX":
            found[int(entry.name)] = command
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
