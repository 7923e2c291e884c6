"""Dagster's records in files: what is kept open, and what is seen of a file that others write or replace."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import Engine, event, text

from mqi_dagster.dagster_internals import SqlRunStorage
from mqi_dagster.operations.instance import open_instance, write_instance
from mqi_dagster.resources import file_records
from mqi_dagster.settings import Settings, parse_settings
from tests.waiting import wait_for


def site(folder: Path) -> Settings:
    settings = parse_settings({"site": {"timezone": "UTC"}}, folder)
    write_instance(settings)
    return settings


@contextmanager
def connections() -> Iterator[list[str]]:
    """The databases that this process connects to, in their order."""
    opened: list[str] = []

    def note(connection: Any, _record: object) -> None:
        opened.append(Path(connection.execute("PRAGMA database_list").fetchone()[2]).stem)

    event.listen(Engine, "connect", note)
    try:
        yield opened
    finally:
        event.remove(Engine, "connect", note)


def ask(instance: dg.DagsterInstance, key: str) -> None:
    """Questions to all three of Dagster's databases, and an event."""
    instance.add_dynamic_partitions("case", [key])
    instance.report_runless_asset_event(dg.AssetMaterialization("dose", partition=key))
    assert instance.get_latest_materialization_event(dg.AssetKey("dose")) is not None
    assert instance.get_runs_count() == 0
    assert instance.all_instigator_state() == []


def test_no_question_opens_a_database_again(tmp_path: Path) -> None:
    with open_instance(site(tmp_path)) as instance:
        ask(instance, "P1.fx0001")
        with connections() as opened:
            for number in range(2, 12):
                ask(instance, f"P{number}.fx0001")
    assert set(opened) == {".db"}, "only what is told of no run stands in a run's file"


def test_two_sites_of_one_process_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = site(tmp_path / "one"), site(tmp_path / "other")
    monkeypatch.setenv("DAGSTER_HOME", str(one.paths.dagster_home))
    with open_instance(one) as first, open_instance(other) as second:
        first.add_dynamic_partitions("case", ["P1.fx0001"])
        assert second.get_dynamic_partitions("case") == []
        with dg.DagsterInstance.from_ref(second.get_ref()) as again:
            assert again.get_dynamic_partitions("case") == []


def test_a_copied_site_has_records_of_its_own_for_dagsters_own_commands_too(tmp_path: Path) -> None:
    with open_instance(site(tmp_path / "one")) as instance:
        instance.add_dynamic_partitions("case", ["P1.fx0001"])
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    script = "import dagster as dg; dg.DagsterInstance.get().add_dynamic_partitions('case', ['P2.fx0001'])"
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path / "copy" / "dagster")}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    with open_instance(site(tmp_path / "one")) as instance:
        assert instance.get_dynamic_partitions("case") == ["P1.fx0001"]
    with open_instance(site(tmp_path / "copy")) as instance:
        assert instance.get_dynamic_partitions("case") == ["P1.fx0001", "P2.fx0001"]


def test_files_that_are_restored_under_an_open_instance_are_read(tmp_path: Path) -> None:
    with open_instance(site(tmp_path / "backup")) as instance:
        ask(instance, "P1.fx0001")
    with open_instance(site(tmp_path / "site")) as board:
        ask(board, "P2.fx0001")
        for name in ("history/runs/index.db", "history/runs.db", "schedules/schedules.db"):
            restored = tmp_path / "site" / "dagster" / name
            shutil.copy(tmp_path / "backup" / "dagster" / name, restored.with_suffix(".new"))
            for log in restored.parent.glob(f"{restored.name}-*"):
                log.unlink()
            restored.with_suffix(".new").rename(restored)
        assert board.get_dynamic_partitions("case") == ["P1.fx0001"]
        made = board.get_materialized_partitions(dg.AssetKey("dose"))
        assert made == {"P1.fx0001"}
        ask(board, "P3.fx0001")
    with open_instance(site(tmp_path / "site")) as instance:
        assert instance.get_materialized_partitions(dg.AssetKey("dose")) == {"P1.fx0001", "P3.fx0001"}


@dg.job
def _nothing() -> None:
    """A run to tell events of."""


def test_who_watches_a_run_is_told_of_each_event_while_its_worker_is_still_there(tmp_path: Path) -> None:
    """As Dagster's pages do, which see a run's file change only when it is closed."""
    with open_instance(site(tmp_path)) as worker, open_instance(site(tmp_path)) as pages:
        run = worker.create_run_for_job(_nothing)
        worker.report_engine_event("first", run)
        told: list[str] = []
        changed = threading.Event()

        def tell(entry: dg.EventLogEntry, _cursor: str) -> None:
            told.append(entry.message)
            changed.set()

        pages.watch_event_logs(run.run_id, None, tell)
        for word in ("second", "third"):
            changed.clear()
            worker.report_engine_event(word, run)
            wait_for(lambda word=word: any(word in one for one in told), f"the {word} event is told")


def test_threads_that_ask_at_once_wait_for_nobody(tmp_path: Path) -> None:
    """Each of them holds its question open until all have asked."""
    storage = open_instance(site(tmp_path)).run_storage
    assert isinstance(storage, SqlRunStorage)
    together, answers = threading.Barrier(6), []

    def question() -> None:
        with storage.connect() as connection:
            together.wait(timeout=60)
            answers.append(connection.execute(text("SELECT count(*) FROM runs")).scalar())

    threads = [threading.Thread(target=question) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [0] * 6
    storage.dispose()


def test_a_file_that_others_write_all_the_time_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time may move on between two looks at it, as often as one looks."""
    moments = itertools.count()
    with open_instance(site(tmp_path)) as instance:
        ask(instance, "P1.fx0001")
        monkeypatch.setattr(file_records, "_identity", lambda _: (next(moments),))
        for number in range(2, 5):
            ask(instance, f"P{number}.fx0001")


def test_an_instance_that_is_closed_leaves_no_file_open(tmp_path: Path) -> None:
    settings = site(tmp_path)
    for _ in range(2):
        with open_instance(settings) as instance:
            ask(instance, "P1.fx0001")
    held = [one.readlink() for one in Path("/proc/self/fd").iterdir() if one.exists()]
    assert [one for one in held if one.is_relative_to(tmp_path)] == []
    assert list((tmp_path / "dagster").rglob("*.db-wal")) == []


def test_who_only_reads_makes_no_file_of_a_run_that_has_left_none(tmp_path: Path) -> None:
    settings = site(tmp_path)
    with open_instance(settings) as instance:
        run = instance.create_run_for_job(_nothing)
        instance.report_engine_event("first", run)
    path = tmp_path / "dagster" / "history" / "runs" / f"{run.run_id}.db"
    path.unlink()
    script = (
        "import sys, dagster as dg; from mqi_dagster.worklist.reading import read_only_process;"
        "read_only_process(); dg.DagsterInstance.get().all_logs(sys.argv[1])"
    )
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path / "dagster")}
    done = subprocess.run(
        [sys.executable, "-c", script, run.run_id], env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0 and "readonly" in done.stderr
    assert not path.exists() or path.stat().st_size == 0


def test_the_log_of_a_removed_file_brings_nothing_back(tmp_path: Path) -> None:
    with open_instance(site(tmp_path)) as instance:
        run = instance.create_run_for_job(_nothing)
        instance.report_engine_event("first", run)
        path = tmp_path / "dagster" / "history" / "runs" / f"{run.run_id}.db"
        with closing(sqlite3.connect(path)) as holder:
            # Whoever has the file open keeps its log.
            holder.execute("SELECT count(*) FROM event_logs").fetchone()
            instance.report_engine_event("second", run)
            log = path.with_name(f"{path.name}-wal").read_bytes()
    assert log
    for left in path.parent.glob(f"{path.name}*"):
        left.unlink()
    path.with_name(f"{path.name}-wal").write_bytes(log)
    with open_instance(site(tmp_path)) as instance:
        assert instance.all_logs(run.run_id) == []


@pytest.mark.parametrize("damage", [b"", b"no database at all", b"SQLite format 3\0" + bytes(4000)])
def test_a_run_begins_well_whatever_has_become_of_the_empty_file(tmp_path: Path, damage: bytes) -> None:
    with open_instance(site(tmp_path)) as instance:
        instance.report_engine_event("first", instance.create_run_for_job(_nothing))
    (empty,) = (tmp_path / "dagster" / "history").glob("empty-run-*")
    empty.write_bytes(damage)
    with open_instance(site(tmp_path)) as instance:
        run = instance.create_run_for_job(_nothing)
        instance.report_engine_event("second", run)
        assert [entry.message for entry in instance.all_logs(run.run_id)] == ["second"]
    left = {one.name for one in (tmp_path / "dagster" / "history").iterdir()}
    assert left == {"runs", "runs.db", empty.name}


def test_a_home_below_the_users_own_folder_is_what_dagster_takes_it_for(tmp_path: Path) -> None:
    site(tmp_path)
    script = "import dagster as dg; dg.DagsterInstance.get().add_dynamic_partitions('case', ['P1.fx0001'])"
    environment = {**os.environ, "HOME": str(tmp_path), "DAGSTER_HOME": "~/dagster"}
    subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path, check=True)
    with open_instance(site(tmp_path)) as instance:
        assert instance.get_dynamic_partitions("case") == ["P1.fx0001"]


def test_files_of_dagsters_own_storage_go_on(tmp_path: Path) -> None:
    settings = site(tmp_path)
    with dg.instance_for_test(temp_dir=str(settings.paths.dagster_home)) as instance:
        instance.add_dynamic_partitions("case", ["P1.fx0001"])
        run = instance.create_run_for_job(_nothing)
        instance.report_engine_event("first", run)
    write_instance(settings)
    with open_instance(settings) as instance:
        assert instance.get_dynamic_partitions("case") == ["P1.fx0001"]
        instance.report_engine_event("second", run)
        assert len(instance.all_logs(run.run_id)) == 2


def test_the_file_of_a_run_holds_what_dagster_wants_and_little_else(tmp_path: Path) -> None:
    with open_instance(site(tmp_path)) as instance:
        run = instance.create_run_for_job(_nothing)
        instance.report_engine_event("first", run)
        path = tmp_path / "dagster" / "history" / "runs" / f"{run.run_id}.db"
        with closing(sqlite3.connect(path)) as database:
            (page,) = database.execute("PRAGMA page_size").fetchone()
            (mode,) = database.execute("PRAGMA journal_mode").fetchone()
            revision = database.execute("SELECT version_num FROM alembic_version").fetchall()
            tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        assert (page, mode) == (1024, "wal")
        versions = instance.event_log_storage.alembic_version()
        assert versions is not None and revision == [(versions[1],)]
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        run = instance.create_run_for_job(_nothing)
        instance.report_engine_event("first", run)
        with closing(sqlite3.connect(next(tmp_path.rglob(f"{run.run_id}.db")))) as database:
            assert database.execute("SELECT count(*) FROM sqlite_master").fetchone() == tables
