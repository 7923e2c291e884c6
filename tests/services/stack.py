"""A site with Dagster's real pages, daemon and code location, started and stopped by the command ``mqi``."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import dagster as dg
import pydicom
import yaml
from dagster._core.scheduler.instigation import TickStatus

from mqi_dagster.execution.processes import process_alive, process_id, stat_of
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.location import ledger_url
from mqi_dagster.machine import read_machines
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.partitions import case_key
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import read_settings
from mqi_dagster.synthetic.delivery import SimulatedCase, simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest, Layout
from tests.waiting import wait_for

ENGINE = Path(__file__).parents[1] / "engines" / "steered.py"
MACHINES = Path(__file__).parents[2] / "mqi_dagster" / "config" / "machines"
MQI = Path(sys.executable).with_name("mqi")
BEAM_ASSETS = ("interpreted_csvs", "tps_file", "raw_dose", "rt_dose", "handed_over")
CASE_ASSETS = ("case_manifest", "case_handed_over")
SERVICES = ("code", "daemon", "pages", "watch", "web")
HOLD = 600.0
"""Seconds of an engine that runs, on the slowest machine, until it is interrupted or told to end."""
_OPENING = threading.Lock()
"""Dagster reads its server's address from this process's environment, one for the threads of all sites."""


def settings_of(folder: Path) -> dict[str, Any]:
    """Fast intervals, one slot, and the steered engine on a coarse grid."""
    command = [sys.executable, str(ENGINE), "{tps}", str(folder / "steering.json"), str(folder / "trace")]
    profile = {"command": command, "version": "test engine 1", "reads_beam_model": True}
    return {
        # At one second the looks alone take a third of a core of each site.
        "intake": {"stable_seconds": 0, "scan_interval_seconds": 2},
        "engine": {
            "profile": "steered",
            "profiles": {"steered": profile},
            "histories": 100000,
            "timeout_seconds": 900,
            "phantom": {"dimension": [12, 12, 40], "unit_mm": [10, 10, 10], "position_mm": [-60, -60, -365]},
        },
        "execution": {
            "slots": 1,
            "attempts": 1,
            "heartbeat_seconds": 1,
            "stale_seconds": 5,
            "lease_poll_seconds": 0.2,
        },
    }


def _parent(pid: int) -> int | None:
    """The pid of a process's parent, None where it has gone meanwhile."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


class Stack:
    """One site below a folder.

    Args:
        folder: Everything of the site lies below it.
        settings: Sections in place of those of `settings_of`.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.site = folder / "site"
        folder.mkdir(parents=True, exist_ok=True)
        self._mqi("init", str(self.site), "--timezone", "Asia/Seoul")
        self.settings_file = self.site / "mqi.yaml"
        content = yaml.safe_load(self.settings_file.read_text())
        for name, section in {**settings_of(folder), **(settings or {})}.items():
            content[name] = {**(content.get(name) or {}), **section}
        self.settings_file.write_text(yaml.safe_dump(content))
        if "database" in (settings or {}):
            # Made before the site was told of its server.
            for left in (self.site / "state").glob("ledger.sqlite*"):
                left.unlink()
        self.inbox, self.handover = self.site / "inbox", self.site / "handover"
        self.trace = folder / "trace"
        self.steer()

    def _mqi(self, *arguments: str) -> str:
        environment = {**os.environ, "PATH": f"{MQI.parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            [str(MQI), *arguments], capture_output=True, text=True, env=environment, timeout=150
        )
        assert done.returncode == 0, f"mqi {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    # The services

    def start(self) -> None:
        """Start every service and wait until the pages show the code location."""
        self._mqi("dev", "--site", str(self.site), "--detach", "--port", "0")

    def stop(self) -> None:
        """End every service."""
        self._mqi("stop", "--site", str(self.site))

    @contextmanager
    def running(self) -> Iterator[Self]:
        """With services; at the end no process of the site is left."""
        try:
            self.start()
            yield self
        finally:
            self.stop()
        assert self.processes() == {}

    @property
    def services(self) -> dict[str, Any]:
        """Host, port and processes of the services."""
        return dict(json.loads((self.site / "state" / "services.json").read_text()))

    @property
    def address(self) -> str:
        """Of the pages."""
        return f"http://{self.services['host']}:{self.services['port']}"

    def kill(self, *names: str) -> None:
        """kill -9 of services by name."""
        for name in names:
            pid = int(self.services["processes"][name].split(":")[0])
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not any(process_alive(self.services["processes"][n]) for n in names), "death")

    def crash(self, service: str, *pids: int) -> Callable[[], None]:
        """kill -9 of a service and of other processes at one moment; what a service manager does then.

        Returns:
            Starts that service again, as it was started.
        """
        pid = int(self.services["processes"][service].split(":")[0])
        place = Path(f"/proc/{pid}")
        command = (place / "cmdline").read_bytes().decode().rstrip("\0").split("\0")
        pairs = (place / "environ").read_bytes().decode().rstrip("\0").split("\0")
        environment = dict(pair.split("=", 1) for pair in pairs)
        folder = (place / "cwd").readlink()
        for one in (*pids, pid):
            os.kill(one, signal.SIGKILL)
        wait_for(lambda: (stat := stat_of(pid)) is None or not stat.lives, "death")

        def again() -> None:
            if "--socket" in command:
                Path(command[command.index("--socket") + 1]).unlink(missing_ok=True)
            with (self.site / "state" / "logs" / f"{service}.log").open("ab") as log:
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            record = self.services
            record["processes"][service] = process_id(process.pid)
            (self.site / "state" / "services.json").write_text(json.dumps(record))

        return again

    def answers(self, service: str) -> bool:
        """Whether somebody listens on the socket of a service."""
        pid = int(self.services["processes"][service].split(":")[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(command[command.index("--socket") + 1])
            except OSError:
                return False
        return True

    def kill_everything(self) -> None:
        """kill -9 of every process of the site at once, as in a loss of power."""
        for pid in self.processes():
            # One may have gone with its parent.
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        wait_for(lambda: not self.processes(), "death of every process")

    def processes(self, word: str = "") -> dict[int, str]:
        """Living processes that belong to this site, by pid: command line, if it holds the word."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (entry / "environ").read_bytes().decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            # A dead child that nobody has waited for has no command line.
            if command and str(self.folder) in command + environment and word in command:
                found[int(entry.name)] = command
        return found

    def workers(self) -> list[int]:
        """Pids of the processes that carry runs out."""
        found = self.processes("multiprocessing.forkserver")
        # The one that all are forked from has the same command line, and another parent.
        return sorted(pid for pid in found if _parent(pid) in found)

    def warm_processes(self) -> list[int]:
        """Pids of the processes that the workers are forked from: one for each start of the code location."""
        return sorted({pid for worker in self.workers() if (pid := _parent(worker)) is not None})

    def engines(self) -> dict[int, str]:
        """Living engines."""
        return self.processes("steered.py")

    # What a person does

    def steer(self, seconds: float = 0.3, failing: tuple[str, ...] = ()) -> None:
        """Say how long engines take from now on, and which beams' engines fail."""
        beside = self.folder / ".steering"
        beside.write_text(json.dumps({"seconds": seconds, "failing": list(failing)}))
        beside.rename(self.folder / "steering.json")

    def deliver(self, seed: int, beams: int = 3) -> SimulatedCase:
        """Drop a case into the inbox; each seed is another plan."""
        plan = BuiltInPlan(beams=beams, layers=2, spots=9, layer_seconds=0.05)
        request = DeliveryRequest(
            plan=plan, seed=seed, layout=Layout.SIMPLE, idle_rows_before=(3, 6), idle_rows_after=(2, 5)
        )
        return simulate_delivery(request, read_machines(MACHINES).named("GENERIC"), self.inbox)

    def case_of(self, delivered: SimulatedCase, fraction: int = 1) -> str:
        """Key of a delivered case."""
        plan = pydicom.dcmread(delivered.plan_path, stop_before_pixels=True)
        return case_key(Site(self.settings_file).pseudonyms.plan(str(plan.SOPInstanceUID)), fraction)

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """What the pages answer; the page itself asks in the same way."""
        request = urllib.request.Request(
            f"{self.address}/graphql",
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            content = json.load(answer)
        assert not content.get("errors"), content["errors"]
        return dict(content["data"])

    # What there is

    @contextmanager
    def opened(self) -> Iterator[dg.DagsterInstance]:
        """The site's instance, beside the services."""
        with _OPENING:
            instance = open_instance(read_settings(self.settings_file))
        with instance:
            yield instance

    def ledger(self) -> Ledger:
        """The site's ledger."""
        return Ledger.open(ledger_url(read_settings(self.settings_file)))

    def runs(self, job: str | None = None, **tags: str) -> list[dg.DagsterRun]:
        """Runs, the oldest first."""
        with self.opened() as instance:
            found = instance.get_runs(dg.RunsFilter(job_name=job, tags=tags))
        return list(reversed(found))

    def ticks_since(self, sensor: str, moment: float) -> list[float]:
        """When a sensor was evaluated after a moment, whatever came of it; whole evaluations only."""
        with self.opened() as instance:
            return [
                tick.timestamp
                for state in instance.all_instigator_state()
                if state.instigator_name == sensor
                for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, after=moment)
                if tick.status is not TickStatus.STARTED
            ]

    def concluded(self, case: str) -> int:
        """How many conclusion runs a case has had, whatever came of them."""
        return len(self.runs("conclusion", **{"dagster/partition": case}))

    def unfinished(self) -> list[str]:
        """Runs that are queued or in work."""
        return [run.run_id for run in self.runs() if not run.is_finished]

    def wait_for_conclusion(self, case: str, seconds: float = 400) -> None:
        """Return when the case has its completion marker and no run is left in work."""
        wait_for(
            lambda: case in self.markers() and not self.unfinished(),
            f"{case} concluded",
            seconds,
            report=self.report,
        )

    def markers(self) -> list[str]:
        """The cases that have a completion marker at the target."""
        return sorted(path.parent.name for path in self.handover.glob("*/_COMPLETE"))

    def materialised(self, asset: str) -> dict[str, int]:
        """How often each partition of an asset was materialised."""
        counts: dict[str, int] = {}
        with self.opened() as instance:
            for record in instance.fetch_materializations(dg.AssetKey(asset), limit=500).records:
                key = str(record.partition_key)
                counts[key] = counts.get(key, 0) + 1
        return counts

    def starts(self, beam: str = "") -> list[str]:
        """Names of the beams whose engines were started, from the engines' own trace."""
        return [name for what, _, _, name in self.traced() if what == "start" and name.startswith(beam)]

    def traced(self) -> list[tuple[str, int, float, str]]:
        """The engines' own trace: start or end, pid, seconds, beam name."""
        lines = self.trace.read_text().splitlines() if self.trace.exists() else []
        fields = [line.split(" ", 3) for line in lines]
        return [(what, int(pid), float(when), name) for what, pid, when, name in fields]

    def report(self) -> str:
        """What a failed test shows."""
        runs = [
            f"{run.job_name} {run.tags.get('dagster/partition')} {run.status.value}" for run in self.runs()
        ]
        logs = [path.read_text(errors="replace")[-1500:] for path in (self.site / "state/logs").glob("*.log")]
        return "\n".join([*runs, *self.processes().values(), *self.starts(), *logs])
