"""``mqi top`` as a person and a script use it: keys, sizes, no terminal, and whatever is away."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from mqi_dagster.ledger.leases import Need
from mqi_dagster.ledger.slots import Slot, SlotKind
from mqi_dagster.ledger.tables import REVISION
from mqi_dagster.worklist import Work
from tests.worklist.seeded import Seeded
from tests.worklist.terminal import MQI, Terminal

FIRST = "P000000000.fx0001__b01"
SECOND = "P000000000.fx0001__b02"


def folder(site: Seeded) -> Path:
    return site.site.settings_file.parent


def busy(site: Seeded, beams: int = 30) -> None:
    """Two simulations on three GPUs, a queue, and beams that wait."""
    site.now = datetime.now(UTC)
    site.waiting(beams, queued=6, working=2)
    ledger = site.ledger()
    gpus = [Slot(SlotKind.GPU, index, uuid=f"GPU-{index}", memory_mb=24576) for index in range(3)]
    ledger.slots.declare("node1", gpus)
    for number in (1, 2):
        ledger.leases.acquire(
            f"P000000000.fx0001__b{number:02d}", "run", Need(SlotKind.GPU), stale_after=timedelta(seconds=60)
        )


def top(site: Seeded, *options: str, status: int = 0) -> str:
    done = subprocess.run(
        [str(MQI), "top", "--site", str(folder(site)), *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + (done.stderr if status else "")


def files_of(site: Seeded) -> dict[str, tuple[int, int]]:
    """Size and time of every file of the records, but for what any reader of SQLite leaves beside them."""
    return {
        path.relative_to(folder(site)).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for root in ("dagster", "state")
        for path in (folder(site) / root).rglob("*")
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


def test_a_script_gets_everything_as_one_document(seeded: Seeded) -> None:
    busy(seeded)
    said = json.loads(top(seeded, "--json"))
    assert Work.model_validate(said).version == 2
    assert datetime.fromisoformat(said["at"]).utcoffset() == timedelta(0)
    assert (len(said["cases"]), len(said["beams"])) == (10, 30)
    row = next(row for row in said["beams"] if row["beam"] == SECOND)
    assert (row["stage"], row["percent"], row["batch"], row["batches"]) == ("simulating", 10.0, 2, 10)
    assert row["slot"] == "node1/gpu1"
    assert [gpu["owner"] for gpu in said["gpus"]] == [FIRST, SECOND, None]


def test_every_key_of_the_document_is_described() -> None:
    page = (Path(__file__).parents[2] / "docs" / "top.md").read_text()
    schema = Work.model_json_schema()
    keys = {key for part in (schema, *schema["$defs"].values()) for key in part.get("properties", {})}
    assert {key for key in keys if f"`{key}`" not in page} == set()


def test_without_a_terminal_it_prints_once_and_writes_nothing(seeded: Seeded) -> None:
    busy(seeded, beams=300)
    before = files_of(seeded)
    said = top(seeded)
    assert "\x1b" not in said
    assert f"{SECOND}" in said and "node1/gpu2" in said and "200 more; --json lists all" in said
    assert files_of(seeded) == before
    assert top(seeded, "--once", "--cases", "--text", "fx0001").count("beams at work") == 3


def test_a_person_filters_moves_looks_into_a_log_and_quits(seeded: Seeded) -> None:
    busy(seeded)
    log = seeded.site.engine_logs / SECOND
    log.mkdir(parents=True)
    (log / "d-1.log").write_text("".join(f"line {number} of the engine\n" for number in range(200)))
    with Terminal("top", "--site", str(folder(seeded)), "--interval", "0.3") as terminal:
        first = terminal.see("simulating")
        assert len(first) == 24 and all(len(line) <= 80 for line in first)
        assert any(line.startswith("node1/gpu1") and "10 %" in line for line in first)
        terminal.press("j")
        terminal.see(f"{SECOND}: simulating")
        terminal.press("l")
        assert "attempt 1" in terminal.see("line 199 of the engine")[0]
        terminal.press("\x1b[5~")
        terminal.see("line 189 of the engine")
        terminal.press("\x1b")
        terminal.press("/b03\r")
        terminal.see("10 beams “b03”")
        terminal.press("s")
        terminal.see("2 beams in work “b03”")
        terminal.press("\x1b")
        terminal.see("30 beams  q quit")
        terminal.press("c")
        terminal.see("10 cases")
        terminal.see("0 of 3")
        terminal.press("q")
        assert terminal.end() == 0
        assert terminal.left_clean


@pytest.mark.parametrize(("columns", "rows"), [(40, 10), (80, 24), (220, 60)])
def test_it_fits_any_terminal_and_follows_its_size(seeded: Seeded, columns: int, rows: int) -> None:
    busy(seeded)
    with Terminal("top", "--site", str(folder(seeded)), columns=columns, rows=rows) as terminal:
        lines = terminal.see("P0000")
        assert len(lines) == rows and max(map(len, lines)) <= columns
        terminal.resize(100, 30)
        terminal.wait_for(
            lambda lines: len(lines) == 30 and max(map(len, lines)) == 100, "the new size", seconds=30
        )
        terminal.press("\x03")
        assert terminal.end() == 0
        assert terminal.left_clean


def test_it_goes_on_while_the_records_are_away(seeded: Seeded) -> None:
    busy(seeded)
    with Terminal("top", "--site", str(folder(seeded)), "--interval", "0.3") as terminal:
        terminal.see("simulating")
        state, aside = folder(seeded) / "state", folder(seeded) / "aside"
        state.rename(aside)
        lines = terminal.see(" old: ")
        assert any("simulating" in line for line in lines)
        aside.rename(state)
        terminal.wait_for(lambda lines: not any(" old: " in line for line in lines), "the records are back")
        terminal.see("simulating")
        terminal.press("q")
        assert terminal.end() == 0


def test_a_script_is_told_that_the_records_are_away(seeded: Seeded) -> None:
    for path in (folder(seeded) / "state").glob("ledger*"):
        path.unlink()
    assert "there is no ledger yet" in top(seeded, "--json", status=1)
    assert not (folder(seeded) / "state" / "ledger.sqlite").exists()


@pytest.mark.parametrize(
    ("revision", "word"),
    [
        ("9999", "it was written by a newer one"),
        pytest.param("0001", "the services migrate it", marks=pytest.mark.slow),
    ],
)
def test_a_ledger_of_another_revision_is_refused(seeded: Seeded, revision: str, word: str) -> None:
    assert revision < REVISION or revision > REVISION
    with seeded.ledger().database.write() as connection:
        connection.execute(text(f"UPDATE mqi_ledger_version SET version_num = '{revision}'"))
    assert word in " ".join(top(seeded, "--json", status=1).split())
    with Terminal("top", "--site", str(folder(seeded))) as terminal:
        assert terminal.end(60) == 1
        assert terminal.left_clean
    with seeded.ledger().database.read() as connection:
        assert connection.execute(text("SELECT version_num FROM mqi_ledger_version")).scalar() == revision


def write_often(site: Seeded, times: int) -> None:
    """Write into both databases, one write after the other; each raises where it gets no turn."""
    run = site.instance.get_runs(limit=1)[0].run_id
    for number in range(times):
        site.ledger().progress.record(FIRST, "run", "simulating", 1, 10, 5.0)
        site.instance.add_run_tags(run, {"mqi/progress": f"{number} %"})


@pytest.mark.slow
def test_ten_at_once_keep_no_writer_out(seeded: Seeded) -> None:
    busy(seeded, beams=3000)
    boards = [Terminal("top", "--site", str(folder(seeded)), "--interval", "0.5") for _ in range(10)]
    try:
        for board in boards:
            board.see("simulating", seconds=240)
        stop = threading.Event()

        def drain() -> None:
            while not stop.is_set():
                for board in boards:
                    board._read(0.05)

        reader = threading.Thread(target=drain)
        reader.start()
        write_often(seeded, 200)
        stop.set()
        reader.join()
        for board in boards:
            board.press("q")
            assert board.end(60) == 0
    finally:
        for board in boards:
            board.__exit__(None, None, None)


def test_no_write_gets_through(seeded: Seeded, tmp_path: Path) -> None:
    ledger = seeded.site.open_ledger_for_reading()
    with pytest.raises(Exception, match="readonly"):
        ledger.progress.record(FIRST, "run", "simulating")
    script = (
        "from mqi_dagster.worklist.reading import read_only_process; read_only_process();"
        "import dagster as dg, sys; dg.DagsterInstance.from_config(sys.argv[1])"
        ".add_dynamic_partitions('case', ['P1.fx0001'])"
    )
    done = subprocess.run(
        [str(MQI.with_name("python")), "-c", script, str(folder(seeded) / "dagster")],
        capture_output=True,
        text=True,
        env={**os.environ, "DAGSTER_HOME": str(folder(seeded) / "dagster")},
    )
    assert done.returncode != 0 and "readonly" in done.stderr
    assert seeded.instance.get_dynamic_partitions("case") == []


def test_a_writer_that_holds_the_ledger_is_not_waited_for(seeded: Seeded) -> None:
    busy(seeded)
    held = sqlite3.connect(folder(seeded) / "state" / "ledger.sqlite", isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    said: dict[str, Any] = json.loads(top(seeded, "--json"))
    held.execute("ROLLBACK")
    assert len(said["beams"]) == 30
