"""Processes of this machine: who they are, whether they live, and ending them with all they started.

A process is named ``<pid>:<start time>``, so that a pid that was given out again is not mistaken for it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mqi_dagster.errors import ConfigurationError, InfrastructureError
from mqi_dagster.tied import tied_command

_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME", "LD_LIBRARY_PATH")
_POLL_SECONDS = 0.02
_CONFIRM_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """What the kernel says of a process."""

    state: str
    parent: int
    group: int
    session: int
    started: int
    """Ticks of the kernel from its boot to the start of the process."""

    @property
    def lives(self) -> bool:
        """Whether it is more than a zombie."""
        return self.state not in "ZXx"


def stat_of(pid: int) -> ProcessStat | None:
    """A process; None where there is none of that pid."""
    try:
        # The name in parentheses may hold blanks and parentheses of its own: fields count from the last one.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, group, session = fields[0], *(int(field) for field in fields[1:4])
    return ProcessStat(state=state, parent=parent, group=group, session=session, started=int(fields[19]))


def process_id(pid: int) -> str:
    """The name of a process that exists.

    Raises:
        InfrastructureError: There is no such process.
    """
    stat = stat_of(pid)
    if stat is None:
        raise InfrastructureError("the process ended before it could be named")
    return f"{pid}:{stat.started}"


def _parsed(job_id: str) -> tuple[int, int]:
    pid, _, started = job_id.partition(":")
    if not (pid.isdigit() and started.isdigit()):
        raise InfrastructureError("the ledger's job is no process of this machine")
    return int(pid), int(started)


def living_members(job_id: str) -> list[int]:
    """Pids of the process and of everything in its process group and session that is still alive.

    Raises:
        InfrastructureError: The name is not that of a process.
    """
    leader, started = _parsed(job_id)
    stat = stat_of(leader)
    # The pid is only given out again once nothing is left of the group and the session it names.
    if stat is not None and stat.started != started:
        return []
    living = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 - thousands of entries, only their names matter
        if not entry.isdigit():
            continue
        member = stat_of(int(entry))
        if member is not None and member.lives and leader in (int(entry), member.group, member.session):
            living.append(int(entry))
    return living


def process_alive(job_id: str) -> bool:
    """Whether anything of a job lives on this machine; a zombie does not.

    Raises:
        InfrastructureError: The name is not that of a process.
    """
    return bool(living_members(job_id))


def ended_by_signal(job_id: str) -> str | None:
    """The name of the signal that has ended a child of this process; None where nobody knows of one."""
    try:
        pid, status = os.waitpid(int(job_id.split(":")[0]), os.WNOHANG)
    except ChildProcessError:
        return None
    return signal.Signals(os.WTERMSIG(status)).name if pid and os.WIFSIGNALED(status) else None


def descends_from(pid: int, ancestors: Collection[int]) -> bool:
    """Whether a process is one of these or was started by one, however far back."""
    while pid not in ancestors:
        stat = stat_of(pid)
        if stat is None or stat.parent <= 0:
            return False
        pid = stat.parent
    return True


def end_group(job_id: str, grace_seconds: float) -> None:
    """End a process and everything in its group and session, and return when all of it has ended.

    Args:
        job_id: Name of the process.
        grace_seconds: Time between asking (TERM) and forcing (KILL); 0 forces at once.

    Raises:
        InfrastructureError: Something of it lives on, for example because it hangs in the kernel.
    """
    if grace_seconds > 0:
        _signal(living_members(job_id), signal.SIGTERM)
        limit = time.monotonic() + grace_seconds
        while living_members(job_id) and time.monotonic() < limit:
            time.sleep(_POLL_SECONDS)
    limit = time.monotonic() + _CONFIRM_SECONDS
    while living := living_members(job_id):
        if time.monotonic() > limit:
            raise InfrastructureError(f"{len(living)} processes of a job cannot be ended")
        # Again each time: a process may have started another one between the list and the signal.
        _signal(living, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
        except PermissionError:
            raise InfrastructureError("a process of a job belongs to another user") from None


def resolve_program(name: str) -> Path:
    """The program of a command: beside this Python first, then on the PATH.

    Raises:
        ConfigurationError: There is no such program on this machine, or it is named relative to a folder.
    """
    if "/" in name and not name.startswith("/"):
        raise ConfigurationError(f"the program {Path(name).name!r} must be a bare name or an absolute path")
    if "/" in name:
        found: str | None = name if os.access(name, os.X_OK) and Path(name).is_file() else None
    else:
        found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise ConfigurationError(f"the program {Path(name).name!r} is not on this machine or cannot be run")
    return Path(found).absolute()


def inherited_environment() -> dict[str, str]:
    """The few variables of this process that an engine gets."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}


def ask(
    command: Sequence[str], *, seconds: float = 60.0, directory: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a short command to its end, with the few variables that an engine gets and nothing to read.

    Raises:
        ConfigurationError: The program is not on this machine.
        OSError: It cannot be started.
        subprocess.TimeoutExpired: It takes longer.
    """
    return subprocess.run(
        [str(resolve_program(command[0])), *command[1:]],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
        cwd=directory,
        env=inherited_environment(),
        stdin=subprocess.DEVNULL,
    )


def start_tied(
    argv: Sequence[str],
    *,
    directory: Path,
    environment: Mapping[str, str],
    stdout: IO[bytes] | int,
    stderr: IO[bytes] | int,
) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own that the kernel ends when this thread ends.

    Args:
        argv: Program and arguments.
        directory: Its working directory.
        environment: Its environment, in addition to the few inherited variables.
        stdout: Where its output goes.
        stderr: Where its errors go.

    Raises:
        ConfigurationError: The program is not on this machine.
        InfrastructureError: The machine cannot start another process.
    """
    command = tied_command(str(resolve_program(argv[0])), *argv)
    try:
        return subprocess.Popen(
            command,
            cwd=directory,
            env={**inherited_environment(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    except OSError as error:
        raise InfrastructureError(
            f"a process cannot be started: {error.strerror or type(error).__name__}"
        ) from None


def exit_code(process: subprocess.Popen[bytes]) -> int | None:
    """The exit code of a started program, after ending whatever it left behind; None while it runs.

    Returns:
        The code, negative for the signal that ended it.

    Raises:
        InfrastructureError: Somebody else has taken the exit code, or something of it cannot be ended.
    """
    if process.returncode is not None:
        return process.returncode
    try:
        # Seen but not yet taken: the pid stays reserved while the rest of its group is ended.
        seen = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        raise InfrastructureError("the exit code of a process is lost") from None
    if seen is None:
        return None
    end_group(process_id(process.pid), grace_seconds=0)
    return process.wait()
