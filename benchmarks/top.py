"""What `mqi top` costs: time of a look, and the share of a core of a board that is open for a minute.

    python -m benchmarks.top [seconds]

Sites of 10, 1,000 and 10,000 waiting beams are seeded, with 200 runs in Dagster's queue where there are so
many, and eight beams whose progress is reported as their workers do it.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from mqi_dagster.operations.instance import open_instance, write_instance
from tests.worklist.seeded import Seeded
from tests.worklist.terminal import Terminal

SIZES = (10, 1000, 10_000)
REPORTS_PER_SECOND = 2
WORKING = 8


def looks(site: Seeded) -> tuple[float, float, float]:
    """Seconds of the first look, and of a later one: elapsed, and of a core."""
    work = site.worklist()
    began = time.monotonic()
    work.snapshot()
    first = time.monotonic() - began
    began, cpu = time.monotonic(), time.process_time()
    for _ in range(20):
        work.snapshot()
    return first, (time.monotonic() - began) / 20, (time.process_time() - cpu) / 20


def reporting(site: Seeded, beams: list[str], runs: dict[str, str], stop: threading.Event) -> None:
    """Progress of the beams in work, as their workers report it."""
    step = 0
    while not stop.wait(1.0 / REPORTS_PER_SECOND):
        beam = beams[step % len(beams)]
        site.ledger().progress.record(beam, runs[beam], "simulating", 1 + step % 10, 10, float(step % 100))
        step += 1


def open_board(site: Seeded, seconds: float) -> float:
    """CPU seconds a minute of an open board."""
    runs = {
        run.tags["dagster/partition"]: run.run_id
        for run in site.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    }
    stop = threading.Event()
    reporter = threading.Thread(target=reporting, args=(site, sorted(runs), runs, stop))
    reporter.start()
    folder = site.site.settings_file.parent
    try:
        with Terminal("top", "--site", str(folder), columns=120, rows=40) as terminal:
            terminal.see("simulating", seconds=300)
            began, cpu = time.monotonic(), terminal.cpu_seconds
            while time.monotonic() - began < seconds:
                terminal._read(0.5)
            spent, passed = terminal.cpu_seconds - cpu, time.monotonic() - began
            terminal.press("q")
            terminal.end(60)
    finally:
        stop.set()
        reporter.join()
    return spent / passed * 60


def main() -> None:
    """Print a row a size."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    print("    beams  first look  later look  of a core  an open board, CPU s a minute  share of a core")
    for size in SIZES:
        with tempfile.TemporaryDirectory() as place:
            site = Seeded(Path(place) / "site", None)
            write_instance(site.site.settings)
            with open_instance(site.site.settings) as instance:
                site.instance, site.now = instance, datetime.now(UTC)
                site.waiting(size, queued=min(200, size // 2), working=min(WORKING, size // 2))
                first, later, core = looks(site)
                minute = open_board(site, seconds)
            print(
                f"{size:9,} {first:9.2f} s {1000 * later:8.0f} ms {1000 * core:7.0f} ms"
                f" {minute:30.1f} {minute / 0.6:15.1f} %",
                flush=True,
            )


if __name__ == "__main__":
    main()
