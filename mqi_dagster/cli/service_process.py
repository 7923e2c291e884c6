"""What each service of a site is as a process: its command, its environment, and the socket in between.

`mqi dev` starts all of them and keeps watch; under a service manager `mqi service` becomes one of them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mqi_dagster.cli.service_locks import Service
from mqi_dagster.execution.code_location import socket_path
from mqi_dagster.execution.processes import resolve_program
from mqi_dagster.ledger.place import announce_server
from mqi_dagster.resources.site import SETTINGS_VARIABLE
from mqi_dagster.settings import Settings
from mqi_dagster.store.files import write_atomically


def write_workspace(settings: Settings) -> Path:
    """Write the file that tells daemon and pages where the code location answers."""
    path = settings.paths.state / "workspace.yaml"
    entry = {"grpc_server": {"socket": str(socket_path(settings)), "location_name": "mqi"}}
    write_atomically(path, json.dumps({"load_from": [entry]}, indent=1).encode())
    return path


def command_of(service: Service, settings: Settings, host: str, port: int) -> list[str]:
    """Program and arguments of a service.

    Args:
        service: Which.
        settings: Of the site.
        host: Address of the pages; the other services listen on no address.
        port: Port of the pages.
    """
    workspace = str(settings.paths.state / "workspace.yaml")
    pages = [sys.executable, "-m", "mqi_dagster.cli.page_server", "--workspace", workspace]
    pages += ["--host", host, "--port", str(port)]
    pages += [part for origin in settings.ui.origins for part in ("--origin", origin)]
    commands: dict[Service, Sequence[str]] = {
        Service.CODE: [
            *("dagster", "api", "grpc", "--socket", str(socket_path(settings))),
            *("-m", "mqi_dagster.definitions", "--location-name", "mqi"),
        ],
        Service.DAEMON: ["dagster-daemon", "run", "-w", workspace],
        Service.PAGES: pages,
        Service.VIEWER: [*pages, "--read-only"],
        Service.WATCH: [sys.executable, "-m", "mqi_dagster.cli.watch_process"],
    }
    program, *arguments = commands[service]
    return [str(resolve_program(program)), *arguments]


def environment_of(settings_file: Path, settings: Settings) -> dict[str, str]:
    """The environment of every service.

    Raises:
        ConfigurationError: The file with the database's password cannot be used.
    """
    announce_server(settings)
    return {
        **os.environ,
        "DAGSTER_HOME": str(settings.paths.dagster_home),
        SETTINGS_VARIABLE: str(settings_file),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
    }
