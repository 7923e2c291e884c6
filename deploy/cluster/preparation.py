"""What has to be there before the first daemon starts: ports, folders, keys and configuration."""

from __future__ import annotations

import stat
from dataclasses import replace

from cluster.accounting import configure_accounting
from cluster.configuration import configure_slurm
from cluster.connection import configure_login
from cluster.errors import ClusterError, NotPreparedError
from cluster.layout import ClusterSettings, Layout, started_in
from cluster.ports import all_free, free_block


def require_way_in(settings: ClusterSettings) -> None:
    """Whether the user of the jobs can reach the root.

    Raises:
        NotPreparedError: A folder above it is closed.
    """
    for folder in settings.root.resolve().parents:
        if folder.exists() and not folder.stat().st_mode & stat.S_IXOTH:
            raise NotPreparedError(f"{settings.root}: {settings.user} cannot enter {folder}")


def with_free_ports(settings: ClusterSettings, *, may_choose: bool) -> ClusterSettings:
    """The settings with ports that nobody else uses now.

    Raises:
        ClusterError: They are taken, and no others may be chosen.
    """
    ports = Layout(settings).ports
    if settings.port_base and all_free(ports):
        return settings
    if not may_choose:
        raise ClusterError(f"one of the ports {ports[0]} to {ports[-1]} is taken")
    return replace(settings, port_base=free_block(len(ports)))


def prepare(layout: Layout) -> None:
    """Write everything that the daemons and the clients read, and remember the settings.

    Raises:
        NotPreparedError: The root holds something else.
    """
    root = layout.settings.root
    if not started_in(root) and [entry.name for entry in root.iterdir()] != ["lock"]:
        raise NotPreparedError(f"{root}: is not empty, and no cluster's")
    # First of all: it marks the folder as one that may be deleted.
    layout.settings.remember()
    # mkdtemp makes folders that only their owner can enter, and a umask may do the same.
    for folder in (root, *layout.folders, layout.var / "slurmctld"):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    configure_login(layout)
    configure_slurm(layout)
    if layout.settings.accounting == "slurmdbd":
        configure_accounting(layout)
