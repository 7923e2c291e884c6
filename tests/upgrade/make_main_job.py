"""Makes `main_job/site.tar.xz`: a small site with one concluded case, as the present code writes it.

Run once, with the code whose folders later code has to open:

    python -m tests.upgrade.make_main_job
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import yaml

from mqi_dagster.machine import read_machines
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = Path(__file__).parent / "main_job" / "site.tar.xz"
SETTINGS = {
    "site": {"timezone": "UTC", "name": "upgrade"},
    "engine": {
        "histories": 20_000,
        "uncertainty_maximum_percent": 90,
        "phantom": {"dimension": [20, 20, 40], "unit_mm": [10, 10, 10], "position_mm": [-100, -100, -375]},
    },
    "handover": {"raw_dose": True, "tps_file": True, "csv": True},
}


def main() -> None:
    machine = read_machines(ROOT / "mqi_dagster" / "config" / "machines").named("GENERIC")
    plan = BuiltInPlan(beams=2, layers=2, spots=4, layer_seconds=0.02)
    with tempfile.TemporaryDirectory(prefix="mqi-upgrade.") as folder:
        inbox, out, settings = Path(folder) / "inbox", Path(folder) / "site", Path(folder) / "mqi.yaml"
        inbox.mkdir()
        settings.write_text(yaml.safe_dump(SETTINGS))
        case = simulate_delivery(DeliveryRequest(plan=plan, seed=7), machine, inbox)
        mqi = Path(sys.executable).parent / "mqi"
        command = [mqi, "case", "run", case.folder, "--out", out, "--settings", settings]
        subprocess.run(command, check=True)
        ARCHIVE.parent.mkdir(exist_ok=True)
        with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
            archive.add(out, arcname="site")


if __name__ == "__main__":
    main()
