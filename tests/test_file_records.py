"""Dagster's records in files: what is kept open, and what is seen of a file that others write or replace."""

from __future__ import annotations

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
from sqlalchemy import Engine, event

from mqi_dagster.operations.instance import open_instance, write_instance
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


def test_threads_that_ask_at_once_get_connections_of_their_own(tmp_path: Path) -> None:
    with open_instance(site(tmp_path)) as instance:
        wrong: list[BaseException] = []

        def often(number: int) -> None:
            try:
                for turn in range(5):
                    ask(instance, f"P{number}{turn}.fx0001")
            except Exception as error:  # noqa: BLE001 - told by the thread that waits
                wrong.append(error)

        threads = [threading.Thread(target=often, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert len(instance.get_dynamic_partitions("case")) == 30


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
        assert (page, mode) == (1024, "wal")
        versions = instance.event_log_storage.alembic_version()
        assert versions is not None and versions[0] == versions[1]
