"""What a command costs before it does anything: seconds of a core, the least of several starts.

    python -m benchmarks.startup [starts]

Commands that need no records of Dagster are to stay below half a second; the others load Dagster, which
takes about a second by itself.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from mqi_dagster.machine import PACKAGED_MACHINES, read_machines
from mqi_dagster.operations.settings_text import settings_file
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest, Layout

MQI = Path(sys.executable).with_name("mqi")
LIGHT = (
    ("--version",),
    ("--help",),
    ("validate", "site"),
    ("settings-reference",),
    ("logs",),
    ("alarms", "--help"),
    ("case", "cancel", "--help"),
    ("simulate-delivery", "--list-defects"),
    ("case", "check", "--help"),
    ("case", "check", "case"),
    ("case", "list", "--help"),
    ("top", "--help"),
)
LIBRARIES = ("pydicom, numpy", "sqlalchemy", "dagster")
STARTS = 5


def seconds_of(argv: list[str], folder: Path, **environment: str) -> float:
    """CPU seconds of one start."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = {**os.environ, **environment}
    subprocess.run(argv, cwd=folder, check=not environment, capture_output=True, env=told)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print a line for each command, and for the libraries that the heavier ones load."""
    starts = int(sys.argv[1]) if len(sys.argv) > 1 else STARTS
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        machines = folder / "site" / "config" / "machines"
        machines.mkdir(parents=True)
        for file in PACKAGED_MACHINES.glob("*.yaml"):
            (machines / file.name).write_bytes(file.read_bytes())
        (folder / "site" / "mqi.yaml").write_text(settings_file({"site.timezone": "UTC"}))
        logs = folder / "site" / "state" / "logs"
        logs.mkdir(parents=True)
        (logs / "daemon.log").write_text("2026-03-01 12:00:00 +0000 - ticking\n" * 1000)
        plan = BuiltInPlan(beams=1, layers=2, spots=4, layer_seconds=0.1)
        request = DeliveryRequest(plan=plan, layout=Layout.SIMPLE, case_name="case")
        simulate_delivery(request, read_machines(machines).named("GENERIC"), folder)
        for words in LIGHT:
            least = min(seconds_of([str(MQI), *words], folder) for _ in range(starts))
            print(f"mqi {' '.join(words):32} {least:.2f} CPU-s")
        for line in ("mqi case show P", "mqi model check r"):
            word = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_MQI_COMPLETE": "complete_bash"}
            least = min(seconds_of([str(MQI)], folder, **word) for _ in range(starts))
            print(f"completion of `{line}`".ljust(36), f"{least:.2f} CPU-s")
        for names in LIBRARIES:
            argv = [sys.executable, "-c", f"import {names}"]
            print(f"import {names:29} {min(seconds_of(argv, folder) for _ in range(starts)):.2f} CPU-s")


if __name__ == "__main__":
    main()
