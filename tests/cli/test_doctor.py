"""`mqi doctor`: a sound site has no fault, and each fault is found and comes with advice."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.embedded_engine.install import Installation
from mqi_dagster.operations.service_locks import Service, take
from mqi_dagster.settings import read_settings


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    result = CliRunner().invoke(
        app, ["init", str(folder), "--timezone", "Asia/Seoul"], catch_exceptions=False
    )
    assert result.exit_code == 0
    return folder


def doctor(site: Path) -> tuple[int, dict[str, dict[str, str]]]:
    result = CliRunner().invoke(app, ["doctor", "--site", str(site), "--json"], catch_exceptions=False)
    return result.exit_code, {one["subject"]: one for one in json.loads(result.output)}


def test_a_new_site_is_sound(site: Path, mcsquare: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Seoul")
    code, found = doctor(site)
    faults = [one for one in found.values() if one["verdict"] == "fault"]
    assert (code, faults) == (0, [])
    assert found["dagster"]["found"] == "1.13.27"
    assert found["pool gpu"]["found"] == "limit 3"
    assert found["engine embedded version"]["found"] == "mqi-engine 1.0 (MCsquare 1.1)"
    assert found["services"]["found"].startswith("not running")
    assert found["HU tables"]["found"] == "TYPICAL_120KV (typical)"
    assert found["modes"]["found"] == "others read and change nothing of this site"


def test_a_site_that_others_can_change_or_read_is_told(site: Path) -> None:
    (site / "data").chmod(0o755)
    assert doctor(site)[1]["modes"]["found"] == "open to others: data"
    (site / "state").chmod(0o777)
    code, found = doctor(site)
    assert code == 1
    assert (found["modes"]["verdict"], found["modes"]["found"]) == ("fault", "others may change: state")
    assert found["modes"]["advice"] == "chmod go-w on each of them"


def test_an_hu_table_that_cannot_be_read_is_a_fault_that_names_it(site: Path) -> None:
    (table,) = (site / "config/hu").glob("*.yaml")
    table.write_text("id: [\n")
    code, found = doctor(site)
    assert code == 1
    assert found["HU tables"]["verdict"] == "fault"


def test_every_fault_is_found_with_advice(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Zurich")
    (site / "secret").chmod(0o644)
    (site / "inbox").rmdir()
    (site / "dagster/dagster.yaml").unlink()
    with sqlite3.connect(site / "state/ledger.sqlite") as ledger:
        ledger.execute("UPDATE mqi_ledger_version SET version_num = '9999'")
    (site / "mqi.yaml").write_text(
        "site: {timezone: Asia/Seoul}\n"
        "engine:\n"
        "  profile: mine\n"
        "  profiles: {mine: {command: [no-such-engine, '{tps}'], version: '1', needs_gpu: true}}\n"
    )
    monkeypatch.setattr("mqi_dagster.operations.diagnosis.local_gpus", lambda: [])
    code, found = doctor(site)
    assert code == 1
    faults = {name for name, one in found.items() if one["verdict"] == "fault"}
    assert faults == {"secret", "inbox", "Dagster", "ledger", "engine mine", "GPUs"}
    assert all(found[name]["advice"] for name in faults)
    assert found["secret"]["found"] == "the site's secret has mode 0644; make it 0600"
    assert found["ledger"]["found"] == "revision 9999, this version writes 0010"
    assert found["time zone"]["verdict"] == "warning"


def test_wrong_settings_are_a_fault_that_names_the_key(site: Path) -> None:
    (site / "mqi.yaml").write_text("site: {timezone: Asia/Seoul}\nui: {prot: 3000}\n")
    code, found = doctor(site)
    assert code == 1
    assert found["settings"]["found"].startswith("mqi.yaml: ui.prot: ")


def test_an_older_ledger_is_not_migrated_by_looking(site: Path) -> None:
    with sqlite3.connect(site / "state/ledger.sqlite") as ledger:
        ledger.execute("UPDATE mqi_ledger_version SET version_num = '0000'")
    assert doctor(site)[1]["ledger"]["verdict"] == "warning"
    with sqlite3.connect(site / "state/ledger.sqlite") as ledger:
        assert ledger.execute("SELECT version_num FROM mqi_ledger_version").fetchall() == [("0000",)]


def test_services_that_died_are_a_fault(site: Path) -> None:
    record = {"host": "127.0.0.1", "port": 3999, "processes": {"daemon": "4194303:1"}}
    (site / "state/services.json").write_text(json.dumps(record))
    found = doctor(site)[1]["services"]
    assert (found["verdict"], found["found"]) == ("fault", "ended by themselves: daemon")


@pytest.mark.parametrize(("simulation", "gpu_monitoring"), [("hpc", "local"), ("local", "hpc")])
def test_gpus_of_this_machine_matter_where_it_simulates(
    site: Path, monkeypatch: pytest.MonkeyPatch, simulation: str, gpu_monitoring: str
) -> None:
    (site / "mqi.yaml").write_text(
        "site: {timezone: Asia/Seoul}\n"
        f"execution: {{simulation: {simulation}, gpu_monitoring: {gpu_monitoring}}}\n"
        "engine:\n"
        "  profile: mine\n"
        "  profiles: {mine: {command: ['true', '{tps}'], version: '1', needs_gpu: true}}\n"
        "hosts:\n"
        "  hpc: {host: 127.0.0.1, port: 9, user: moqui, key_file: no/key, known_hosts: no/hosts,"
        " slurm: {root: /scratch/moqui}}\n"
    )
    monkeypatch.setattr("mqi_dagster.operations.diagnosis.local_gpus", lambda: [])
    faults = [subject for subject, one in doctor(site)[1].items() if one["verdict"] == "fault"]
    assert ("GPUs" in faults) == (simulation == "local")


@pytest.mark.parametrize("installed", [True, False])
def test_declared_gpus_whose_driver_does_not_answer_are_a_fault(
    site: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    (site / "mqi.yaml").write_text(
        "site: {timezone: Asia/Seoul}\n"
        "execution: {gpus: [{index: 0, uuid: GPU-a, memory_mb: 24000}]}\n"
        "engine:\n"
        "  profile: mine\n"
        "  profiles: {mine: {command: ['true', '{tps}'], version: '1', needs_gpu: true}}\n"
    )
    monkeypatch.setattr("mqi_dagster.operations.diagnosis.local_gpus", lambda: [])
    monkeypatch.setattr("mqi_dagster.execution.gpus.nvml_is_installed", lambda: installed)
    found = doctor(site)[1]["GPUs"]
    # Where there is no NVML at all, the declaration is all there is.
    assert found["verdict"] == ("fault" if installed else "ok")
    assert "GPU-a" in found["found"] or not installed


def test_where_a_service_manager_runs_the_services_nobody_is_told_to_start_them(site: Path) -> None:
    locks = [take(read_settings(site / "mqi.yaml"), service) for service in Service]
    try:
        found = doctor(site)[1]
    finally:
        for lock in locks:
            os.close(lock)
    assert found["units"]["verdict"] == "ok"
    assert "services" not in found
