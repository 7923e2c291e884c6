"""`make demo-slurm`: the demo's case, simulated by jobs of a real Slurm cluster reached through a real sshd.

It starts the throw-away cluster of `deploy/cluster`, makes a site that simulates there, runs `mqi demo` on
it, and shows each beam's job as the cluster's own accounting has it.

    python deploy/demo_slurm.py SITE CLUSTER_ROOT [--histories 200000]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from mqi_dagster.cli.demo import SETTINGS
from mqi_dagster.embedded_engine.install import install_engine
from mqi_dagster.operations.sites import local_zone

DEPLOY = Path(__file__).parent
MQI = Path(sys.executable).with_name("mqi")
ENGINE = Path(sys.executable).with_name("mqi-engine")
HOST = "demo-cluster"


def cluster(*arguments: str) -> None:
    """Run a command of `deploy/cluster`; what it cannot do it says itself.

    Raises:
        SystemExit: With its exit code.
    """
    done = subprocess.run([sys.executable, str(DEPLOY / "cluster"), *arguments], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def sections(connection: dict[str, Any], work: Path, engine_folder: Path) -> dict[str, Any]:
    """What the settings of the demo's site say beyond those of `make demo`."""
    return {
        "execution": {"simulation": HOST, "gpu_monitoring": HOST},
        "hosts": {
            HOST: {
                "host": connection["host"],
                "port": connection["port"],
                # The engine lies in a folder that perhaps only this user can read.
                "user": "root",
                "key_file": connection["key_file"],
                "known_hosts": connection["known_hosts"],
                "slurm": {
                    "root": str(work),
                    "memory_mb": 1500,
                    "engine_command": [str(ENGINE), "{tps}"],
                    "engine_version_command": [str(ENGINE), "--version"],
                    "environment": {"MQI_ENGINE_CACHE": str(engine_folder)},
                    "intervals": {"poll_seconds": 1, "poll_maximum_seconds": 2, "tail_seconds": 1},
                },
            }
        },
    }


def make_site(site: Path, connection: dict[str, Any], work: Path, histories: float) -> None:
    """Make the site, or bring the host of an earlier demo's one in step with the cluster."""
    file = site / "mqi.yaml"
    if not file.is_file():
        zone = ["--timezone", local_zone()]
        subprocess.run([MQI, "init", site, *zone], check=True, stdout=subprocess.DEVNULL)
    content = yaml.safe_load(file.read_text())
    for name, value in {**SETTINGS, "engine.histories": histories}.items():
        section, key = name.split(".")
        content[section] = {**(content.get(section) or {}), key: value}
    installed = install_engine()
    for name, section_values in sections(connection, work, installed.folder.parent).items():
        content[name] = {**(content.get(name) or {}), **section_values}
    file.write_text(
        "# Settings of the demo on a throw-away cluster; every key: mqi settings-reference\n"
        + yaml.safe_dump(content, sort_keys=False)
    )
    # The pool's limit follows the slots of the cluster.
    subprocess.run([MQI, "init", site], check=True, stdout=subprocess.DEVNULL)


def show_jobs(site: Path, connection: dict[str, Any]) -> None:
    """Each beam's job, as the ledger names it and as sacct finds it again."""
    listed = subprocess.run(
        [MQI, "cluster", "jobs", "--site", site, "--all", "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    jobs = json.loads(listed.stdout)
    ids = ",".join(str(job["job"]) for job in jobs if job["job"])
    print("\nthe same jobs in the cluster's accounting (sacct):", flush=True)
    subprocess.run(
        ["sacct", "-X", "-j", ids, "-o", "JobID,JobName%40,State,Elapsed,NodeList,AllocTRES%40"],
        check=True,
        env={**os.environ, "SLURM_CONF": str(connection["slurm_conf"])},
    )


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser()
    parser.add_argument("site", type=Path)
    parser.add_argument("cluster_root", type=Path)
    parser.add_argument("--histories", type=float, default=SETTINGS["engine.histories"])
    arguments = parser.parse_args()
    site, root = arguments.site, arguments.cluster_root
    cluster("install")
    cluster("start", "--root", str(root), "--root-login")
    connection = json.loads((root / "connection.json").read_text())
    make_site(site, connection, root.with_name(f"{root.name}-work"), arguments.histories)
    done = subprocess.run([MQI, "demo", "--site", site], check=False)
    if done.returncode == 0:
        show_jobs(site, connection)
        print(f"\nend: make stop SITE={site}; make cluster-stop")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
