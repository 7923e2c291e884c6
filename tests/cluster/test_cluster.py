"""The cluster that other tests rely on: a real one, whose parts can be killed, and which leaves nothing."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, ClusterError, cgroups_possible

from tests.cluster.slurm_cluster import DEPLOY, logs, processes_of, running_cluster
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


def ssh(cluster: Cluster, command: str) -> str:
    """What a command on the cluster says to its ordinary user."""
    done = subprocess.run(
        cluster.connection().ssh(command),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{logs(cluster)}"
    return done.stdout


def state(cluster: Cluster, job: str) -> str:
    """A job's state, as the controller knows it."""
    return cluster.slurm("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").stdout.strip()


def listens(port: int) -> bool:
    """Whether somebody answers at a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def folder(cluster: Cluster) -> Iterator[str]:
    """A folder of the ordinary user on the cluster."""
    made = ssh(cluster, "mktemp -d").strip()
    yield made
    ssh(cluster, f"rm -rf {made}")


def test_second_start_changes_nothing(cluster: Cluster) -> None:
    pids = {name: cluster.pid(name) for name in cluster.states()}
    connection = cluster.connection()
    again = Cluster(cluster.settings)
    assert again.start() == connection
    assert {name: again.pid(name) for name in again.states()} == pids
    assert None not in pids.values()


def test_job_of_the_ordinary_user_has_its_gpus_and_is_in_the_accounting(
    cluster: Cluster, folder: str
) -> None:
    script = f"""--wrap 'id -un; echo "$CUDA_VISIBLE_DEVICES"' --output {folder}/out"""
    job = ssh(cluster, f"sbatch --parsable --wait --gres=gpu:2 --comment='beam 7' {script}").strip()
    assert ssh(cluster, f"cat {folder}/out").split() == [cluster.settings.user, "0,1"]

    def booked() -> bool:
        columns = "JobID,State,ExitCode,Comment"
        said = cluster.slurm("sacct", "-X", "-n", "-P", "-j", job, "-o", columns).stdout.strip()
        return said == f"{job}|COMPLETED|0:0|beam 7"

    wait_for(booked, "the job in the accounting")


def test_running_job_outlives_the_controller(cluster: Cluster) -> None:
    job = ssh(cluster, "sbatch --parsable --output /dev/null --wrap 'sleep 300'").strip()
    wait_for(lambda: state(cluster, job) == "RUNNING", "the job's start")
    cluster.save()
    before = cluster.pid("slurmctld")
    cluster.kill("slurmctld")
    assert cluster.pid("slurmctld") is None
    cluster.start_one("slurmctld")
    assert cluster.pid("slurmctld") not in (None, before)
    assert state(cluster, job) == "RUNNING"
    cluster.slurm("scancel", job)
    wait_for(lambda: state(cluster, job) == "CANCELLED", "the job's end")


def test_connections_outlive_the_listener_unless_they_are_killed_too(cluster: Cluster) -> None:
    with subprocess.Popen(
        cluster.connection().ssh("echo open; cat"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as session:
        assert session.stdin is not None and session.stdout is not None
        assert session.stdout.readline() == "open\n"
        cluster.kill("sshd")
        assert not listens(cluster.connection().port)
        session.stdin.write("still here\n")
        session.stdin.flush()
        assert session.stdout.readline() == "still here\n"
        cluster.kill("sshd", sessions=True)
        assert session.wait(timeout=10) == 255
    with pytest.raises(ClusterError):
        cluster.kill("sshd", sessions=True)
    cluster.start_one("sshd")
    assert ssh(cluster, "echo back") == "back\n"


def test_frozen_daemon_is_silent_until_it_is_thawed(cluster: Cluster) -> None:
    cluster.freeze("slurmctld")
    try:
        assert cluster.states()["slurmctld"] == "frozen"
        with pytest.raises(subprocess.TimeoutExpired):
            cluster.slurm("squeue", timeout=2)
    finally:
        cluster.thaw("slurmctld")
    assert cluster.slurm("squeue").returncode == 0


def test_cluster_without_accounting_runs_jobs_beside_another_and_leaves_nothing(cluster: Cluster) -> None:
    with running_cluster(accounting="none", nodes=1, gpus=1, kill_wait=2) as small:
        assert not set(small.layout.ports) & set(cluster.layout.ports)
        ssh(small, "sbatch --wait --gres=gpu:1 --output /dev/null --wrap true")
        assert small.slurm("sacct").returncode != 0
        job = ssh(
            small, """sbatch --parsable -o /dev/null --wrap 'trap "" TERM; sleep 300; sleep 300'"""
        ).strip()
        wait_for(lambda: state(small, job) == "RUNNING", "the job's start")
        ssh(small, "setsid sleep 300 >/dev/null 2>&1 </dev/null & disown")
        ports = list(small.layout.ports)
        # Even of what cannot be asked any more.
        small.kill("slurmd.gpu1")
        small.freeze("slurmctld")
        small.freeze("sshd")
        assert len([one for one in processes_of(small.settings.root).values() if "sleep" in one]) >= 2
    assert processes_of(small.settings.root) == {}
    assert [port for port in ports if listens(port)] == []
    assert not small.settings.root.exists()


def test_ports_and_jobs_records_outlive_a_stop() -> None:
    with running_cluster(accounting="none", nodes=1) as small:
        job = ssh(small, "sbatch --parsable --wait --output /dev/null --wrap true").strip()
        before = small.connection()
        small.stop()
        assert processes_of(small.settings.root) == {}
        assert Cluster(small.settings).start() == before
        assert state(small, job) == "COMPLETED"


def test_job_that_takes_too_much_memory_ends_as_out_of_memory() -> None:
    if not cgroups_possible():
        pytest.skip("needs root and cgroup v1")
    takes = shlex.quote("/usr/bin/python3 -c 'chr(1) * (300 << 20)'")
    with running_cluster(accounting="none", nodes=1, cgroup=True) as small:
        job = ssh(small, f"sbatch --parsable --mem=64M --output /dev/null --wrap {takes}").strip()
        wait_for(lambda: state(small, job) not in ("PENDING", "RUNNING", "COMPLETING"), "the job's end")
        assert state(small, job) == "OUT_OF_MEMORY"


def test_without_root_the_missing_packages_are_named() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="mqc") as made:
        # A copy, because the checkout may lie where an ordinary user cannot look.
        place = Path(made)
        place.chmod(0o755)
        shutil.copytree(DEPLOY / "cluster", place / "cluster", ignore=shutil.ignore_patterns("__pycache__"))
        nothing_installed = place / "dpkg"
        nothing_installed.mkdir()
        (nothing_installed / "status").touch()
        become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        done = subprocess.run(
            [*become, "/usr/bin/python3", str(place / "cluster"), "install", "--root", f"{made}/root"],
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin", "DPKG_ADMINDIR": str(nothing_installed)},
            timeout=60,
        )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "apt-get install --no-install-recommends slurmctld slurmd" in done.stderr
    assert "Traceback" not in done.stderr
