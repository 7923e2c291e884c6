"""The login: keys, sshd's configuration, and what a client has to know."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from cluster.errors import ClusterError
from cluster.layout import LOOPBACK, Layout
from cluster.writing import write


@dataclass(frozen=True, slots=True)
class Connection:
    """What a client has to know of a running cluster."""

    host: str
    port: int
    user: str
    key_file: Path
    known_hosts: Path
    slurm_conf: Path
    root: Path

    @classmethod
    def of(cls, layout: Layout) -> Self:
        """What a cluster of this layout gives to its clients."""
        return cls(
            host=LOOPBACK,
            port=layout.ssh_port,
            user=layout.settings.user,
            key_file=layout.keys / "client",
            known_hosts=layout.keys / "known_hosts",
            slurm_conf=layout.slurm_conf,
            root=layout.settings.root,
        )

    @classmethod
    def read(cls, root: Path) -> Self:
        """What the last start below a folder has written.

        Raises:
            ClusterError: Nothing was started there.
        """
        try:
            content = json.loads((root / "connection.json").read_text())
        except FileNotFoundError:
            raise ClusterError(f"{root}: no cluster was started there") from None
        paths = {name: Path(content[name]) for name in ("key_file", "known_hosts", "slurm_conf", "root")}
        return cls(host=content["host"], port=content["port"], user=content["user"], **paths)

    def write(self) -> None:
        """Leave it in the root folder."""
        content = {
            name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()
        }
        write(self.root / "connection.json", json.dumps(content, indent=2) + "\n")

    def ssh(self, *command: str, user: str | None = None) -> list[str]:
        """OpenSSH's client with everything it needs, and nothing of the caller's own configuration."""
        options = {
            "IdentityFile": str(self.key_file),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
        }
        given = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        return [
            "ssh",
            "-F",
            "none",
            *given,
            "-p",
            str(self.port),
            f"{user or self.user}@{self.host}",
            *command,
        ]

    def exports(self) -> str:
        """Lines for a shell."""
        variables = {
            "SLURM_CONF": self.slurm_conf,
            "MQI_CLUSTER_ROOT": self.root,
            "MQI_CLUSTER_HOST": self.host,
            "MQI_CLUSTER_PORT": self.port,
            "MQI_CLUSTER_USER": self.user,
            "MQI_CLUSTER_KEY": self.key_file,
            "MQI_CLUSTER_KNOWN_HOSTS": self.known_hosts,
            "MQI_CLUSTER_SSH": shlex.join(self.ssh()),
        }
        return "".join(f"export {name}={shlex.quote(str(value))}\n" for name, value in variables.items())


def configure_login(layout: Layout) -> None:
    """Make the keys of both ends, the client's known_hosts, and sshd's configuration."""
    connection = Connection.of(layout)
    host_key = layout.keys / "host"
    for key in (host_key, connection.key_file):
        if not key.exists():
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"cluster-{key.name}", "-f", str(key)],
                stdin=subprocess.DEVNULL,
                check=True,
            )
    # Whoever called sudo is the one that connects.
    os.chown(connection.key_file, int(os.environ.get("SUDO_UID", "0")), -1)
    # From the key itself and not by asking the port: pinned before the first connection.
    public = " ".join(host_key.with_suffix(".pub").read_text().split()[:2])
    write(connection.known_hosts, f"[{LOOPBACK}]:{layout.ssh_port} {public}\n")
    authorized = layout.keys / "authorized"
    authorized.mkdir(exist_ok=True)
    for old in authorized.iterdir():
        old.unlink()
    for user in logins(layout):
        write(authorized / user, connection.key_file.with_suffix(".pub").read_text())
    write(layout.etc / "sshd_config", _sshd(layout, host_key))


def logins(layout: Layout) -> list[str]:
    """Who may log in."""
    return sorted({layout.settings.user, *(("root",) if layout.settings.root_login else ())})


def _sshd(layout: Layout, host_key: Path) -> str:
    settings = layout.settings
    return f"""\
ListenAddress {LOOPBACK}
Port {layout.ssh_port}
HostKey {host_key}
PidFile {layout.pid_file("sshd")}
AllowUsers {" ".join(f"{user}@{LOOPBACK}" for user in logins(layout))}
PermitRootLogin prohibit-password
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile {layout.keys}/authorized/%u
# The folders above may belong to anybody.
StrictModes no
UsePAM no
UseDNS no
PrintMotd no
X11Forwarding no
AllowTcpForwarding no
AllowAgentForwarding no
MaxSessions {settings.max_sessions}
MaxStartups {settings.max_startups}
LoginGraceTime 30
ClientAliveInterval 15
ClientAliveCountMax 4
Subsystem sftp internal-sftp
SetEnv SLURM_CONF={layout.slurm_conf} PATH={layout.bin}:/usr/local/bin:/usr/bin:/bin
LogLevel VERBOSE
"""
