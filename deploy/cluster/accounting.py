"""Accounting: slurmdbd, and a MariaDB of its own below the root."""

from __future__ import annotations

import secrets
import shutil

from cluster.connection import logins
from cluster.launch import checked, command, launch, succeeds
from cluster.layout import CLUSTER_NAME, LOOPBACK, Layout
from cluster.ports import answers
from cluster.processes import until
from cluster.writing import write

_DATABASE = "slurm_acct"
_ACCOUNT = "proton"


def configure_accounting(layout: Layout) -> None:
    """Write what slurmdbd and MariaDB read."""
    password = layout.etc / "database.password"
    if not password.exists():
        write(password, secrets.token_hex(16), 0o600)
    # Slurm refuses to read this one if anybody else can.
    write(layout.etc / "slurmdbd.conf", _slurmdbd(layout, password.read_text()), 0o600)
    write(layout.etc / "mariadb.cnf", _mariadb(layout))


def _slurmdbd(layout: Layout, password: str) -> str:
    return f"""\
DbdHost=localhost
DbdAddr={LOOPBACK}
DbdPort={layout.slurmdbd_port}
CommunicationParameters=NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={layout.munge_socket}
SlurmUser=root
PidFile={layout.pid_file("slurmdbd")}
LogFile={layout.log}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost={LOOPBACK}
StoragePort={layout.mariadb_port}
StorageUser=slurm
StoragePass={password}
StorageLoc={_DATABASE}
"""


def _mariadb(layout: Layout) -> str:
    # It need not survive a loss of power, only kill -9: nothing is flushed to the disk in time.
    return f"""\
[mysqld]
user = root
datadir = {layout.var}/mariadb
tmpdir = {layout.var}
socket = {layout.run}/mariadb.sock
pid-file = {layout.pid_file("mariadbd")}
log-error = {layout.log}/mariadb.log
bind-address = {LOOPBACK}
port = {layout.mariadb_port}
skip-name-resolve
skip-log-bin
performance-schema = OFF
max-connections = 50
innodb-buffer-pool-size = 64M
innodb-log-file-size = 16M
innodb-lock-wait-timeout = 900
innodb-flush-log-at-trx-commit = 2
innodb-flush-method = nosync
innodb-doublewrite = OFF

[client]
user = root
socket = {layout.run}/mariadb.sock
"""


def _sql(layout: Layout) -> list[str]:
    return ["mariadb", f"--defaults-file={layout.etc}/mariadb.cnf", "--execute"]


def start_mariadbd(layout: Layout) -> None:
    """Start the database, and make it first where there is none."""
    ready = layout.var / "mariadb.ready"
    data = layout.var / "mariadb"
    defaults = f"--defaults-file={layout.etc}/mariadb.cnf"
    if not ready.exists():
        # A half-made one of an interrupted start is of no use.
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir()
        checked(
            layout,
            [
                "mariadb-install-db",
                defaults,
                "--user=root",
                "--auth-root-authentication-method=socket",
                "--skip-test-db",
            ],
        )
    # It has no background of its own to go to.
    launch(layout, "mariadbd", "setsid", "--fork", "mariadbd", defaults)
    until(lambda: succeeds(layout, *_sql(layout), "SELECT 1"), "mariadbd", 30)
    if not ready.exists():
        password = (layout.etc / "database.password").read_text()
        user = f"slurm@'{LOOPBACK}'"
        statements = (
            f"CREATE DATABASE IF NOT EXISTS {_DATABASE}",
            f"CREATE USER IF NOT EXISTS {user} IDENTIFIED BY '{password}'",
            f"GRANT ALL ON {_DATABASE}.* TO {user}",
        )
        checked(layout, [*_sql(layout), "; ".join(statements)])
        ready.touch()


def start_slurmdbd(layout: Layout) -> None:
    """Start slurmdbd, and make this cluster and its users known to it the first time."""
    launch(layout, "slurmdbd", "slurmdbd")
    until(lambda: answers(layout.slurmdbd_port), "slurmdbd", 30)
    ready = layout.var / "slurmdbd.ready"
    if ready.exists():
        return
    until(lambda: succeeds(layout, "sacctmgr", "-n", "list", "cluster"), "an answer of slurmdbd", 30)
    # Ends with 1 where there is nothing to add, so only the outcome counts.
    add = ("sacctmgr", "-i", "-Q", "add")
    command(layout, *add, "cluster", CLUSTER_NAME)
    command(layout, *add, "account", _ACCOUNT, f"cluster={CLUSTER_NAME}")
    command(layout, *add, "user", ",".join({"root", *logins(layout)}), f"account={_ACCOUNT}")
    listed = ("sacctmgr", "-n", "list", "association", f"account={_ACCOUNT}", "format=user%32")
    until(lambda: succeeds(layout, *listed, says=layout.settings.user), "users in slurmdbd", 5)
    ready.touch()
