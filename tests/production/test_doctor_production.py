"""What `mqi doctor` says of a production machine: database, way in, backup."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.operations.probes import (
    ProbeFinding,
    examine_backup,
    examine_records,
    examine_schema,
    examine_units,
    examine_way_in,
)
from mqi_dagster.operations.service_locks import Service, take
from mqi_dagster.settings import Settings, parse_settings
from tests.postgres.postgres_server import Server, running_postgres


def site(base: Path, **sections: object) -> Settings:
    settings = parse_settings({"site": {"timezone": "Asia/Seoul"}, **sections}, base)
    settings.paths.state.mkdir(parents=True, exist_ok=True)
    return settings


def verdicts(findings: list[ProbeFinding]) -> dict[str, str]:
    return {one.subject: one.verdict.value for one in findings}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_postgres() as started:
        yield started


@pytest.mark.slow
@pytest.mark.postgres
class TestOnAServer:
    def test_a_sound_server_is_described(self, server: Server, tmp_path: Path) -> None:
        url = server.new_database("looked_at")
        settings = site(tmp_path, database={**server.section, "name": "looked_at"})
        findings = list(examine_records(settings))
        assert verdicts(findings) == {"database": "ok", "connections": "ok", "ledger": "ok"}
        assert findings[0].found.startswith("PostgreSQL 1") and "role mqi" in findings[0].found
        assert findings[2].found == "none yet; the first start makes it"
        Ledger.open(url).close()
        assert list(examine_records(settings))[2].found.startswith("revision 00")

    def test_a_ledger_of_a_newer_program_is_a_fault(self, server: Server, tmp_path: Path) -> None:
        Ledger.open(server.new_database("newer")).close()
        server.sql("UPDATE mqi_ledger_version SET version_num = '9999'", database="newer")
        ledger = list(examine_records(site(tmp_path, database={**server.section, "name": "newer"})))[-1]
        assert (ledger.verdict.value, ledger.found[:13]) == ("fault", "revision 9999")

    def test_more_runs_than_the_server_takes_connections_for_is_a_warning(
        self, server: Server, tmp_path: Path
    ) -> None:
        settings = site(tmp_path, database=server.section, execution={"max_runs": 1000})
        assert verdicts(list(examine_records(settings)))["connections"] == "warning"

    def test_a_server_that_is_away_is_one_fault_with_its_words(self, server: Server, tmp_path: Path) -> None:
        server.stop()
        try:
            (only,) = examine_records(site(tmp_path, database=server.section))
            assert (only.subject, only.verdict.value) == ("database", "fault")
            assert "refused" in only.found and only.advice
        finally:
            server.start()

    def test_the_whole_command_finds_no_fault_in_a_site_on_a_server(
        self, server: Server, tmp_path: Path
    ) -> None:
        server.new_database("whole")
        runner = CliRunner()
        runner.invoke(app, ["init", str(tmp_path / "s"), "--timezone", "UTC"], catch_exceptions=False)
        content = yaml.safe_load((tmp_path / "s/mqi.yaml").read_text())
        content["database"] = {**server.section, "name": "whole"}
        (tmp_path / "s/mqi.yaml").write_text(yaml.safe_dump(content))
        runner.invoke(app, ["init", str(tmp_path / "s")], catch_exceptions=False)
        said = runner.invoke(app, ["doctor", "--site", str(tmp_path / "s"), "--json"], catch_exceptions=False)
        found = {one["subject"]: one["verdict"] for one in json.loads(said.output)}
        looked = ("database", "connections", "ledger", "Dagster", "Dagster's tables", "way in", "backup")
        assert {name: found[name] for name in looked} == dict.fromkeys(looked, "ok")


def test_tables_of_this_version_of_dagster_are_in_order(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        assert examine_schema(instance).verdict.value == "ok"


def test_pages_that_other_machines_can_reach_are_a_warning(tmp_path: Path) -> None:
    assert examine_way_in(site(tmp_path)).verdict.value == "ok"
    open_to_all = examine_way_in(site(tmp_path, ui={"host": "0.0.0.0"}))
    assert (open_to_all.verdict.value, "proxy" in open_to_all.advice) == ("warning", True)


def test_services_of_a_service_manager_are_seen_and_missing_ones_named(tmp_path: Path) -> None:
    settings = site(tmp_path)
    assert verdicts(list(examine_units(settings))) in ({}, {"units": "ok"})
    for service in Service:
        if service is not Service.VIEWER:
            take(settings, service)
    (found,) = examine_units(settings)
    assert (found.verdict.value, found.advice) == ("warning", "systemctl start mqi-viewer")


@pytest.mark.parametrize(
    ("age", "verdict"), [(timedelta(hours=3), "ok"), (timedelta(days=3), "warning"), (None, "warning")]
)
def test_an_old_or_missing_backup_is_a_warning(tmp_path: Path, age: timedelta | None, verdict: str) -> None:
    settings = site(tmp_path)
    if age is not None:
        content = {"made_at": (datetime.now(UTC) - age).isoformat(), "data": True}
        (settings.paths.state / "last-backup.json").write_text(json.dumps(content))
    assert examine_backup(settings, runs=3).verdict.value == verdict


def test_a_site_that_has_done_nothing_needs_no_backup(tmp_path: Path) -> None:
    assert examine_backup(site(tmp_path), runs=0).verdict.value == "ok"
