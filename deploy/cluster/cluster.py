"""A cluster as a whole: start, stop, clean, and every way to hurt a part of it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from cluster.configuration import remove_cgroups
from cluster.connection import Connection
from cluster.daemons import daemons, named, nodes_ready
from cluster.errors import ClusterError, NotPreparedError
from cluster.jobs import cancel_jobs, save_jobs
from cluster.launch import command
from cluster.layout import ClusterSettings, Layout, started_in
from cluster.packages import require
from cluster.preparation import prepare, require_way_in, with_free_ports
from cluster.processes import daemon, end, seen, send, sessions, sweep, until

_NODES_SECONDS = 60


class Cluster:
    """One cluster below one folder.

    Args:
        settings: What it is like; a block of ports that an earlier start has chosen is kept.
    """

    def __init__(self, settings: ClusterSettings) -> None:
        self._chooses_ports = settings.port_base == 0
        if self._chooses_ports:
            kept = ClusterSettings.remembered(settings.root).port_base
            settings = replace(settings, port_base=kept)
        self.settings = settings

    @property
    def layout(self) -> Layout:
        """Where everything lies."""
        return Layout(self.settings)

    # The whole

    def start(self) -> Connection:
        """Start what does not run yet, and return when every node takes jobs.

        Raises:
            NotPreparedError: The machine is not ready, or the caller is not root.
            ClusterError: A daemon does not start, or a cluster with other settings runs there.
        """
        require(self.settings.user, self.settings.accounting)
        self._require_root()
        require_way_in(self.settings)
        with self._locked():
            alive = [name for name, state in self.states().items() if state != "down"]
            known = ClusterSettings.remembered(self.settings.root)
            if alive and known.port_base:
                # The settings may have been read before another process has started the cluster.
                if self._chooses_ports:
                    self.settings = replace(self.settings, port_base=known.port_base)
                if known != self.settings:
                    raise ClusterError(f"{self.settings.root}: runs with other settings; stop it first")
            else:
                self.settings = with_free_ports(self.settings, may_choose=self._chooses_ports)
                prepare(self.layout)
            for one in daemons(self.layout):
                one.start(self.layout)
            until(lambda: nodes_ready(self.layout), f"nodes (see {self.layout.log})", _NODES_SECONDS)
            made = Connection.of(self.layout)
            made.write()
            return made

    def stop(self) -> None:
        """Cancel the jobs, end the daemons and all they left behind, and keep the state.

        Raises:
            ClusterError: Something cannot be ended.
        """
        if not started_in(self.settings.root):
            return
        self._require_root()
        with self._locked():
            self._stop()

    def clean(self) -> None:
        """Stop, and delete the folder.

        Raises:
            ClusterError: Something cannot be ended, or the folder was not made by a start.
        """
        root = self.settings.root
        if not root.is_dir():
            return
        self._require_root()
        with self._locked():
            # A root that was given by mistake may hold something dear.
            if started_in(root):
                self._stop()
                for folder in self.layout.folders:
                    shutil.rmtree(folder, ignore_errors=True)
                for name in ("connection.json", "mqi-cluster.json"):
                    (root / name).unlink(missing_ok=True)
            (root / "lock").unlink()
        if any(root.iterdir()):
            raise ClusterError(f"{root}: holds what is not the cluster's; it stays")
        root.rmdir()

    def states(self) -> dict[str, str]:
        """Every daemon: ``up``, ``frozen`` or ``down``."""
        found = {}
        for one in daemons(self.layout):
            process = daemon(self.layout, one.name)
            found[one.name] = "down" if process is None else "frozen" if process.frozen else "up"
        return found

    def connection(self) -> Connection:
        """What a client has to know.

        Raises:
            ClusterError: The cluster was never started.
        """
        return Connection.read(self.settings.root)

    def slurm(self, *argv: str, timeout: float = 20) -> subprocess.CompletedProcess[str]:
        """Run a command of Slurm as the caller, on this machine; its exit code is not looked at.

        Raises:
            subprocess.TimeoutExpired: It hangs.
        """
        return command(self.layout, *argv, timeout=timeout)

    def save(self) -> None:
        """Let the controller write its jobs down now, so that a kill does not undo what it knows of them.

        By itself it writes a submission at once, but a job's start only with the next change to any job.

        Raises:
            ClusterError: It does not.
        """
        save_jobs(self.layout)

    # One daemon

    def pid(self, name: str) -> int | None:
        """Of a daemon that lives."""
        found = daemon(self.layout, named(self.layout, name).name)
        return None if found is None else found.pid

    def start_one(self, name: str) -> None:
        """Start a daemon and return when it answers; nothing to do where it lives."""
        self._require_root()
        if not started_in(self.settings.root):
            raise ClusterError(f"{self.settings.root}: no cluster was started there")
        with self._locked():
            named(self.layout, name).start(self.layout)

    def stop_one(self, name: str) -> None:
        """Ask a daemon to end, and return when it has; of sshd only the listener."""
        end(self._victims(name, with_sessions=False), named(self.layout, name).patience)

    def kill(self, name: str, sessions: bool = False) -> None:
        """kill -9 of a daemon; of sshd only the listener, or also every connection.

        Raises:
            ClusterError: There is nothing to kill, and a test that goes on would prove nothing.
        """
        end(self._victims(name, with_sessions=sessions), 0)

    def freeze(self, name: str) -> None:
        """Stop a daemon in its tracks, as on a machine that hangs; of sshd also every connection.

        Raises:
            ClusterError: There is nothing to freeze.
        """
        victims = self._victims(name, with_sessions=True)
        send(victims, signal.SIGSTOP)
        until(lambda: all((one := seen(pid)) is None or one.frozen for pid in victims), f"{name} frozen", 5)

    def thaw(self, name: str) -> None:
        """Let a frozen daemon go on.

        Raises:
            ClusterError: It does not live.
        """
        send(self._victims(name, with_sessions=True), signal.SIGCONT)

    def _victims(self, name: str, *, with_sessions: bool) -> list[int]:
        self._require_root()
        found = self._pids(name, with_sessions=with_sessions)
        if not found:
            raise ClusterError(f"{name} does not run")
        return found

    def _pids(self, name: str, *, with_sessions: bool) -> list[int]:
        pid = self.pid(name)
        # The listener first, so that it makes no new connection meanwhile.
        return [
            *([] if pid is None else [pid]),
            *(sessions(self.layout) if name == "sshd" and with_sessions else []),
        ]

    # What stands behind

    @staticmethod
    def _require_root() -> None:
        if os.geteuid() != 0:
            raise NotPreparedError("a cluster belongs to root: its daemons run jobs as other users")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.settings.root / "lock"
        while True:
            self.settings.root.mkdir(parents=True, exist_ok=True)
            with lock.open("a") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                # Whoever held it before may have deleted the folder.
                if lock.exists() and lock.stat().st_ino == os.fstat(stream.fileno()).st_ino:
                    yield
                    return

    def _stop(self) -> None:
        layout = self.layout
        all_of_them = daemons(layout)
        for one in all_of_them:
            send(self._pids(one.name, with_sessions=True), signal.SIGCONT)
        if self.pid("munged") is not None and self.pid("slurmctld") is not None:
            cancel_jobs(layout, wait="down" not in self.states().values())
        # All nodes at once, then one by one: each still needs those that started before it.
        end([pid for node in layout.nodes if (pid := self.pid(f"slurmd.{node}"))], 10)
        for one in reversed(all_of_them):
            end(self._pids(one.name, with_sessions=True), one.patience)
        sweep(layout)
        if self.settings.cgroup:
            remove_cgroups(layout)
