"""A site as a service manager runs it: every service a process of its own, started by ``mqi service``.

No container has a systemd of its own, so this stands in for it: it starts, kills and starts again, and like
``KillMode=process`` it ends the service alone and never what the service has started.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.services.stack import MQI, Stack
from tests.waiting import wait_for

NAMES = ("code", "daemon", "pages", "watch", "viewer", "web")


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens now."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class ManagedStack(Stack):
    """A site whose services are run one by one."""

    def __init__(self, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.port, self.viewer_port, self.web_port = free_ports(3)
        ui = {"port": self.port, "viewer_port": self.viewer_port}
        super().__init__(folder, {**(settings or {}), "ui": ui, "web": {"port": self.web_port}})
        self.units: dict[str, subprocess.Popen[bytes]] = {}
        (self.site / "state" / "logs").mkdir(parents=True, exist_ok=True)

    @property
    def address(self) -> str:
        """Of the pages."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start every service and wait until the pages show the code location."""
        for name in NAMES:
            self.start_one(name)
        wait_for(self.loaded, "the pages show the code location", 240, report=self.report)

    def start_one(self, name: str) -> None:
        """Start a service, as its unit does."""
        with (self.site / f"state/logs/{name}.log").open("ab") as log:
            self.units[name] = subprocess.Popen(
                [str(MQI), "service", name, "--site", str(self.site)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": f"{MQI.parent}:{os.environ['PATH']}"},
                start_new_session=True,
            )

    def end_one(self, name: str, number: signal.Signals = signal.SIGKILL, seconds: float = 10) -> None:
        """Signal a service alone; after some seconds KILL it, as a unit's TimeoutStopSec does."""
        process = self.units.pop(name)
        process.send_signal(number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def stop(self) -> None:
        """End everything, run workers too."""
        for name in list(self.units):
            self.end_one(name)
        self.kill_everything()

    def loaded(self) -> bool:
        """Whether the pages answer and show the code location."""
        try:
            return bool(
                self.graphql("{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }")[
                    "repositoriesOrError"
                ]["nodes"]
            )
        except (OSError, KeyError):
            return False

    def refused(self, *arguments: str) -> str:
        """What a command of this site says when it fails."""
        done = subprocess.run(
            [str(MQI), *arguments, "--site", str(self.site)], capture_output=True, text=True, timeout=150
        )
        assert done.returncode == 1, done.stdout + done.stderr
        return done.stderr
