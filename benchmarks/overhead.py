"""What the platform adds to the engine: wall time of a case minus the engine's own time.

Processor seconds are told where no engine runs: on a busy machine they are what can be compared.

python -m benchmarks.overhead [--histories 200000] [--beams 3]
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mqi_dagster.machine import read_machines
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest

BIN = Path(sys.executable).parent
MACHINES = Path(__file__).resolve().parents[1] / "mqi_dagster" / "config" / "machines"
_ENGINE_TIME = re.compile(r"Time taken by MC engine: ([0-9.eE+-]+) milli-seconds")


def engine_seconds(out: Path) -> list[float]:
    """The engine's own time of every simulation, from its logs."""
    logs = sorted((out / "state" / "logs" / "engine").rglob("*.log"))
    times = [float(found[1]) / 1000 for log in logs if (found := _ENGINE_TIME.search(log.read_text()))]
    if not times:
        raise SystemExit("no engine log with its own time was found")
    return times


def timed(argv: list[str]) -> tuple[float, float]:
    """Seconds of a command that must succeed, and those of processors that it and its children took."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, busy


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--histories", type=int, default=200_000)
    parser.add_argument("--beams", type=int, default=3)
    options = parser.parse_args()
    subprocess.run([BIN / "mqi", "engine", "install"], check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory(prefix="mqi-overhead.") as folder:
        inbox, out = Path(folder) / "inbox", Path(folder) / "out"
        inbox.mkdir()
        machine = read_machines(MACHINES).named("GENERIC")
        plan = BuiltInPlan(beams=options.beams)
        case = simulate_delivery(DeliveryRequest(plan=plan, seed=1), machine, inbox)
        run = [
            str(BIN / "mqi"), "case", "run", str(case.folder), "--out", str(out), "--timezone", "UTC",
            "--histories", str(options.histories), "--json",
        ]  # fmt: skip
        first, _ = timed(run)
        engine = engine_seconds(out)
        again, again_busy = timed(run)
        # What every command pays that runs something.
        start, start_busy = timed([sys.executable, "-c", "import mqi_dagster.definitions"])
        print(json.dumps({"beams": options.beams, "histories a beam": options.histories}))
        rows = [
            ("mqi case run, wall", first),
            ("engine's own time, sum of beams", sum(engine)),
            ("overhead of the platform", first - sum(engine)),
            ("overhead per beam", (first - sum(engine)) / options.beams),
            ("the same case again (nothing computed)", again),
            ("the same again, per beam", again / options.beams),
            ("the same again, per beam, processor", again_busy / options.beams),
            ("of it start and import, per beam", start / options.beams),
            ("of it start and import, processor", start_busy / options.beams),
        ]
        for name, seconds in rows:
            print(f"{name:42} {seconds:8.2f} s")
        print(f"{'share of the engine in the wall time':42} {100 * sum(engine) / first:8.1f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
