"""What a command prints into a pipe or a file is whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.operations.site_folder import initialise
from mqi_dagster.resources.site import Site
from tests.cli.mqi_command import mqi


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("screen") / "clinic"
    initialise(folder, {"site.timezone": "Asia/Seoul"})
    return folder


def test_a_long_line_of_a_table_is_neither_cut_nor_wrapped(site: Path) -> None:
    subject = "a-host-with-a-very-long-name." * 8 + "example.org"
    ledger = Site(site / "mqi.yaml").ledger
    ledger.alarms.raise_(AlarmKind.CLUSTER_AWAY, subject, "the target is away " * 20)
    lines = mqi("alarms", "--site", site).stdout.splitlines()
    assert len(lines) == 3
    assert subject in lines[1]
    assert lines[2].count("the target is away") == 20


def test_a_database_that_is_damaged_is_one_line(site: Path) -> None:
    index = site / "dagster" / "history" / "runs" / "index.db"
    before = index.read_bytes()
    index.write_bytes(b"no database" * 1000)
    try:
        ended = mqi("case", "list", "--site", site)
        again = mqi("dev", "--detach", "--site", site)
    finally:
        index.write_bytes(before)
    for one in (ended, again):
        assert one.returncode == 1
        assert len(one.stderr.splitlines()) == 1, one.stderr
        assert "file is not a database" in one.stderr and "SELECT" not in one.stderr


@pytest.mark.slow
def test_a_server_that_is_away_is_one_line(site: Path, tmp_path: Path) -> None:
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").write_text(
        "storage: {postgres: {postgres_url: {env: MQI_POSTGRES_URL}}}\n"
    )
    (tmp_path / "mqi.yaml").write_text("site: {timezone: UTC}\ndatabase: {host: 127.0.0.1, port: 1}\n")
    ended = mqi("top", "--once", "--site", tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == "mqi: Dagster's database cannot be reached\n"


def test_a_usage_error_is_no_failure_of_the_work() -> None:
    assert CliRunner().invoke(app, ["case", "show"]).exit_code == 2
