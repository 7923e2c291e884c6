"""What a cluster needs of the machine: Debian packages and an ordinary user."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cluster.errors import ClusterError, NotPreparedError
from cluster.layout import Accounting

_SLURM = ("slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge")
_SSH = ("openssh-server", "openssh-client")
# Not mariadb-server, whose maintainer script sets up a database of the whole machine.
_ACCOUNTING = ("slurmdbd", "slurm-wlm-mysql-plugin", "mariadb-server-core", "mariadb-client-core")
# Asked by every Debian maintainer script before it starts a daemon; 101 forbids it.
_POLICY = Path("/usr/sbin/policy-rc.d")


def missing_packages(accounting: Accounting = "slurmdbd") -> list[str]:
    """Names of the Debian packages that are not installed."""
    return absent([*_SLURM, *_SSH, *(_ACCOUNTING if accounting == "slurmdbd" else ())])


def absent(wanted: Sequence[str]) -> list[str]:
    """Those of some Debian packages that are not installed.

    Raises:
        NotPreparedError: This is no Debian.
    """
    try:
        listed = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
    except FileNotFoundError:
        raise NotPreparedError("this is no Debian: what is wanted is made of Debian's packages") from None
    installed = {line.split()[0] for line in listed.splitlines() if line.endswith(" installed")}
    return [name for name in wanted if name not in installed]


def user_exists(user: str) -> bool:
    """Whether this machine knows a user."""
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def require(user: str, accounting: Accounting) -> None:
    """Say what somebody with root's rights has to do before a cluster can start.

    Raises:
        NotPreparedError: There is something; its text holds the commands.
    """
    steps = []
    if missing := missing_packages(accounting):
        steps += how_to_install(missing)
    if not user_exists(user):
        steps += [f"missing user: {user}", " ".join(_new_user(user))]
    if steps:
        raise NotPreparedError("\n".join(steps))


def how_to_install(packages: Sequence[str]) -> list[str]:
    """What somebody with root's rights types for some packages."""
    names = " ".join(packages)
    return [f"missing packages: {names}", f"apt-get install --no-install-recommends {names}"]


def install(user: str = "hpcuser", accounting: Accounting = "slurmdbd") -> list[str]:
    """Install what is missing and create the user, without starting any daemon.

    Returns:
        What was done; empty when everything was there.

    Raises:
        NotPreparedError: Something is missing and this is not root.
    """
    if os.geteuid() != 0:
        require(user, accounting)
        return []
    done = missing_packages(accounting)
    if done:
        install_packages(done)
    if not user_exists(user):
        _run(*_new_user(user))
        done.append(f"user {user}")
    return done


def _new_user(user: str) -> list[str]:
    # An asterisk: no password. useradd's own default is a locked account, which sshd refuses.
    return ["useradd", "--create-home", "--shell", "/bin/bash", "--password", "*", user]


def install_packages(packages: Sequence[str]) -> None:
    """Install Debian packages as root, without starting any daemon.

    Raises:
        ClusterError: apt says that it cannot.
    """
    forbids = not _POLICY.exists()
    if forbids:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        _run("apt-get", "update", "-qq")
        _run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages)
    finally:
        if forbids:
            _POLICY.unlink()


def _run(*argv: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(argv)}:\n{done.stdout}{done.stderr}".rstrip())
