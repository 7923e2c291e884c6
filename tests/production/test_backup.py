"""Backup and restore of a site's records: whole, private, and refused where something would be lost."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from alembic import command
from sqlalchemy import text
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.errors import ConfigurationError, InfrastructureError, MqiError, SignInError, StoreError
from mqi_dagster.ledger.leases import Lease, Need
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.location import ledger_url
from mqi_dagster.ledger.slots import Slot, SlotKind
from mqi_dagster.operations import people, service_locks
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.operations.service_locks import Service
from mqi_dagster.people.rights import Actor, Right, Role
from mqi_dagster.resources.gpu_pool import this_host
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import Settings, read_settings
from mqi_dagster.store.store import Store
from tests.ledger.ledger_rows import deliveries_by_fraction
from tests.ledger.revisions import moved
from tests.postgres.postgres_server import Server, on_postgres, running_postgres


def mqi(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if isinstance(result.exception, MqiError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["files", on_postgres])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A site in whose records stand a case, a run and a partition, and in whose store a result."""
    folder = tmp_path / "site"
    mqi("init", folder, "--timezone", "Asia/Seoul")
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        server.new_database("backed_up")
        server.new_database("elsewhere")
        content = yaml.safe_load((folder / "mqi.yaml").read_text())
        content["database"] = {**server.section, "name": "backed_up"}
        (folder / "mqi.yaml").write_text(yaml.safe_dump(content))
        mqi("init", folder)
    settings = read_settings(folder / "mqi.yaml")
    fill(settings)
    store = Store(settings.paths.data)
    with store.stage("P1.fx0001", "b02", "rt_dose") as staged:
        (staged / "rt_dose.dcm").write_bytes(b"a dose")
        store.publish(staged, "P1.fx0001", "b02", "rt_dose", "0123", meta={})
    return folder


def fill(settings: Settings) -> None:
    ledger = Ledger.open(ledger_url(settings))
    assert ledger.fractions.number("P1", ["d1"]) == 1
    ledger.close()
    with open_instance(settings) as instance:
        instance.add_dynamic_partitions("case", ["P1.fx0001"])
        instance.add_run(dg.DagsterRun(job_name="beam", run_id="0b" * 16, status=dg.DagsterRunStatus.SUCCESS))
        instance.report_runless_asset_event(dg.AssetMaterialization("rt_dose", partition="P1.fx0001__b02"))


def found(settings: Settings) -> tuple[object, ...]:
    ledger = Ledger.open(ledger_url(settings))
    fractions = deliveries_by_fraction(ledger, "P1")
    ledger.close()
    with open_instance(settings) as instance:
        made = instance.fetch_materializations(dg.AssetKey("rt_dose"), limit=9).records
        return (
            fractions,
            instance.get_dynamic_partitions("case"),
            [run.run_id for run in instance.get_runs()],
            [record.partition_key for record in made],
        )


EVERYTHING = ({1: {"d1"}}, ["P1.fx0001"], ["0b" * 16], ["P1.fx0001__b02"])


def elsewhere(site: Path) -> list[str]:
    """What a restore needs where the records are on a server."""
    on_server = read_settings(site / "mqi.yaml").database.host is not None
    return ["--database", "elsewhere"] if on_server else []


def test_the_records_of_a_restored_site_have_the_journal_that_dagster_gives_them(tmp_path: Path) -> None:
    site = tmp_path / "site"
    mqi("init", site, "--timezone", "Asia/Seoul")
    fill(read_settings(site / "mqi.yaml"))
    mqi("backup", tmp_path / "backup", "--site", site)
    mqi("restore", tmp_path / "backup", tmp_path / "other")

    def journals(folder: Path) -> dict[str, str]:
        found = {}
        for path in folder.rglob("*.db"):
            opened = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
            found[path.name] = str(opened.execute("PRAGMA journal_mode").fetchone()[0])
            opened.close()
        return found

    made = journals(site)
    assert {"runs.db", "index.db", "schedules.db"} <= made.keys()
    assert journals(tmp_path / "other") == made == dict.fromkeys(made, "wal")


def test_a_restored_site_knows_what_the_other_one_knew(site: Path, tmp_path: Path) -> None:
    said = mqi("backup", tmp_path / "backup", "--site", site, "--data")
    assert said.startswith(f"backup: {tmp_path}/backup, ")
    mqi("restore", tmp_path / "backup", tmp_path / "other", *elsewhere(site))
    restored = read_settings(tmp_path / "other/mqi.yaml")
    assert found(restored) == EVERYTHING
    assert (tmp_path / "other/secret").read_text() == (site / "secret").read_text()
    assert (tmp_path / "other/secret").stat().st_mode & 0o777 == 0o600
    result = tmp_path / "other/data/cases/P1.fx0001/b02/rt_dose"
    assert sorted(path.name for path in result.iterdir()) == ["0123"]
    assert (result / "0123/rt_dose.dcm").read_bytes() == b"a dose"
    assert [path.name for path in restored.paths.hu_tables.iterdir()] == ["typical_120kv.yaml"]
    assert found(read_settings(site / "mqi.yaml")) == EVERYTHING


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("rt_dose.dcm", b"a dosf", "file 1 of 1 differs from its manifest"),
        ("manifest.json", b"{}", "the manifest is damaged"),
        ("more.dcm", b"", "lacks 0 files of its manifest and holds 1 others"),
    ],
)
def test_a_damaged_result_is_no_backup_and_is_named(
    site: Path, tmp_path: Path, file: str, content: bytes, said: str
) -> None:
    (site / "data/cases/P1.fx0001/b02/rt_dose/0123" / file).write_bytes(content)
    with pytest.raises(StoreError, match=f"case P1.fx0001, beam b02, rt_dose.*: .*{said}.*--data"):
        mqi("backup", tmp_path / "backup", "--site", site, "--data")
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
    mqi("backup", tmp_path / "backup", "--site", site)


def test_nobody_else_can_read_a_backup(site: Path, tmp_path: Path) -> None:
    mqi("backup", tmp_path / "backup", "--site", site)
    for path in [tmp_path / "backup", *(tmp_path / "backup").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    manifest = json.loads((tmp_path / "backup/backup.json").read_text())
    assert manifest["format"] == 1 and manifest["data"] is False
    assert "data/cases/P1.fx0001/b02/rt_dose/0123/rt_dose.dcm" not in manifest["files"]
    password = read_settings(site / "mqi.yaml").database.password_file
    if password is not None:
        secret = password.read_bytes().strip()
        assert not [p for p in (tmp_path / "backup").rglob("*") if p.is_file() and secret in p.read_bytes()]


def test_what_is_there_is_replaced_only_on_demand(site: Path, tmp_path: Path) -> None:
    mqi("backup", tmp_path / "backup", "--site", site)
    with pytest.raises(ConfigurationError, match="not empty"):
        mqi("backup", tmp_path / "backup", "--site", site)
    settings = read_settings(site / "mqi.yaml")
    with open_instance(settings) as instance:
        instance.add_dynamic_partitions("case", ["P2.fx0001"])
    with pytest.raises(ConfigurationError, match="--overwrite"):
        mqi("restore", tmp_path / "backup", site)
    mqi("restore", tmp_path / "backup", site, "--overwrite")
    assert found(settings) == EVERYTHING


def test_a_site_whose_services_run_is_not_restored_over(site: Path, tmp_path: Path) -> None:
    mqi("backup", tmp_path / "backup", "--site", site)
    settings = read_settings(site / "mqi.yaml")
    lock = service_locks.take(settings, Service.DAEMON)
    try:
        with pytest.raises(ConfigurationError, match="running"):
            mqi("restore", tmp_path / "backup", site, "--overwrite")
    finally:
        os.close(lock)


def test_a_run_that_was_in_work_is_in_nobodys_hands_after_a_restore(tmp_path: Path) -> None:
    site = tmp_path / "site"
    mqi("init", site, "--timezone", "Asia/Seoul")
    with open_instance(read_settings(site / "mqi.yaml")) as instance:
        tags = {".dagster/grpc_info": "{}"}
        run = dg.DagsterRun(job_name="beam", run_id="0c" * 16, status=dg.DagsterRunStatus.STARTED, tags=tags)
        instance.add_run(run)
    mqi("backup", tmp_path / "backup", "--site", site)
    mqi("restore", tmp_path / "backup", tmp_path / "other")
    with open_instance(read_settings(tmp_path / "other/mqi.yaml")) as instance:
        assert [one.status for one in instance.get_runs()] == [dg.DagsterRunStatus.FAILURE]


def test_people_tokens_and_audit_come_back_and_nobody_is_signed_in(site: Path, tmp_path: Path) -> None:
    opened, actor = Site(site / "mqi.yaml"), Actor.of_this_account()
    anna = people.add_user(opened, actor, "anna", [Role.ADMIN])
    people.make_token(opened, actor, "anna", "tables", [Right.LOOK], timedelta(days=1))
    code = people.make_link(opened, actor, "anna")
    browser = people.sign_in(opened, anna, "password")
    noted = opened.ledger.audit.newest(1)[0]
    opened.ledger.close()
    mqi("backup", tmp_path / "backup", "--site", site)
    mqi("restore", tmp_path / "backup", tmp_path / "other", *elsewhere(site))
    other = Site(tmp_path / "other" / "mqi.yaml")
    assert [one.name for one in people.people(other, actor)] == ["anna"]
    assert [one.name for one in people.tokens_of(other, actor)] == ["tables"]
    day = timedelta(days=1)
    assert other.ledger.sessions.find(browser.session.fingerprint, day, day) is None
    with pytest.raises(SignInError):
        people.take_link(other, code)
    newest = other.ledger.audit.verify(number=noted.number, expected=noted.hash)
    assert newest is not None and (newest.number, newest.action) == (noted.number + 1, "restored")
    with pytest.raises(InfrastructureError, match="the audit is only added to"):  # noqa: SIM117
        with other.ledger.database.write() as connection:
            connection.execute(text("DELETE FROM mqi_audit"))
    other.ledger.close()


def test_no_slot_of_another_machine_is_held_after_a_restore(tmp_path: Path) -> None:
    site = tmp_path / "site"
    mqi("init", site, "--timezone", "Asia/Seoul")
    content = yaml.safe_load((site / "mqi.yaml").read_text())
    host = {"host": "login.example", "user": "mqi", "key_file": "key", "known_hosts": "known_hosts"}
    content["hosts"] = {"hpc": {**host, "slurm": {"root": "/srv/mqi"}}, "storage": host}
    (site / "mqi.yaml").write_text(yaml.safe_dump(content))
    ledger = Ledger.open(ledger_url(read_settings(site / "mqi.yaml")))
    for number, name in enumerate(["hpc", "old-machine", "storage", this_host()]):
        ledger.slots.declare(name, [Slot(SlotKind.CPU, 0)])
        need, minute = Need(SlotKind.CPU, name), timedelta(seconds=60)
        assert isinstance(ledger.leases.acquire(f"b{number}", "run", need, stale_after=minute), Lease)
    ledger.close()
    mqi("backup", tmp_path / "backup", "--site", site)
    mqi("restore", tmp_path / "backup", tmp_path / "other")
    restored = Ledger.open(ledger_url(read_settings(tmp_path / "other/mqi.yaml")))
    # The job on the cluster is taken over; what this machine holds, its workers' signs of life decide.
    assert {lease.host for lease in restored.leases.all()} == {"hpc", this_host()}
    restored.close()


@pytest.mark.parametrize("what", ["changed", "missing", "newer ledger", "newer format", "no backup"])
def test_a_backup_that_cannot_be_trusted_makes_no_site(tmp_path: Path, what: str) -> None:
    site, backup = tmp_path / "site", tmp_path / "backup"
    mqi("init", site, "--timezone", "Asia/Seoul")
    mqi("backup", backup, "--site", site)
    manifest = json.loads((backup / "backup.json").read_text())
    word = {
        "changed": "secret of the backup is damaged",
        "missing": "secret is missing",
        "newer ledger": "revision 9999",
        "newer format": "format 9",
        "no backup": "no backup.json",
    }[what]
    if what == "changed":
        (backup / "secret").write_text("5b" * 32)
    elif what == "missing":
        (backup / "secret").unlink()
    elif what == "no backup":
        (backup / "backup.json").unlink()
    else:
        change = {"ledger_revision": "9999"} if what == "newer ledger" else {"format": 9}
        (backup / "backup.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(ConfigurationError, match=word):
        mqi("restore", backup, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_ledger_of_a_newer_program_is_not_backed_up_as_if_it_were_ours(tmp_path: Path) -> None:
    site = tmp_path / "site"
    mqi("init", site, "--timezone", "Asia/Seoul")
    with sqlite3.connect(site / "state/ledger.sqlite") as ledger:
        ledger.execute("UPDATE mqi_ledger_version SET version_num = '9999'")
    with pytest.raises(ConfigurationError, match="revision 9999"):
        mqi("backup", tmp_path / "backup", "--site", site)
    assert not (tmp_path / "backup").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_backup_before_an_upgrade_holds_the_ledger_as_it_is(tmp_path: Path) -> None:
    site = tmp_path / "site"
    mqi("init", site, "--timezone", "Asia/Seoul")
    old = site / "state/ledger.sqlite"
    moved(ledger_url(read_settings(site / "mqi.yaml")), command.downgrade, "0003").dispose()
    mqi("backup", tmp_path / "backup", "--site", site)
    for place in (old, tmp_path / "backup/ledger.sqlite"):
        with sqlite3.connect(place) as ledger:
            assert ledger.execute("SELECT version_num FROM mqi_ledger_version").fetchall() == [("0003",)]
    assert json.loads((tmp_path / "backup/backup.json").read_text())["ledger_revision"] == "0003"
    # The next start migrates it, here and where the backup is restored.
    mqi("restore", tmp_path / "backup", tmp_path / "other")
    for settings in (read_settings(site / "mqi.yaml"), read_settings(tmp_path / "other/mqi.yaml")):
        assert Ledger.open(ledger_url(settings)).outcomes.open_retries() == []


LARGE = (
    "CREATE TABLE filling AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400) "
)
LARGE += "SELECT i, hex(randomblob(200)) AS text FROM n; CREATE INDEX filling_text ON filling (text)"


def damage(database: Path, how: str) -> None:
    """Damage a database as a disk does: within, or all of it."""
    if how == "empty":
        for beside in ("-wal", "-shm"):
            database.with_name(database.name + beside).unlink(missing_ok=True)
        database.write_bytes(b"")
        return
    with sqlite3.connect(database) as opened:
        opened.executescript(LARGE)
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = opened.execute("SELECT rootpage FROM sqlite_master WHERE name = 'filling_text'").fetchone()[0]
        size = opened.execute("PRAGMA page_size").fetchone()[0]
    opened.close()
    with database.open("r+b") as stream:
        stream.seek((page - 1) * size)
        stream.write(b"\x5a" * size)


@pytest.mark.parametrize("how", ["damaged", "empty"])
@pytest.mark.parametrize(
    "name", ["state/ledger.sqlite", "dagster/history/runs.db", "dagster/schedules/schedules.db"]
)
def test_a_damaged_database_is_an_error_and_no_backup(tmp_path: Path, name: str, how: str) -> None:
    site = tmp_path / "site"
    mqi("init", site, "--timezone", "Asia/Seoul")
    mqi("backup", tmp_path / "good", "--site", site)
    noted = (site / "state/last-backup.json").read_bytes()
    damage(site / name, how)
    with pytest.raises(MqiError, match=r"damaged|empty|no ledger"):
        mqi("backup", tmp_path / "backup", "--site", site)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good", "site"]
    assert (site / "state/last-backup.json").read_bytes() == noted


def test_a_secret_that_is_not_the_cases_own_is_not_backed_up(tmp_path: Path) -> None:
    site = tmp_path / "site"
    mqi("init", site, "--timezone", "Asia/Seoul")
    assert Site(site / "mqi.yaml").pseudonyms.plan("1.2.3")
    (site / "secret").write_text("5b" * 32)
    with pytest.raises(ConfigurationError, match="cases were named with"):
        mqi("backup", tmp_path / "backup", "--site", site)
    assert not (tmp_path / "backup").exists()
