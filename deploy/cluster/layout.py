"""What a cluster is like, and where everything of it lies: one folder and one block of ports."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from cluster.errors import NotPreparedError
from cluster.writing import write

Accounting = Literal["slurmdbd", "none"]

LOOPBACK = "127.0.0.1"
CLUSTER_NAME = "mqi"
DEFAULT_ROOT = Path("/var/tmp/mqi-cluster")
# The longest socket below the root is slurmstepd's; the kernel allows 107 bytes.
_LONGEST_ROOT = 70


def started_in(root: Path) -> bool:
    """Whether a start has made a folder its own."""
    return (root / "mqi-cluster.json").is_file()


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """What a cluster is like."""

    root: Path = DEFAULT_ROOT
    """Everything of it lies below this folder; jobs' users must be able to reach it."""
    nodes: int = 2
    gpus: int = 4
    """Simulated GPUs of each node."""
    cpus: int = 8
    """Of each node; may be more than this machine has, as may the memory."""
    memory_mb: int = 8000
    user: str = "hpcuser"
    """The ordinary login."""
    root_login: bool = False
    """Whether root may log in too, by the same key: for jobs that need what only root can read."""
    accounting: Accounting = "slurmdbd"
    """``none``: a site without sacct, and a start below a second."""
    port_base: int = 0
    """First of a block of ports; 0 chooses a free block, and keeps it for the next start."""
    cgroup: bool = False
    """Whether a job that takes too much memory really ends as OUT_OF_MEMORY."""
    min_job_age: int = 60
    """Seconds for which squeue and scontrol know a finished job."""
    kill_wait: int = 5
    """Seconds between a job's SIGTERM and its SIGKILL."""
    max_sessions: int = 10
    """Sessions on one SSH connection."""
    max_startups: str = "10:30:100"
    """Connections that may wait for their authentication, in sshd's own form."""
    message_timeout: int = 10
    """Seconds after which a Slurm command gives up a silent daemon."""
    slurmd_timeout: int = 30
    """Seconds after which a silent node is down."""

    def __post_init__(self) -> None:
        if len(str(self.root)) > _LONGEST_ROOT:
            raise NotPreparedError(
                f"{self.root}: longer than {_LONGEST_ROOT} characters, too long for sockets"
            )
        if (
            not self.root.is_absolute()
            or len(self.root.parts) < 3
            or any(c.isspace() for c in str(self.root))
        ):
            raise NotPreparedError(f"{self.root}: must be an absolute path below a folder, without blanks")
        if self.nodes < 1 or self.gpus < 0:
            raise NotPreparedError("a cluster has at least one node, and no negative number of GPUs")

    @classmethod
    def remembered(cls, root: Path, **given: Any) -> Self:
        """The settings of the last start below a folder, or the defaults, with some of them replaced."""
        known: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError):
            known = json.loads((root / "mqi-cluster.json").read_text())
        names = {field.name for field in fields(cls)}
        return cls(**{**{k: v for k, v in known.items() if k in names}, **given, "root": root})

    def remember(self) -> None:
        """Keep these settings for the next command."""
        content = {name: value for name, value in asdict(self).items() if name != "root"}
        write(self.root / "mqi-cluster.json", json.dumps(content, indent=2) + "\n")


@dataclass(frozen=True, slots=True)
class Layout:
    """Every path and every port of a cluster."""

    settings: ClusterSettings

    @property
    def etc(self) -> Path:
        """Configuration files."""
        return self.settings.root / "etc"

    @property
    def run(self) -> Path:
        """Pid files and sockets."""
        return self.settings.root / "run"

    @property
    def log(self) -> Path:
        """What the daemons say."""
        return self.settings.root / "log"

    @property
    def var(self) -> Path:
        """State that outlives a stop."""
        return self.settings.root / "var"

    @property
    def keys(self) -> Path:
        """SSH keys of both ends."""
        return self.settings.root / "keys"

    @property
    def dev(self) -> Path:
        """The simulated GPUs."""
        return self.settings.root / "dev"

    @property
    def bin(self) -> Path:
        """Comes first on the PATH of every login: a test puts a command there that behaves badly."""
        return self.settings.root / "bin"

    @property
    def folders(self) -> tuple[Path, ...]:
        """All that a start makes and a clean deletes."""
        return self.etc, self.run, self.log, self.var, self.keys, self.dev, self.bin

    @property
    def slurm_conf(self) -> Path:
        """Names the cluster to every program of Slurm, by the variable SLURM_CONF."""
        return self.etc / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        """Where this cluster's own munged listens."""
        return self.run / "munge" / "socket"

    def pid_file(self, daemon: str) -> Path:
        """Where a daemon writes its pid."""
        return self.run / f"{daemon}.pid"

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the simulated nodes."""
        return tuple(f"gpu{number}" for number in range(1, self.settings.nodes + 1))

    @property
    def ports(self) -> range:
        """The whole block."""
        return range(self.settings.port_base, self.settings.port_base + 4 + self.settings.nodes)

    @property
    def slurmctld_port(self) -> int:
        """Of the controller."""
        return self.ports[0]

    @property
    def slurmdbd_port(self) -> int:
        """Of the accounting daemon."""
        return self.ports[1]

    @property
    def mariadb_port(self) -> int:
        """Of the accounting daemon's database."""
        return self.ports[2]

    @property
    def ssh_port(self) -> int:
        """Of the login."""
        return self.ports[3]

    def slurmd_port(self, node: str) -> int:
        """Of one node."""
        return self.ports[4 + self.nodes.index(node)]
