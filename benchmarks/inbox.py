"""What a look at a full inbox costs: the plain walk of everything, and the kept tree, side by side.

    python -m benchmarks.inbox [cases]

An inbox of 3,000 cases with 4 deliveries of 15 files and 6 other files each (198,000 files) is made, all old.
Each way runs in a process of its own: ten looks with no change in between, and ten before each of which one
file of one case was written and another case came. The last line is whole ticks of the sensor `case_arrivals`
at a tenth of the cases, all concluded.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.delivery.discovery import arrival_statuses, find_arrivals
from mqi_dagster.delivery.inbox_tree import KeptTree
from mqi_dagster.machine import read_machines
from mqi_dagster.sensors.arrivals import case_arrivals
from mqi_dagster.settings import Intake
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest
from tests.chain.chain import MACHINES, Chain
from tests.delivery.bad_entries import plan

CASES, DELIVERIES, FILES, LOOKS = 3000, 4, 15, 10
OLD = 1.7e9
INTAKE = Intake.model_validate({})


def make_case(inbox: Path, number: int) -> Path:
    """A case of the right shape; nobody opens its records."""
    case = inbox / f"{number:05}"
    for delivery in range(DELIVERIES):
        folder = case / f"20260105101{delivery}0000"
        folder.mkdir(parents=True)
        for name in ("PlanInfo.txt", *(f"{layer}.ptn" for layer in range(FILES - 1))):
            (folder / name).write_bytes(b"1")
    (case / "RP.dcm").write_bytes(plan())
    for image in range(5):
        (case / f"notes {image}.txt").write_bytes(b"1")
    for path in [*case.rglob("*"), case]:
        os.utime(path, (OLD, OLD))
    return case


Look = Callable[[Collection[str]], int]


def plain(inbox: Path) -> Look:
    """Everything is listed and asked for at every look."""
    return lambda _: len(find_arrivals(inbox, INTAKE, datetime.now(UTC)))


def kept(inbox: Path) -> Look:
    """Only what may have changed."""
    tree = KeptTree(inbox.resolve(), full_scan_seconds=INTAKE.full_look_minutes * 60)
    return lambda in_work: len(arrival_statuses(tree.root, tree.scan(in_work), INTAKE, datetime.now(UTC)))


WAYS: dict[str, Callable[[Path], Look]] = {"plain walk": plain, "kept tree": kept}


def measure(way: str, inbox: Path) -> None:
    """One line of the table: CPU-s of the first look, and of one with nothing and with one case changed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    look = WAYS[way](inbox)
    began = time.process_time()
    count = look(())
    first = time.process_time() - began
    time.sleep(3.0)  # a folder whose time is new has to be listed once more
    look(())
    began = time.process_time()
    for _ in range(LOOKS):
        look(())
    quiet = (time.process_time() - began) / LOOKS
    changed = 0.0
    case = next(path for path in sorted(inbox.iterdir()) if path.is_dir())
    for number in range(LOOKS):
        make_case(inbox, 90_000 + number)
        (case / "RP.dcm").write_bytes(plan(PatientComments="w" * (2 + 2 * number)))
        began = time.process_time()
        count = look((str(case),))
        changed += (time.process_time() - began) / LOOKS
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{way:12} {count:7} {first:10.2f} {quiet:12.3f} {changed:14.3f} {memory:9.0f}", flush=True)


def ticks(folder: Path, cases: int) -> None:
    """CPU-s of a tick of the sensor where all cases are concluded."""
    chain = Chain(folder)
    machine = read_machines(MACHINES).named("G2")
    tiny = BuiltInPlan(beams=1, layers=1, spots=4, layer_seconds=0.02, energies_mev=(120.0,))
    for seed in range(1, cases + 1):
        simulate_delivery(DeliveryRequest(plan=tiny, seed=seed), machine, chain.site.inbox)
    sensor = case_arrivals(30, PIPELINES)
    instance = dg.DagsterInstance.ephemeral()

    def tick() -> float:
        context = dg.build_sensor_context(instance=instance, resources={"site": chain.site})
        began = time.process_time()
        sensor(context)
        return time.process_time() - began

    first = tick()
    while chain.site.ledger.arrivals.changed_since(datetime.now(UTC))[0] < cases:
        first += tick()
    for row in chain.site.ledger.arrivals.all():
        chain.site.ledger.arrivals.mark_requested(row.case, row.fingerprint)
        chain.site.ledger.arrivals.mark_results_removed(row.case)
    tick()
    quiet = sum(tick() for _ in range(LOOKS)) / LOOKS
    print(
        f"\nticks of case_arrivals, {cases} cases: {first:.1f} CPU-s until all are known, {quiet:.3f} a tick"
    )


def main() -> None:
    """Print the table."""
    if len(sys.argv) > 2:
        measure(sys.argv[1], Path(sys.argv[2]))
        return
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else CASES
    files = cases * (DELIVERIES * FILES + 6)
    print(f"{cases:,} cases, {files:,} files; processor seconds a look, and MiB that the looks have needed\n")
    print(f"{'':12} {'cases':>7} {'first':>10} {'nothing new':>12} {'one case new':>14} {'memory':>9}")
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(cases):
                make_case(Path(folder), number)
            subprocess.run([sys.executable, "-m", "benchmarks.inbox", way, folder], check=True)
    with tempfile.TemporaryDirectory() as folder:
        ticks(Path(folder) / "site", max(1, cases // 10))


if __name__ == "__main__":
    main()
