"""A real Orthanc for tests, Debian's, in a folder of its own; and a stand-in that answers with faults."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mqi_dagster.dicom.orthanc import Orthanc
from mqi_dagster.errors import UnreachableError
from mqi_dagster.settings.radiotherapy import OrthancSource
from tests.waiting import wait_for

USER, PASSWORD = "clinic", "a password of tests"


@dataclass
class Server:
    """An Orthanc below a folder."""

    folder: Path
    port: int
    options: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None

    @property
    def source(self) -> OrthancSource:
        """The settings that name it."""
        password = self.folder / "password"
        password.touch(mode=0o600)
        password.write_text(PASSWORD)
        return OrthancSource(url=f"http://127.0.0.1:{self.port}", user=USER, password_file=password)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        (self.folder / "db").mkdir(exist_ok=True)
        settings = {
            "StorageDirectory": str(self.folder / "db"),
            "IndexDirectory": str(self.folder / "db"),
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "Plugins": [],
            **self.options,
        }
        file = self.folder / "orthanc.json"
        file.write_text(json.dumps(settings))
        program = shutil.which("Orthanc", path="/usr/sbin:/usr/bin")
        assert program is not None
        self.process = subprocess.Popen(
            [program, str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(self._answers, "an answer of Orthanc")

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)

    def store(self, *contents: bytes) -> list[str]:
        """Give it objects; their identifiers there."""
        return [json.loads(self._ask("POST", "/instances", content))["ID"] for content in contents]

    def delete(self, identifier: str) -> None:
        """Have it delete an object."""
        self._ask("DELETE", f"/instances/{identifier}")

    def forget_changes(self) -> None:
        """Have it forget its list of changes."""
        self._ask("DELETE", "/changes")

    def _answers(self) -> bool:
        try:
            return bool(Orthanc(self.source).version())
        except UnreachableError:
            return False

    def _ask(self, method: str, path: str, content: bytes | None = None) -> bytes:
        pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=content,
            method=method,
            headers={"Authorization": f"Basic {pair}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def running_orthanc(folder: Path, **options: Any) -> Iterator[Server]:
    """An Orthanc; the test that needs it skips where the package is missing."""
    if shutil.which("Orthanc", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("Debian's package orthanc is not installed: tests/system-packages")
    folder.mkdir(exist_ok=True)
    server = Server(folder, free_port(), options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@dataclass
class StandIn:
    """Something that answers as Orthanc does, to a few questions, and is none."""

    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Status and content by path; 404 for all others."""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    """What it says of the length of all its answers; the truth where None."""
    asked: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def source(self) -> OrthancSource:
        """The settings that name it."""
        return OrthancSource(url=f"http://127.0.0.1:{self.port}")


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """A stand-in at a free port."""
    shown = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown.asked.append(self.path)
            status, content = shown.answers.get(self.path, (404, b""))
            self.send_response(status)
            for name, value in shown.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) if shown.length is None else shown.length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    shown.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield shown
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
