"""What every test of the commands begins with."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def no_site_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No site in the working directory or the environment, whoever runs the tests where."""
    monkeypatch.delenv("MQI_SITE", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def services() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Something that answers like Dagster's pages, and what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            answers = {
                "launchPartitionBackfill": {"__typename": "LaunchBackfillSuccess", "backfillId": "abcd"},
                "partitionBackfillsOrError": {"__typename": "PartitionBackfills", "results": []},
            }
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": answers}).encode())

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port, asked
    server.shutdown()
    server.server_close()
    thread.join()
