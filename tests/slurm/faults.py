"""Ways to hurt a scheduler from outside, each undone at the end of its block."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.slurm.beams import Beam, Bench
from tests.waiting import wait_for

SUBMITTERS = """\
submitters() { # the shell that submits this command's job, and whatever has started it
  local one=$$
  while [ "$one" -gt 1 ]; do
    one=$(awk '{ print $4 }' "/proc/$one/stat")
    ! tr '\\0' ' ' <"/proc/$one/cmdline" | grep -q mqi-submit || echo "$one"
  done
}
"""


@contextmanager
def misbehaving(cluster: Any, bench: Bench, name: str, body: str) -> Iterator[Path]:
    """Put a shell script in the place of a command on the login node; ``$real`` is the command itself.

    Yields:
        A folder that the script has made, if it was called: what stands after ``first`` is done only once.
    """
    called = bench.shared / f"called-{name}-{bench.trace.name}"
    script = cluster.layout.bin / name
    first = f"first() {{ mkdir {called} 2>/dev/null; }}"
    script.write_text(f"#!/bin/bash\nreal={shutil.which(name)}\n{SUBMITTERS}{first}\n{body}")
    script.chmod(0o755)
    try:
        yield called
    finally:
        script.unlink()


@contextmanager
def frozen(cluster: Any, daemon: str) -> Iterator[None]:
    """A daemon hangs during the block."""
    cluster.freeze(daemon)
    try:
        yield
    finally:
        cluster.thaw(daemon)


@contextmanager
def closed(cluster: Any, partition: str = "gpu") -> Iterator[None]:
    """No job of a partition starts during the block."""
    done(cluster, "scontrol", "update", f"PartitionName={partition}", "State=DOWN")
    try:
        yield
    finally:
        done(cluster, "scontrol", "update", f"PartitionName={partition}", "State=UP")


def done(cluster: Any, *argv: str) -> str:
    """What a command of Slurm says, as root."""
    ended = cluster.slurm(*argv)
    assert ended.returncode == 0, (argv, ended.stderr)
    return str(ended.stdout).strip()


def login(cluster: Any, command: str) -> str:
    """What a command on the login node says, as the jobs' account."""
    ended = subprocess.run(
        cluster.connection().ssh(command),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 0, (command, ended.stderr)
    return ended.stdout.strip()


def queued(cluster: Any, job_id: str, what: str = "%T") -> str:
    """What squeue says of a job; empty for one that it does not know."""
    return str(cluster.slurm("squeue", "-h", "-t", "all", "-j", job_id, "-o", what).stdout.strip())


def known(cluster: Any, beam: Beam) -> list[str]:
    """Ids of a beam's jobs that squeue still knows; accounting learns a comment only when a job ends."""
    listed = cluster.slurm("squeue", "-h", "-t", "all", "-o", "%A|%k").stdout.splitlines()
    return [job for job, key in (row.split("|") for row in listed) if key == beam.job.key]


def submitted(beam: Beam) -> str:
    """The job's id, as soon as there is one."""
    handle = wait_for(lambda: beam.handle, "submitted")
    return str(handle.job_id)


def ends(bench: Bench) -> int:
    """How many engines have come to their end."""
    return len([one for one in bench.traced() if one[0] == "end"])


def running(cluster: Any, bench: Bench, job_id: str) -> None:
    """Wait until a job's engine runs."""
    wait_for(lambda: any(one[:2] == ("start", job_id) for one in bench.traced()), "the engine runs")


def start_again_now(cluster: Any, job_id: str) -> None:
    """Removable a requeued job most of its two minutes of waiting."""
    wait_for(lambda: queued(cluster, job_id) == "PENDING", "requeued")
    # A node that has ended a job in this very second refuses to start it: it reckons in whole seconds.
    soon = "StartTime=now+2"
    wait_for(
        lambda: cluster.slurm("scontrol", "update", f"JobId={job_id}", soon).returncode == 0, "may start"
    )


def submit_by_hand(cluster: Any, bench: Bench, folder: Path, name: str, key: str) -> str:
    """Submit a staged job a second time, past the platform; the id."""
    options = f"--job-name={name} --comment={key} --chdir={folder} --output={folder}/slurm-%j.out"
    return login(
        cluster, f"cd {folder} && /usr/bin/sbatch --parsable --export=NIL --gres=gpu:1 {options} job.sh"
    )


class Memory:
    """What a controller knows now, to be all that it knows later."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._state = cluster.layout.var / "slurmctld"
        self._kept = Path(tempfile.mkdtemp(dir=cluster.layout.var, prefix="kept")) / "slurmctld"
        cluster.save()
        wait_for(self._copied, "the controller's state, whole")

    def _copied(self) -> bool:
        shutil.rmtree(self._kept, ignore_errors=True)
        try:
            shutil.copytree(self._state, self._kept, ignore=shutil.ignore_patterns("*.new"))
        except shutil.Error:
            # It has renamed a file meanwhile.
            return False
        return True

    def restore(self) -> None:
        """The controller dies, and comes back knowing no more than that."""
        if self._cluster.pid("slurmctld") is not None:
            self._cluster.kill("slurmctld")
        shutil.rmtree(self._state)
        self._kept.rename(self._state)
        self._cluster.start_one("slurmctld")
