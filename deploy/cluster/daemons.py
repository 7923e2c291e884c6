"""Every daemon of a cluster: its name, how it starts, and how long it may take to end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster.accounting import start_mariadbd, start_slurmdbd
from cluster.errors import ClusterError
from cluster.launch import command, launch, succeeds
from cluster.layout import Layout
from cluster.ports import answers
from cluster.processes import daemon, until

_READY = frozenset({"idle", "mixed", "allocated", "completing"})


@dataclass(frozen=True, slots=True)
class Daemon:
    """One daemon."""

    name: str
    begin: Callable[[Layout], None]
    patience: float = 10.0
    """Seconds between asking it to end and killing it."""

    def start(self, layout: Layout) -> None:
        """Start it, unless it lives, and return when it answers.

        Raises:
            ClusterError: It does not.
        """
        if daemon(layout, self.name) is not None:
            return
        layout.pid_file(self.name).unlink(missing_ok=True)
        self.begin(layout)
        until(lambda: daemon(layout, self.name) is not None, f"pid file of {self.name}", 10)
        # MariaDB shows its own to nobody, but anybody may ask for the state.
        layout.pid_file(self.name).chmod(0o644)


def daemons(layout: Layout) -> list[Daemon]:
    """All of a cluster, in the order in which they start."""
    accounting = [Daemon("mariadbd", start_mariadbd, 20), Daemon("slurmdbd", start_slurmdbd)]
    return [
        Daemon("munged", _start_munged),
        Daemon("sshd", _start_sshd),
        *(accounting if layout.settings.accounting == "slurmdbd" else []),
        Daemon("slurmctld", _start_slurmctld),
        *(Daemon(f"slurmd.{node}", partial(_start_slurmd, node=node)) for node in layout.nodes),
    ]


def named(layout: Layout, name: str) -> Daemon:
    """One daemon.

    Raises:
        ClusterError: The cluster has no such daemon.
    """
    known = {one.name: one for one in daemons(layout)}
    if name not in known:
        raise ClusterError(f"no daemon {name!r}; there are {', '.join(known)}")
    return known[name]


def _start_munged(layout: Layout) -> None:
    socket = layout.munge_socket
    socket.parent.mkdir(exist_ok=True)
    for old in socket.parent.iterdir():
        old.unlink()
    launch(
        layout,
        "munged",
        "munged",
        f"--socket={socket}",
        f"--key-file={layout.etc}/munge.key",
        f"--pid-file={layout.pid_file('munged')}",
        f"--seed-file={layout.var}/munged.seed",
        f"--log-file={layout.log}/munged.log",
        # Its ideas of who may own the folders above are stricter than a folder in /var/tmp.
        "--force",
    )
    until(lambda: succeeds(layout, "munge", "-n", "-S", str(socket)), "munged", 10)


def _start_sshd(layout: Layout) -> None:
    # Compiled into sshd; normally made by systemd.
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    # sshd wants to be called by its full path.
    argv = ("/usr/sbin/sshd", "-f", str(layout.etc / "sshd_config"), "-E", str(layout.log / "sshd.log"))
    launch(layout, "sshd", *argv)
    until(lambda: answers(layout.ssh_port), "sshd", 10)


def _start_slurmctld(layout: Layout) -> None:
    launch(layout, "slurmctld", "slurmctld", "-f", str(layout.slurm_conf))
    until(lambda: succeeds(layout, "scontrol", "ping", says="is UP"), "slurmctld", 30)


def _start_slurmd(layout: Layout, node: str) -> None:
    launch(layout, f"slurmd.{node}", "slurmd", "-f", str(layout.slurm_conf), "-N", node)


def nodes_ready(layout: Layout) -> bool:
    """Whether every node takes jobs; those that an earlier life took out of service are put back."""
    listed = command(layout, "sinfo", "-h", "-N", "-p", "gpu", "-o", "%N %T", timeout=10).stdout
    states = dict(line.split() for line in listed.splitlines())
    for node, state in states.items():
        if state.startswith(("down", "drain", "fail")):
            # Fails where there is nothing to resume yet: the next look tells.
            command(layout, "scontrol", "update", f"nodename={node}", "state=resume")
    return len(states) == len(layout.nodes) and set(states.values()) <= _READY
