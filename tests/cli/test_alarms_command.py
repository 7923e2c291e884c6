"""`mqi alarms`, `mqi notify --test`, and what `mqi doctor` says of alarms."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.ledger.database import sqlite_url
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.operations.diagnosis import examine_alarms
from mqi_dagster.settings import read_settings
from tests.cli.mqi_command import mqi


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site whose services never ran."""
    runner = CliRunner()
    made = runner.invoke(app, ["init", str(tmp_path), "--timezone", "Asia/Seoul"], catch_exceptions=False)
    assert made.exit_code == 0
    return tmp_path


@pytest.fixture
def receiver() -> Iterator[tuple[int, list[bytes]]]:
    got: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], got
    server.shutdown()
    server.server_close()


def told_to(site: Path, url: str) -> None:
    content = {"site": {"timezone": "Asia/Seoul"}, "notifications": {"webhook": {"url": url}}}
    (site / "mqi.yaml").write_text(yaml.safe_dump(content))


def test_alarms_are_listed_and_dismissed(site: Path) -> None:
    assert mqi("alarms", "--site", site).stdout == "no alarm\n"
    ledger = Ledger.open(sqlite_url(site / "state" / "ledger.sqlite"))
    alarm = ledger.alarms.raise_("beam_failed", "P1.fx0001__b02", "exit code 3. What to do: mqi case retry")
    shown = mqi("alarms", "--site", site).stdout
    assert "beam_failed" in shown and "P1.fx0001__b02" in shown and "exit code 3" in shown
    (entry,) = json.loads(mqi("alarms", "--site", site, "--json").stdout)
    assert (entry["id"], entry["kind"], entry["count"]) == (alarm.id, "beam_failed", 1)
    (finding,) = examine_alarms(read_settings(site / "mqi.yaml"), ledger)
    assert (finding.subject, finding.verdict) == ("alarm beam_failed", "warning")
    assert mqi("alarms", "--site", site, "--dismiss", str(alarm.id)).stdout == "no alarm\n"
    assert mqi("alarms", "--site", site, "--dismiss", str(alarm.id)).returncode == 1
    assert "exit code 3" in mqi("alarms", "--site", site, "--all").stdout


def test_a_test_message_says_what_the_receiver_has_answered(
    site: Path, receiver: tuple[int, list[bytes]]
) -> None:
    assert mqi("notify", "--site", site, "--test").returncode == 1, "nobody is told anything"
    port, got = receiver
    told_to(site, f"http://127.0.0.1:{port}/")
    done = mqi("notify", "--site", site, "--test")
    assert (done.returncode, done.stdout) == (0, "webhook: HTTP 204\n")
    (body,) = got
    assert json.loads(body)["event"] == "test"
    assert mqi("notify", "--site", site).stdout == "webhook: works\n"
    told_to(site, "http://127.0.0.1:1/")
    away = mqi("notify", "--site", site, "--test")
    assert away.returncode == 1 and "cannot be reached" in away.stdout
