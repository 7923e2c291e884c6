"""Commands on a host: an argv or one of the project's own scripts, never a string that was put together."""

from __future__ import annotations

import functools
import re
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import BinaryIO, cast

import paramiko

from mqi_dagster.execution.scrub import Scrubber
from mqi_dagster.hpc.connection import DEAD, Connection
from mqi_dagster.hpc.errors import (
    CommandTimeoutError,
    ConnectionLostError,
    DiskFullError,
    RemoteCommandError,
)
from mqi_dagster.hpc.session import request
from mqi_dagster.hpc.standard_input import StandardInput

_READ = 1 << 16
_MOST_OUTPUT = 64 << 20
_SAID = 400
_NO_PATHS = Scrubber()
_FULL = re.compile(rb"No space left on device|Disk quota exceeded|(?:printf|echo): I/O error")
"""How commands say it in English; the last is all that dash says."""

_WITHOUT_WISHES = """\
for name in $(awk 'BEGIN { for (name in ENVIRON)
  if (name ~ /^(SLURM|SBATCH|SQUEUE|SACCT|SCANCEL|SINFO|SCONTROL)_[A-Za-z0-9_]+$/) print name }' </dev/null)
do
  case $name in SLURM_CONF | SLURM_CONF_SERVER | SLURM_JWT | SLURM_SACK_*) ;; *) unset -v "$name" ;; esac
done
exec "$@"
"""
"""An account may have options of Slurm's commands in its environment (`SLURM_CLUSTERS`, `SQUEUE_FORMAT`):
with them a command asks another cluster or prints something else. How the controller is reached stays."""

Feed = Callable[[BinaryIO], None]
"""Writes a command's standard input."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command left."""

    exit_code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        """Its output as text."""
        return self.out.decode("utf-8", "replace")

    @property
    def complaint(self) -> str:
        """The end of what it said on its standard error, without paths."""
        return _NO_PATHS.text(self.err.decode("utf-8", "replace").strip()[-_SAID:])


def remote_argv(argv: Sequence[str]) -> list[str]:
    """A command as it goes to a host: without what the account's environment wants of Slurm's commands."""
    return ["sh", "-c", _WITHOUT_WISHES, "mqi", *argv]


def script_argv(name: str, arguments: Sequence[str]) -> list[str]:
    """The command of one of the project's scripts, in the C locale.

    An account may have a language of its own, and tar then other names.
    """
    return ["env", "LC_ALL=C", "sh", "-c", script(name), f"mqi-{name}", *arguments]


@functools.cache
def script(name: str) -> str:
    """The text of one of the project's scripts."""
    return resources.files("mqi_dagster.hpc").joinpath("scripts", f"{name}.sh").read_text(encoding="utf-8")


def run(
    connection: Connection,
    argv: Sequence[str],
    *,
    feed: bytes | Feed | None = None,
    timeout: float | None = None,
) -> Answer:
    """Run a command on the host, and take its output while it runs.

    Args:
        connection: To the host.
        argv: Program and arguments; each reaches the program as it is.
        feed: Its standard input, or what writes it.
        timeout: Limit for the whole call [s]; the host's where None.

    Raises:
        ConnectError: Nothing was sent.
        ConnectionLostError: The connection died, or no answer came in time (`CommandTimeoutError`): it may
            have run, and may go on.
    """
    limit = timeout or connection.host.call_seconds
    end = time.monotonic() + limit
    with connection.session(limit) as channel:
        try:
            channel.settimeout(limit)
            request(channel, limit, lambda: channel.exec_command(shlex.join(remote_argv(argv))))
            errors = bytearray()
            drain = threading.Thread(target=_drain, args=(channel, errors), daemon=True)
            drain.start()
            _write(channel, feed, end)
            out = _read(channel, end)
            drain.join(max(0.0, end - time.monotonic()))
            if not channel.status_event.wait(max(0.0, end - time.monotonic())):
                raise TimeoutError
            code = channel.exit_status
            if code == -1:
                # The connection is gone and the status with it, or the host has ended the command.
                if _alive(channel):
                    raise ConnectionLostError("the host has ended a command before it was done")
                raise EOFError("the session ended in the middle of the command")
            return Answer(code, out, bytes(errors))
        except TimeoutError:
            connection.drop(channel.get_transport())
            raise CommandTimeoutError(f"no answer within {limit:g} s") from None
        except DEAD as error:
            connection.drop(channel.get_transport())
            raise ConnectionLostError(f"the connection was lost during a command: {_text(error)}") from None


def run_script(
    connection: Connection,
    name: str,
    *arguments: str,
    feed: bytes | Feed | None = None,
    timeout: float | None = None,
) -> Answer:
    """Run one of the project's scripts on the host with positional arguments; see `run` and `script_argv`."""
    return run(connection, script_argv(name, arguments), feed=feed, timeout=timeout)


def is_full(answer: Answer) -> bool:
    """Whether a command complains of a disk or a quota that takes no more."""
    return _FULL.search(answer.err) is not None


def require(answer: Answer, what: str) -> Answer:
    """The answer of a command that has to succeed.

    Raises:
        DiskFullError: The host has no space left.
        RemoteCommandError: Any other failure.
    """
    if answer.exit_code == 0:
        return answer
    if is_full(answer):
        raise DiskFullError(f"{what}: the host's disk or quota is full")
    raise RemoteCommandError(
        f"{what}: exit code {answer.exit_code}: {answer.complaint or 'no word'}", answer.exit_code
    )


def _drain(channel: paramiko.Channel, into: bytearray) -> None:
    try:
        while part := channel.recv_stderr(_READ):
            if len(into) < _MOST_OUTPUT:
                into += part
    except DEAD:
        return


def _write(channel: paramiko.Channel, feed: bytes | Feed | None, end: float) -> None:
    stream = StandardInput(channel, end)
    try:
        if callable(feed):
            feed(cast("BinaryIO", stream))
        elif feed is not None:
            stream.write(feed)
        stream.end()
    except TimeoutError:
        raise
    except OSError:
        # The command has ended before it read everything: its exit code and words say why.
        if not _alive(channel):
            raise


def _read(channel: paramiko.Channel, end: float) -> bytes:
    out = bytearray()
    while True:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        channel.settimeout(left)
        part = channel.recv(_READ)
        if not part:
            return bytes(out)
        if len(out) + len(part) > _MOST_OUTPUT:
            raise EOFError("the command prints without an end")
        out += part


def _alive(channel: paramiko.Channel) -> bool:
    # The thread that reads the socket needs a moment to notice that it was closed.
    for _ in range(20):
        if not channel.get_transport().is_active():
            return False
        time.sleep(0.005)
    return True


def _text(error: BaseException) -> str:
    return _NO_PATHS.text(str(error)) or type(error).__name__
