"""`mqi logs`: shown once or followed, for people and as JSON, until Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.errors import InputError
from mqi_dagster.operations.site_folder import initialise
from tests.cli.mqi_command import MQI, mqi


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """The logs of a site."""
    (tmp_path / "mqi.yaml").write_text("site: {timezone: Asia/Seoul}\n")
    folder = tmp_path / "state" / "logs"
    folder.mkdir(parents=True)
    (folder / "code.log").write_text("2026-03-01 12:00:02 +0000 - two\n")
    (folder / "daemon.log").write_text("2026-03-01 12:00:01 +0000 - one\n2026-03-01 12:00:03 UTC three\n")
    return folder


def test_all_services_are_told_together_or_one_alone(logs: Path, tmp_path: Path) -> None:
    assert mqi("logs", "--site", tmp_path).stdout.splitlines() == [
        "daemon | 2026-03-01 12:00:01 +0000 - one",
        "code   | 2026-03-01 12:00:02 +0000 - two",
        "daemon | 2026-03-01 12:00:03 UTC three",
    ]
    assert mqi("logs", "daemon", "-n", "1", "--site", tmp_path).stdout == "2026-03-01 12:00:03 UTC three\n"
    lines = mqi("logs", "--json", "--site", tmp_path).stdout.splitlines()
    assert json.loads(lines[1]) == {"service": "code", "line": "2026-03-01 12:00:02 +0000 - two"}


def test_a_service_that_has_written_nothing_is_said_to_have(logs: Path, tmp_path: Path) -> None:
    done = mqi("logs", "watch", "--site", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "mqi: nothing has been written yet; --follow waits for it\n"


@contextmanager
def following(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [str(MQI), "logs", "--follow", "--site", str(folder), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_what_is_written_meanwhile_is_told_until_ctrl_c(logs: Path, tmp_path: Path) -> None:
    with following(tmp_path, "-n", "1") as process:
        assert [next_line(process), next_line(process)] == [
            "code   | 2026-03-01 12:00:02 +0000 - two\n",
            "daemon | 2026-03-01 12:00:03 UTC three\n",
        ]
        (logs / "watch.log").write_text("begins\n")
        assert next_line(process) == "watch  | begins\n"
        # As `mqi dev` begins a log.
        (logs / "daemon.log").rename(logs / "daemon.log.1")
        (logs / "daemon.log").write_text("anew\n")
        assert next_line(process) == "daemon | anew\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors.strip()) == (130, "")


def test_a_partition_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    initialise(tmp_path / "site", {"site.timezone": "UTC"})
    words = ["logs", "P000000000.fx0001__b02", "--site", str(tmp_path / "site")]
    with pytest.raises(InputError, match="the case is not known here"):
        CliRunner().invoke(app, words, catch_exceptions=False)
