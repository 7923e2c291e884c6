"""The cluster of `hpc.py`: real Slurm and sshd on the loopback, in a folder of its own, gone at the end."""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import paramiko

from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.naming import JobFolder
from mqi_dagster.settings import Host, Slurm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deploy"))

from cluster import Cluster, ClusterSettings  # type: ignore[import-not-found]

_FINISHED_STAY_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Site:
    """A cluster, the platform's connection to it, and a folder on either side."""

    cluster: Cluster
    host: Host
    connection: Connection
    local: Path

    @property
    def slurm(self) -> Slurm:
        """The cluster's settings."""
        assert self.host.slurm is not None
        return self.host.slurm

    @property
    def remote(self) -> Path:
        """Where the account on the cluster may write, seen from here: the cluster is this machine."""
        return Path(self.slurm.root)

    def folder(self, beam: str, number: int) -> JobFolder:
        """The folder of a job, with a key as long as real ones."""
        return JobFolder(self.slurm.root, ("P0123456789.fx0001", beam), f"{number:064x}-1")

    def own(self, *paths: Path) -> None:
        """Give what was made here to the account on the cluster."""
        for path in paths:
            shutil.chown(path, self.host.user, self.host.user)

    def new_client(self) -> paramiko.SSHClient:
        """A connection as a plain user of paramiko opens it, but without the delay that its sockets have."""
        client = paramiko.SSHClient()
        client.load_host_keys(str(self.host.known_hosts))
        made = socket.create_connection((self.host.host, self.host.port))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.connect(
            self.host.host,
            self.host.port,
            self.host.user,
            key_filename=str(self.host.key_file),
            sock=made,
            allow_agent=False,
            look_for_keys=False,
        )
        return client


@contextmanager
def running_site() -> Iterator[Site]:
    """A cluster with an account that may log in.

    Raises:
        cluster.ClusterError: It does not start, or this machine is not prepared for it.
    """
    base = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="mqb"))
    cluster = Cluster(ClusterSettings(root=base / "c", min_job_age=_FINISHED_STAY_SECONDS))
    try:
        base.chmod(0o755)
        made = cluster.start()
        work, local = base / "work", base / "local"
        work.mkdir()
        local.mkdir(mode=0o700)
        host = Host.model_validate(
            {
                "host": made.host,
                "port": made.port,
                "user": made.user,
                "key_file": made.key_file,
                "known_hosts": made.known_hosts,
                "slurm": {"root": str(work)},
            }
        )
        connection = Connection(host)
        site = Site(cluster, host, connection, local)
        site.own(work)
        try:
            yield site
        finally:
            connection.drop()
    finally:
        cluster.clean()
        shutil.rmtree(base)
