"""A PostgreSQL server of a test's own on a socket: started, killed and stopped as often as it likes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from mqi_dagster.execution.processes import process_alive, process_id

_CONNECTIONS = 300


class Postgres:
    """One server.

    Args:
        folder: Of data, socket and log; short, since a socket lies in it, and made if it is absent.
    """

    def __init__(self, folder: Path) -> None:
        if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
            pytest.skip("PostgreSQL is not installed here")
        self.folder = folder
        # The server refuses to be root's.
        self._user = "postgres" if os.getuid() == 0 else None
        folder.mkdir(mode=0o700)
        if self._user is not None:
            shutil.chown(folder, self._user)
        self._run("initdb", "-D", str(self._data), "-A", "trust", "-U", "mqi", "--no-sync")

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _run(self, *argv: str) -> None:
        done = subprocess.run(
            argv, user=self._user, cwd=self.folder, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, (argv, done.stdout, done.stderr)

    @property
    def process(self) -> str | None:
        """``<pid>:<start time>`` of the server, None where it does not live."""
        try:
            process = process_id(int((self._data / "postmaster.pid").read_text().splitlines()[0]))
        except (OSError, IndexError, ValueError):
            return None
        except Exception:  # noqa: BLE001 - it ended while it was named
            return None
        return process if process_alive(process) else None

    def start(self) -> None:
        """Start it and return when it answers, after its recovery if there is any."""
        # Only a power cut needs fsync; here processes die.
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off -c max_connections={_CONNECTIONS}"
        log = str(self.folder / "server.log")
        self._run("pg_ctl", "-D", str(self._data), "-l", log, "-o", options, "-w", "-t", "60", "start")

    def kill(self) -> None:
        """kill -9 of the server; its children see that and end."""
        assert self.process is not None, "PostgreSQL does not run"
        os.kill(int(self.process.split(":")[0]), signal.SIGKILL)

    def stop(self) -> None:
        """End it in order; nothing to do where it does not live."""
        if self.process is not None:
            self._run("pg_ctl", "-D", str(self._data), "-m", "fast", "-w", "-t", "60", "stop")

    def create(self, database: str) -> dict[str, object]:
        """Make a database.

        Returns:
            The section ``database`` of a site's settings.
        """
        self._run("createdb", "-h", str(self.folder), "-U", "mqi", database)
        return {"host": str(self.folder), "name": database, "user": "mqi"}
