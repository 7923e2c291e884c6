"""A site under chaos: what keeps its services alive, as systemd does, and where its parts are found."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import dagster as dg
import yaml

from mqi_dagster.execution.processes import process_id
from mqi_dagster.files import write_whole
from tests.services.stack import MQI, SERVICES, Stack

RESTART_SECONDS = 3.0
"""Between the death of a service and its next start."""


def lives(pid: int) -> bool:
    """Whether a process itself lives, whatever it has started."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZXx"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass
class Unit:
    """One service as it was started: what systemd would start again."""

    argv: list[str]
    environment: dict[str, str]
    died: float | None = None
    restarted: list[subprocess.Popen[bytes]] = field(default_factory=list)


class ChaosSite:
    """One site, its cases, and the supervisor of its services.

    Args:
        name: For people.
        stack: The site.
        engines: What the command line of each of its engines holds.
    """

    def __init__(self, name: str, stack: Stack, engines: str) -> None:
        self.name = name
        self.stack = stack
        self.engine_word = engines
        content = yaml.safe_load(stack.settings_file.read_text())
        self.engine: dict[str, Any] = content["engine"]
        self.database: dict[str, Any] = content["database"]
        self.cases: list[str] = []
        self.units: dict[str, Unit] = {}
        self._command: subprocess.Popen[bytes] | None = None

    # Cases

    def deliver(self, seed: int, beams: int) -> None:
        """A case arrives."""
        self.cases.append(self.stack.case_of(self.stack.deliver(seed, beams)))

    def waiting(self) -> list[str]:
        """Cases that have arrived and have no completion marker."""
        done = set(self.stack.markers())
        return [case for case in self.cases if case not in done]

    def receipts(self) -> Iterator[Path]:
        """One for each beam whose results were handed over."""
        return self.stack.handover.glob("*/*/receipt.json")

    def unsuccessful(self) -> list[str]:
        """Every run that has not succeeded, with what Dagster's own records say of it."""
        told = []
        with self.stack.opened() as instance:
            for run in instance.get_runs():
                if run.status is dg.DagsterRunStatus.SUCCESS:
                    continue
                parent_run = f", after {run.parent_run_id}" if run.parent_run_id else ""
                key = run.tags.get("dagster/partition")
                told.append(f"{run.run_id} {run.job_name} {key} {run.status.value}{parent_run}")
                for entry in instance.all_logs(run.run_id):
                    event = entry.dagster_event
                    if event is not None and (event.is_failure or event.is_engine_event):
                        when = datetime.fromtimestamp(entry.timestamp, UTC)
                        told.append(f"    {when:%H:%M:%S} {event.event_type_value}: {entry.message[:300]}")
                        error = getattr(event.event_specific_data, "error", None)
                        told += [f"        {str(error)[:200]} <- {str(error.cause)[:300]}"] if error else []
        return told

    # Services

    def pid(self, unit: str) -> int:
        """Of a service as it was started last."""
        return int(self.stack.services["processes"][unit].split(":")[0])

    def begin(self, command: str, *options: str) -> None:
        """Start ``mqi dev`` or ``mqi stop`` for the site, without waiting for its end."""
        assert self._command is None
        log = (self.stack.folder / f"{command}.log").open("ab")
        with log:
            self._command = subprocess.Popen(
                [str(MQI), command, "--site", str(self.stack.site), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PATH": f"{MQI.parent}:{os.environ['PATH']}"},
            )

    def finished(self) -> bool:
        """Whether the command that was begun has ended; it has to have succeeded."""
        if self._command is None:
            return True
        code = self._command.poll()
        if code is None:
            return False
        name, self._command = str(self._command.args[1]), None  # type: ignore[index]
        said = (self.stack.folder / f"{name}.log").read_text(errors="replace")[-2000:]
        assert code == 0, f"mqi {name} of {self.name}: {said}"
        if name == "dev":
            self._remember()
        return True

    def _remember(self) -> None:
        for name in SERVICES:
            process = Path(f"/proc/{self.pid(name)}")
            argv = (process / "cmdline").read_bytes().decode().rstrip("\0").split("\0")
            pairs = (process / "environ").read_bytes().decode().rstrip("\0").split("\0")
            self.units[name] = Unit(argv, dict(pair.split("=", 1) for pair in pairs))

    def supervise(self) -> list[str]:
        """Start again what has been dead for a few seconds; the names of those."""
        started = []
        if not self.finished():
            return started
        for name, unit in self.units.items():
            for child in unit.restarted:
                child.poll()
            if lives(self.pid(name)):
                unit.died = None
            elif unit.died is None:
                unit.died = time.monotonic()
            elif time.monotonic() - unit.died > RESTART_SECONDS:
                self._restart(name, unit)
                started.append(name)
        return started

    def _restart(self, name: str, unit: Unit) -> None:
        state = self.stack.site / "state"
        with (state / "logs" / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                unit.argv,
                cwd=state,
                env=unit.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        unit.restarted.append(child)
        unit.died = None
        record = self.stack.services
        record["processes"][name] = process_id(child.pid)
        write_whole(state / "services.json", json.dumps(record, indent=1).encode())

    # What can be hurt

    def up(self) -> bool:
        """Whether every service lives."""
        return self._command is None and bool(self.units) and all(lives(self.pid(name)) for name in SERVICES)

    def workers(self) -> list[int]:
        """Pids of the processes that carry runs out, with or without the code server that started them."""
        return self.stack.workers()

    def end_left_over_workers(self, say: Callable[[str], None]) -> None:
        """End what a stop of the services has left to itself: workers whose code server had died before.

        A machine that is shut down ends them as well.
        """
        for pid, command in self.stack.processes().items():
            say(f"left to itself: {self.name}, {command[:100]}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def engines(self) -> list[int]:
        """Pids of the engines of this site, here or in a job."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            # The engine itself, not the shell or step that started it.
            if "python" in Path(argv[0]).name and self.engine_word in argv and lives(int(entry.name)):
                found.append(int(entry.name))
        return sorted(found)


def kill_one(pids: list[int], rng: Random) -> int | None:
    """kill -9 of one of some processes; its pid, None where there is none."""
    while pids:
        pid = pids.pop(rng.randrange(len(pids)))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        return pid
    return None
