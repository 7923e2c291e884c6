"""A site whose simulations run on the test cluster: settings for the chain and for running services."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.slurm.beams import INTERVALS, PHANTOM, PYTHON

HOST = "hpc"


def sections(connection: Any, shared: Path, name: str, **slurm: Any) -> dict[str, dict[str, Any]]:
    """The sections ``engine``, ``execution`` and ``hosts``.

    Args:
        connection: Of the cluster.
        shared: Folder of engine, steering and trace that the jobs' account reads and writes.
        name: Of this site's root, trace and steering below it.
        slurm: Changes of the Slurm settings.
    """
    command = [PYTHON, str(shared / "steady.py"), "{tps}"]
    command += ["--trace", str(shared / f"{name}.trace"), "--steer", str(shared / f"{name}.json")]
    profile = {"command": command, "version": "steady 1", "reads_beam_model": True}
    intervals = {**INTERVALS, "poll_maximum_seconds": 2, "tail_seconds": 1, **slurm.pop("intervals", {})}
    return {
        "engine": {
            "profile": "steady",
            "profiles": {"steady": profile},
            "histories": 100000,
            "phantom": PHANTOM,
            "timeout_seconds": 3600,
        },
        "execution": {
            "simulation": HOST,
            "gpu_monitoring": HOST,
            "attempts": 2,
            "heartbeat_seconds": 0.5,
            "stale_seconds": 3,
            "lease_poll_seconds": 0.2,
            "max_runs": 12,
        },
        "hosts": {
            HOST: {
                "host": connection.host,
                "port": connection.port,
                "user": connection.user,
                "key_file": str(connection.key_file),
                "known_hosts": str(connection.known_hosts),
                "connect_seconds": 5,
                "call_seconds": 15,
                "slurm": {"root": str(shared / name), "intervals": intervals, **slurm},
            }
        },
    }


def steer(shared: Path, name: str, **values: float) -> None:
    """Say from now on how long engines take (``seconds``) or how they end."""
    import json

    beside = shared / f"{name}.part"
    beside.write_text(json.dumps(values))
    beside.chmod(0o644)
    beside.rename(shared / f"{name}.json")


def traced(shared: Path, name: str) -> list[tuple[str, str, str, str, float, str]]:
    """The engines' own trace: start or end, job, node, GPUs, time, beam name."""
    path = shared / f"{name}.trace"
    lines = path.read_text().splitlines() if path.exists() else []
    fields = [line.split(" ", 6) for line in lines]
    return [(what, job, node, gpus, float(when), beam) for what, job, _, node, gpus, when, beam in fields]


def jobs_of_root(cluster: Any, root: Path) -> list[tuple[str, str, str]]:
    """Id, state and name of every job that the accounting knows and that worked below a root."""
    done = cluster.slurm(
        "sacct", "-a", "-X", "-n", "-P", "-S", "now-1days", "-o", "JobIDRaw,State,JobName,WorkDir"
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return [(row[0], row[1].split()[0], row[2]) for row in rows if row[3].startswith(f"{root}/")]
