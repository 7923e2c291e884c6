"""What a beam leaves in Dagster's records on SQLite: bytes by database and table, and what is large in them.

python -m benchmarks.records [--histories 20000] [--beams 3]

Two cases are run into one site. What the second one adds is counted, its intake and conclusion with its
beams; tables and indexes that a new database has without a row count for the run that it was made for.
"""

from __future__ import annotations

import argparse
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.overhead import BIN, MACHINES
from mqi_dagster.files import size_of
from mqi_dagster.machine import read_machines
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest


def bytes_by_table(home: Path) -> Counter[str]:
    """Bytes below Dagster's folder: of each database by table or index, and of what is no database."""
    found: Counter[str] = Counter()
    for path in sorted(home.rglob("*")):
        if not path.is_file():
            continue
        if path.suffix != ".db":
            found[f"files of {path.relative_to(home).parts[0]}"] += size_of(path)
            continue
        name = path.stem if path.stem in ("index", "runs", "schedules") else "shard of a run"
        with sqlite3.connect(path) as database:
            for table, size in database.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name"):
                found[f"{name}: {'tables without rows' if size <= 4096 else table}"] += int(size)
    return found


def largest_events(home: Path) -> Counter[str]:
    """Bytes of events by what they are, in all runs."""
    found: Counter[str] = Counter()
    for path in sorted((home / "history" / "runs").glob("*-*.db")):
        with sqlite3.connect(path) as database:
            for kind, size in database.execute(
                "SELECT coalesce(dagster_event_type, 'log line'), length(event) FROM event_logs"
            ):
                found[kind] += size
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--histories", type=int, default=20_000)
    parser.add_argument("--beams", type=int, default=3)
    options = parser.parse_args()
    subprocess.run([BIN / "mqi", "engine", "install"], check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory(prefix="mqi-records.") as folder:
        inbox, out = Path(folder) / "inbox", Path(folder) / "out"
        inbox.mkdir()
        machine = read_machines(MACHINES).named("GENERIC")
        before: Counter[str] = Counter()
        events: Counter[str] = Counter()
        for seed in (1, 2):
            before, events = bytes_by_table(out / "dagster"), largest_events(out / "dagster")
            request = DeliveryRequest(plan=BuiltInPlan(beams=options.beams), seed=seed)
            case = simulate_delivery(request, machine, inbox)
            command = ["case", "run", case.folder, "--out", out, "--timezone", "UTC"]
            subprocess.run(
                [BIN / "mqi", *command, "--histories", str(options.histories), "--json"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        added = bytes_by_table(out / "dagster") - before
        print(f"{'a beam leaves':44} {added.total() / options.beams / 1000:8.1f} kB")
        for name, size in added.most_common(14):
            print(f"  {name:42} {size / options.beams / 1000:8.1f} kB")
        print("events of a beam")
        for name, size in (largest_events(out / "dagster") - events).most_common(8):
            print(f"  {name:42} {size / options.beams / 1000:8.1f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
