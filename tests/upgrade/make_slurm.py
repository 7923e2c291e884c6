"""Makes `slurm/site.tar.xz`: a site that simulates on a cluster, as the present code writes it.

In it are one concluded case, and one whose beam was in flight when its worker was killed; beside it, as
`work`, what stood on the cluster then. Run once as root, with the code whose folders later code has to open:

    python -m tests.upgrade.make_slurm
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import yaml
from cluster import Cluster, ClusterSettings, install

from mqi_dagster.machine import read_machines
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest
from tests.slurm.beams import make_shared
from tests.slurm.site_on_slurm import sections, steer, traced

HERE = Path(__file__).parent
ARCHIVE = HERE / "slurm" / "site.tar.xz"
BASE = Path("/var/tmp/mqi-upgrade")
NAME = "work"
SETTINGS = {"site": {"timezone": "UTC", "name": "upgrade"}}


def without_starts(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """What an engine works in holds links to absolute paths."""
    return None if member.name.endswith("/starts") else member


def main() -> None:
    mqi = Path(sys.executable).parent / "mqi"
    machine = read_machines(HERE.parents[1] / "mqi_dagster" / "config" / "machines").named("GENERIC")
    root = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="mqc"))
    cluster = Cluster(ClusterSettings(root=root))
    install(cluster.settings.user, cluster.settings.accounting)
    try:
        cluster.start()
        BASE.mkdir(mode=0o755)
        shared = make_shared(BASE / "shared", cluster.settings.user)
        given = sections(cluster.connection(), shared, NAME)
        settings, out = BASE / "mqi.yaml", BASE / "site"
        settings.write_text(yaml.safe_dump({**SETTINGS, **given}))
        steer(shared, NAME, seconds=0.2)
        plan = BuiltInPlan(beams=1, layers=2, spots=4, layer_seconds=0.02)
        for seed in (7, 8):
            inbox = BASE / f"inbox-{seed}"
            inbox.mkdir()
            case = simulate_delivery(DeliveryRequest(plan=plan, seed=seed), machine, inbox)
            command = [mqi, "case", "run", case.folder, "--out", out, "--settings", settings]
            if seed == 7:
                subprocess.run(command, check=True)
                steer(shared, NAME, seconds=3600)
                continue
            with subprocess.Popen(command) as running:
                while len(traced(shared, NAME)) < 3:
                    time.sleep(0.1)
                time.sleep(3)
                os.kill(running.pid, signal.SIGKILL)
        # Host and keys are those of a throw-away cluster: a test puts its own in their place.
        file = out / "mqi.yaml"
        content = yaml.safe_load(file.read_text())
        (host,) = content["hosts"].values()
        host |= {"host": "127.0.0.1", "port": 1, "key_file": "keys/client", "known_hosts": "keys/known_hosts"}
        file.write_text(yaml.safe_dump(content))
        ARCHIVE.parent.mkdir(exist_ok=True)
        with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
            archive.add(out, arcname="site")
            archive.add(shared / NAME, arcname="work", filter=without_starts)
            archive.add(BASE / "inbox-8", arcname="inbox-8")
        print(json.dumps({"bytes": ARCHIVE.stat().st_size}))
    finally:
        cluster.clean()
        shutil.rmtree(BASE, ignore_errors=True)


if __name__ == "__main__":
    main()
