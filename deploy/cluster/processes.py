"""Processes of a cluster: found by pid file or by what they carry, ended, stopped and continued."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError
from cluster.layout import LOOPBACK, Layout

_POLL_SECONDS = 0.03
_KILL_SECONDS = 5.0
_PROGRAMS = frozenset({"munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "slurmstepd", "sshd"})


@dataclass(frozen=True, slots=True)
class Seen:
    """A process at the moment of looking."""

    pid: int
    program: str
    state: str
    parent: int

    @property
    def lives(self) -> bool:
        """A zombie does not: whoever has to take its exit code may be late."""
        return self.state not in "ZXx"

    @property
    def frozen(self) -> bool:
        """Whether it is stopped by a signal."""
        return self.state in "Tt"


def seen(pid: int) -> Seen | None:
    """A living process, or None."""
    try:
        before, _, after = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent = after.split()[:2]
    # Debian's alternatives give Slurm's programs a suffix.
    found = Seen(pid, before.partition("(")[2].removesuffix("-wlm"), state, int(parent))
    return found if found.lives else None


def everything() -> dict[int, Seen]:
    """All living processes of this machine."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return {pid: process for pid in pids if (process := seen(pid)) is not None}


def until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Return as soon as a condition holds.

    Raises:
        ClusterError: It does not in time.
    """
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise ClusterError(f"{what}: not within {seconds:g} s")
        time.sleep(_POLL_SECONDS)


def daemon(layout: Layout, name: str) -> Seen | None:
    """A daemon by its pid file, if that process lives and really is this cluster's daemon."""
    try:
        found = seen(int(layout.pid_file(name).read_text().strip()))
    except (FileNotFoundError, ValueError):
        return None
    # After a crash or a reboot the number may belong to somebody else.
    if found is None or found.program != name.partition(".")[0] or not _carries(found, layout):
        return None
    return found


def descendants(pids: Iterable[int], of: dict[int, Seen]) -> set[int]:
    """Everything below some processes, without these."""
    found: set[int] = set()
    level = set(pids)
    while level := {process.pid for process in of.values() if process.parent in level} - found:
        found |= level
    return found


def sessions(layout: Layout) -> list[int]:
    """The processes of sshd that serve a connection, whether or not their listener lives."""
    listener = daemon(layout, "sshd")
    own = listener.pid if listener is not None else None
    return [
        process.pid
        for process in everything().values()
        if process.program == "sshd" and process.pid != own and _carries(process, layout)
    ]


def leftovers(layout: Layout) -> set[int]:
    """All that belongs to a cluster: its daemons, its jobs, and what was started over its SSH."""
    around = everything()
    ours = {pid for pid, process in around.items() if _carries(process, layout) or _inside(pid, layout)}
    ours |= descendants(ours, around)
    # Whoever asks may have come over SSH.
    pid: int | None = os.getpid()
    while pid is not None:
        ours.discard(pid)
        pid = around[pid].parent if pid in around else None
    return ours


def _carries(process: Seen, layout: Layout) -> bool:
    """Whether a program that a cluster consists of was started for this cluster."""
    if process.program not in _PROGRAMS:
        return False
    root = f"{layout.settings.root}/"
    try:
        if root in Path(f"/proc/{process.pid}/cmdline").read_bytes().decode(errors="replace"):
            return True
        if f"SLURM_CONF={layout.slurm_conf}" in _environment(process.pid):
            return True
        # slurmstepd and sshd's sessions overwrite both with their titles; their logs stay open.
        return any(_target(entry).startswith(root) for entry in Path(f"/proc/{process.pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return False
    except PermissionError:
        # Only root can see more, and only root wrote the pid file.
        return True


def _inside(pid: int, layout: Layout) -> bool:
    """Whether a process runs in a job of this cluster, or was started over its SSH.

    SLURM_CONF alone does not say so: any shell may have it from ``env``.
    """
    try:
        environment = _environment(pid)
    except OSError:
        return False
    return f"SLURM_CONF={layout.slurm_conf}" in environment and any(
        entry.startswith("SLURM_JOB_ID=")
        or (entry.startswith("SSH_CONNECTION=") and entry.endswith(f" {LOOPBACK} {layout.ssh_port}"))
        for entry in environment
    )


def _environment(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to all that still exist."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def gone(pids: Collection[int]) -> bool:
    """Whether none of them lives."""
    return all(seen(pid) is None for pid in pids)


def end(pids: Collection[int], seconds: float) -> None:
    """Ask processes to end, and force those that do not in time.

    Args:
        pids: All are asked at once.
        seconds: Between asking and forcing; 0 forces at once.

    Raises:
        ClusterError: One of them cannot be ended.
    """
    if seconds > 0:
        send(pids, signal.SIGTERM)
        with contextlib.suppress(ClusterError):
            until(lambda: gone(pids), "end", seconds)
    left = [pid for pid in pids if seen(pid) is not None]
    send(left, signal.SIGKILL)
    until(lambda: gone(left), f"death of {len(left)} processes", _KILL_SECONDS)


def sweep(layout: Layout) -> None:
    """Kill everything that belongs to a cluster, by whatever way it lost its daemon.

    Raises:
        ClusterError: Something lives on.
    """

    def swept() -> bool:
        # Again each time: a process may have started another one between the list and the signal.
        left = leftovers(layout)
        send(left, signal.SIGKILL)
        return not left

    until(swept, "death of every process of the cluster", _KILL_SECONDS)
