"""Makes `gpu_pool/site.tar.xz`: a site with declared GPUs, as the present code writes it.

In it are one concluded case; a beam in flight on two GPUs, whose worker was killed with its engine; two GPUs
that are switched off; a look at a GPU; a beam that waits; a person's limit of the pool. Run once, with the
code whose folders later code has to open:

    python -m tests.upgrade.make_gpu_pool
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from mqi_dagster.ledger import GpuUsage, Need, SlotKind
from mqi_dagster.machine import read_machines
from mqi_dagster.resources.site import Site
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest

HERE = Path(__file__).parent
ARCHIVE = HERE / "gpu_pool" / "site.tar.xz"
BASE = Path("/var/tmp/mqi-upgrade-gpu")
"""The manifests name their inputs there."""
WAITING = "PWAITING00.fx0001__b02"


def settings(seconds: float) -> dict[str, Any]:
    command = [sys.executable, str(HERE.parent / "engines" / "quick.py"), "{tps}"]
    command += ["--seconds", str(seconds), "--trace", str(BASE / "trace")]
    profile = {"command": command, "version": "test engine 1", "reads_beam_model": True, "needs_gpu": True}
    gpus = [{"index": index, "uuid": f"GPU-{index}{index}", "memory_mb": 24000} for index in range(4)]
    return {
        "site": {"timezone": "UTC", "name": "upgrade"},
        "engine": {
            "profile": "declared",
            "profiles": {"declared": {**profile, "gpus_per_beam": 2, "gpu_memory_mb": 8000}},
            "histories": 100_000,
            "phantom": {"dimension": [12, 12, 40], "unit_mm": [10, 10, 10], "position_mm": [-60, -60, -365]},
        },
        "execution": {"gpus": gpus, "heartbeat_seconds": 1, "stale_seconds": 5},
    }


def run(folder: Path, *, kill: bool) -> None:
    mqi = Path(sys.executable).parent / "mqi"
    command = [str(mqi), "case", "run", str(folder), "--out", str(BASE / "site"), "--priority", "3"]
    if not kill:
        command += ["--settings", str(BASE / "mqi.yaml")]
    with subprocess.Popen(command) as running:
        if kill:
            while len((BASE / "trace").read_text().splitlines()) < 3:
                time.sleep(0.1)
            # Later than the start of the engine the lease knows its job.
            time.sleep(3)
            os.kill(running.pid, signal.SIGKILL)
    assert kill or running.returncode == 0


def note_pool() -> None:
    """What people and the monitor leave in the ledger."""
    ledger = Site(BASE / "site" / "mqi.yaml").ledger
    (host,) = {slot.host for slot in ledger.slots.all()}
    for index in (2, 3):
        ledger.slots.switch_off(host, "gpu", index, "fan broken")
    now = datetime.now(UTC)
    seen = GpuUsage(host, 0, "GPU-00", "A5000", 24000, 9000, 97, 71, 1695, 7600, 0, now)
    ledger.gpus.record(host, [seen])
    minute = timedelta(minutes=1)
    ledger.leases.acquire(
        WAITING, "run", Need(SlotKind.GPU, host, 2), stale_after=minute, priority=2, wait=minute
    )
    ledger.slots.set_pool_limit("gpu", 2)


def main() -> None:
    machine = read_machines(HERE.parents[1] / "mqi_dagster" / "config" / "machines").named("GENERIC")
    plan = BuiltInPlan(beams=1, layers=2, spots=4, layer_seconds=0.02)
    BASE.mkdir(mode=0o755)
    try:
        (BASE / "trace").touch()
        for seed, seconds in ((7, 0.2), (8, 3600)):
            place = BASE if seed == 7 else BASE / "site"
            (place / "mqi.yaml").write_text(yaml.safe_dump(settings(seconds)))
            inbox = BASE / f"inbox-{seed}"
            inbox.mkdir()
            run(
                simulate_delivery(DeliveryRequest(plan=plan, seed=seed), machine, inbox).folder,
                kill=seed == 8,
            )
        note_pool()
        # A test puts the engine of its own machine in its place.
        content = settings(0)
        content["engine"]["profiles"]["declared"]["command"] = ["engine", "{tps}"]
        (BASE / "site" / "mqi.yaml").write_text(yaml.safe_dump(content))
        ARCHIVE.parent.mkdir(exist_ok=True)
        with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
            for name in ("site", "inbox-8"):
                archive.add(BASE / name, arcname=name)
        print(f"{ARCHIVE.stat().st_size} bytes")
    finally:
        shutil.rmtree(BASE)


if __name__ == "__main__":
    main()
