"""Starting programs for a cluster: daemons, and Slurm's commands."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from functools import cache

from cluster.errors import ClusterError
from cluster.layout import Layout

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# Slurm listens on the address that its own host's name has, which is any or none from machine to machine.
# In a UTS namespace of its own the host is called localhost, and nothing in /etc/hosts is touched.
_NAMESPACE = ("unshare", "--uts", "sh", "-c", 'hostname localhost && exec "$@"', "sh")


@cache
def _prefix() -> tuple[str, ...]:
    tried = subprocess.run([*_NAMESPACE, "true"], capture_output=True, check=False)
    return _NAMESPACE if tried.returncode == 0 else ()


def host() -> str:
    """Name of this machine as the daemons see it."""
    return "localhost" if _prefix() else socket.gethostname().partition(".")[0]


def environment(layout: Layout) -> dict[str, str]:
    """Of daemons: jobs and logins inherit it, so nothing of the caller's is in it."""
    return {"PATH": _PATH, "LANG": "C.UTF-8", "HOME": "/root", "SLURM_CONF": str(layout.slurm_conf)}


def launch(layout: Layout, name: str, *argv: str) -> None:
    """Start a daemon that goes into the background by itself.

    Raises:
        ClusterError: It says that it cannot.
    """
    says = layout.log / f"{name}.err"
    with says.open("ab") as stream:
        done = subprocess.run(
            [*_prefix(), *argv],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd=layout.var,
            env=environment(layout),
            start_new_session=True,
            check=False,
        )
    if done.returncode != 0:
        last = says.read_text(errors="replace").splitlines()[-3:]
        raise ClusterError(f"{name} does not start (see {layout.log}): {' '.join(last)}")


def command(layout: Layout, *argv: str, timeout: float = 20) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm for this cluster and return what it said, whatever its exit code.

    Raises:
        subprocess.TimeoutExpired: It hangs; without munged, every one does.
    """
    return subprocess.run(
        [*_prefix(), *argv],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment(layout), "HOME": os.environ.get("HOME", "/root")},
        timeout=timeout,
        check=False,
    )


def succeeds(layout: Layout, *argv: str, says: str = "", timeout: float = 3) -> bool:
    """Whether a command ends well within a short time, and says something."""
    try:
        done = command(layout, *argv, timeout=timeout)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and says in done.stdout


def checked(layout: Layout, argv: Sequence[str], timeout: float = 60) -> str:
    """What a command says.

    Raises:
        ClusterError: It fails.
    """
    done = command(layout, *argv, timeout=timeout)
    if done.returncode != 0:
        raise ClusterError(f"{argv[0]}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
