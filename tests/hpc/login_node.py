"""A login node in a folder: the project's scripts run here by a real shell, Slurm's commands are fakes.

Each fake notes how it was called, prints what the test has laid down for it, and ends with the code the test
wants. The fake sbatch gives out the next id, and lets the fake squeue know the job from then on.
"""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from mqi_dagster.hpc.shell import Answer, remote_argv, script_argv

_FAKE = """#!/bin/sh
name=${0##*/}
{ printf '%s' "$name"; for word; do printf ' [%s]' "$word"; done; echo; } >>"$FAKE/calls"
env >"$FAKE/$name.env"
[ ! -e "$FAKE/$name.before" ] || . "$FAKE/$name.before"
cat "$FAKE/$name.out" 2>/dev/null
[ ! -e "$FAKE/$name.err" ] || cat "$FAKE/$name.err" >&2
code=$(cat "$FAKE/$name.code" 2>/dev/null) || code=0
exit "$code"
"""
_SBATCH = """
id=$(($(cat "$FAKE/last" 2>/dev/null || echo 99) + 1))
echo "$id" >"$FAKE/last"
echo "$id" >"$FAKE/sbatch.out"
for word; do case $word in --comment=*) key=${word#--comment=} ;; esac; done
echo "$id|$key|PENDING" >>"$FAKE/squeue.out"
"""
COMMANDS = ("squeue", "sacct", "sbatch", "scancel", "scontrol", "sinfo")


class LoginNode:
    """The node, with its own PATH and HOME.

    Args:
        folder: Where fakes, answers and the home are made.
        shell: Which shell is the node's ``sh``.
    """

    def __init__(self, folder: Path, shell: str = "sh") -> None:
        self.answers = folder / "answers"
        self.home = folder / "home"
        self._bin = folder / "bin"
        self._shell = shell
        self.account: dict[str, str] = {}
        """What the account's own environment adds."""
        for made in (self.answers, self.home, self._bin):
            made.mkdir(parents=True)
        for name in COMMANDS:
            self.install(name, _FAKE)
        self.tell("squeue", "JOBID|COMMENT|STATE\n")
        self.tell("sbatch", before=_SBATCH)

    def install(self, name: str, text: str) -> None:
        """Put a program first on the PATH."""
        (self._bin / name).write_text(text)
        (self._bin / name).chmod(0o755)

    def tell(
        self, name: str, out: str = "", *, err: str = "", code: int = 0, before: str | None = None
    ) -> None:
        """Lay down what a fake says."""
        (self.answers / f"{name}.out").write_text(out)
        (self.answers / f"{name}.err").write_text(err)
        (self.answers / f"{name}.code").write_text(str(code))
        if before is not None:
            (self.answers / f"{name}.before").write_text(before)

    def know(self, *lines: str) -> None:
        """Lay down the jobs of the queue."""
        self.tell("squeue", "".join(f"{line}\n" for line in ("JOBID|COMMENT|STATE", *lines)))

    def calls(self, name: str) -> list[str]:
        """How a fake was called."""
        noted = self.answers / "calls"
        lines = noted.read_text().splitlines() if noted.exists() else []
        return [line for line in lines if line.split(" ")[0] == name]

    def forget_calls(self) -> None:
        """Begin a new list of calls."""
        (self.answers / "calls").unlink(missing_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """What a login shell there has."""
        return {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "FAKE": str(self.answers),
            "LC_ALL": "C.UTF-8",
            **self.account,
        }

    def environment_of(self, name: str) -> dict[str, str]:
        """The environment of a fake's latest call."""
        lines = (self.answers / f"{name}.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def command(self, name: str, arguments: Sequence[str]) -> list[str]:
        """The command line of one of the project's scripts, as it goes over SSH."""
        env, locale, _, *words = script_argv(name, arguments)
        return remote_argv([env, locale, self._shell, *words])

    def run(self, name: str, *arguments: str, feed: bytes = b"") -> Answer:
        """Run one of the project's scripts."""
        return self._carry_out(self.command(name, arguments), feed)

    def run_command(self, connection: object, argv: Sequence[str], **_: object) -> Answer:
        """In the place of `mqi_dagster.hpc.shell.run`."""
        return self._carry_out(remote_argv(argv))

    def _carry_out(self, argv: Sequence[str], feed: bytes = b"") -> Answer:
        done = subprocess.run(
            argv,
            input=feed,
            env=self.environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def run_script(
        self,
        connection: object,
        name: str,
        *arguments: str,
        feed: bytes | Callable[[BinaryIO], None] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """In the place of `mqi_dagster.hpc.shell.run_script`."""
        if callable(feed):
            stream = io.BytesIO()
            feed(stream)
            feed = stream.getvalue()
        return self.run(name, *arguments, feed=feed or b"")
