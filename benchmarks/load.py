"""The platform under a crowd: thousands of waiting beams, a full queue, and one urgent case.

    python -m benchmarks.load [--minutes 15] [--waiting 10000] [--queued 200] [--arriving 50]

For SQLite and for PostgreSQL, one after the other: cases of ten beams stand as taken in, none of whose beams
was asked for yet; a few more are dropped into the inbox; the services are started and the queue fills. Then
the site is watched, while an urgent case arrives. Simulations are by the declared test engine. Printed side
by side: how long the urgent case waits for its runs, CPU and memory of the services, how long each sensor's
ticks and the pages of an asset take.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deploy"))

from benchmarks.load_site import LoadSite
from benchmarks.load_watch import Watch, Watched, course, spread
from tests.postgres.postgres_server import running_postgres

BEAMS = 10
URGENT_BEAMS = 2
TICK_LIMIT = 10.0


def watched(
    name: str, options: argparse.Namespace, folder: Path, database: dict[str, object] | None
) -> Watched:
    """The figures of one site under load."""

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {name}: {text}", flush=True)

    folder.mkdir()
    site = LoadSite(folder, database, options.engine_seconds, options.interval)
    started = time.monotonic()
    site.seed(options.waiting // BEAMS, BEAMS)
    for seed in range(1, options.arriving + 1):
        site.deliver(seed, BEAMS)
    took = time.monotonic() - started
    say(f"{options.waiting} beams wait and {options.arriving} cases arrive, made in {took:.0f} s")
    site.start()
    try:
        filling, started = Watch(site), time.monotonic()
        while not filling.found.queued or filling.found.queued[-1] < options.queued:
            if time.monotonic() - started > options.fill_minutes * 60:
                break
            filling.until(10)
        say(f"{filling.found.queued[-1]} runs stand in the queue after {time.monotonic() - started:.0f} s")
        watch = Watch(site)
        watch.until(options.minutes * 60 / 3)
        urgent = site.deliver(10**6, URGENT_BEAMS)
        site.announce_urgent(urgent, 10)
        watch.until(options.minutes * 60 * 2 / 3, urgent)
    finally:
        site.stop()
    return watch.found


def show(found: dict[str, Watched]) -> bool:
    """Print the figures side by side; whether no tick was longer than it may be."""
    rows: list[tuple[str, list[str]]] = []
    every = list(found.values())
    for what in ("intake asked for", "intake started", "beam asked for", "beam started"):
        values = [one.urgent.get(what) for one in every]
        rows.append((f"urgent case: {what}", ["not yet" if v is None else f"{v:.0f} s" for v in values]))
    rows.append(("runs in the queue", [course([float(n) for n in one.queued], "") for one in every]))
    for service in every[0].cpu:
        rows.append((f"{service}: CPU of one core", [spread(one.cpu[service], "%") for one in every]))
        rows.append((f"{service}: memory", [course(one.memory[service], "MiB") for one in every]))
    for sensor in sorted({sensor for one in every for sensor in one.ticks}):
        rows.append((f"tick of {sensor}", [spread(one.ticks.get(sensor, []), "s") for one in every]))
    for page in every[0].pages:
        rows.append((f"page: {page}", [spread(one.pages[page], "s") for one in every]))
    print(
        f"\n{'median / worst (how many), or start -> middle -> end':48}" + "".join(f"{n:>34}" for n in found)
    )
    for name, cells in rows:
        print(f"{name:48}" + "".join(f"{cell:>34}" for cell in cells))
    worst = max((tick for one in every for ticks in one.ticks.values() for tick in ticks), default=0.0)
    met = worst <= TICK_LIMIT
    print(f"\nno tick above {TICK_LIMIT:g} s: {'met' if met else 'NOT MET'} (worst {worst:.2f} s)")
    return met


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15, help="of watching, each")
    parser.add_argument("--fill-minutes", type=float, default=10, help="at most, until the queue is full")
    parser.add_argument("--waiting", type=int, default=10_000, help="beams that wait to be asked for")
    parser.add_argument(
        "--queued", type=int, default=200, help="runs in Dagster's queue before it is watched"
    )
    parser.add_argument("--arriving", type=int, default=50, help="cases dropped into the inbox")
    parser.add_argument("--interval", type=int, default=30, help="seconds between two looks of a sensor")
    parser.add_argument("--engine-seconds", type=float, default=20, help="of one simulation")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    options = parser.parse_args()
    found: dict[str, Watched] = {}
    with tempfile.TemporaryDirectory(prefix="mqi-load.") as base:
        for name in options.database or ("sqlite", "postgresql"):
            folder = Path(base) / name
            if name == "sqlite":
                found[name] = watched(name, options, folder, None)
            else:
                with running_postgres() as server:
                    found[name] = watched(name, options, folder, server.section)
    return 0 if show(found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
