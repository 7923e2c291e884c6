"""All jobs of a cluster at once: ended, or written down."""

from __future__ import annotations

import subprocess

from cluster.errors import ClusterError
from cluster.launch import checked, command
from cluster.layout import Layout
from cluster.processes import until


def cancel_jobs(layout: Layout, *, wait: bool) -> None:
    """Cancel every job.

    Args:
        layout: Of a cluster whose controller answers.
        wait: Whether to give them the time that Slurm gives them; jobs of dead nodes would never end.
    """

    def listed() -> list[str]:
        return command(layout, "squeue", "-h", "-o", "%A").stdout.split()

    try:
        if jobs := listed():
            command(layout, "scancel", *dict.fromkeys(jobs))
            if wait:
                until(lambda: not listed(), "end of the jobs", layout.settings.kill_wait + 5)
    except (ClusterError, subprocess.TimeoutExpired):
        # Whoever cancels sweeps afterwards.
        return


def save_jobs(layout: Layout) -> None:
    """Let the controller write its jobs down, and return when it has.

    Raises:
        ClusterError: It does not.
    """
    saved = layout.var / "slurmctld" / "job_state"
    before = saved.stat().st_mtime_ns if saved.exists() else 0
    checked(layout, ["scontrol", "reconfigure"], timeout=20)
    until(lambda: saved.exists() and saved.stat().st_mtime_ns > before, "jobs written down", 10)
