"""A real OpenSSH server for tests, of the user who runs them: killed, frozen and started again at will."""

from __future__ import annotations

import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mqi_dagster.hpc.connection import Connection
from mqi_dagster.settings import Host
from tests.waiting import wait_for

SSHD = "/usr/sbin/sshd"
_WAIT_SECONDS = 15.0


def _free_port() -> int:
    """A port below those that the system gives to clients.

    A client that tries such a port again and again is in the end connected to itself, and keeps it.
    """
    for port in random.sample(range(15_000, 30_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


class SftpServer:
    """One sshd on loopback with keys of its own.

    Args:
        folder: For its keys, settings and log.
        shell: Whether the account has a shell, or only SFTP.
        max_sessions: Its MaxSessions.
    """

    def __init__(self, folder: Path, *, shell: bool = True, max_sessions: int = 10) -> None:
        if not Path(SSHD).exists() or shutil.which("ssh-keygen") is None:
            pytest.skip("OpenSSH's server is not here")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, _free_port()
        self._shell, self._sessions = shell, max_sessions
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.new_host_key()
        self._key("user")
        (folder / "authorized").write_bytes((folder / "user.pub").read_bytes())
        self.pin()

    def _key(self, name: str) -> None:
        for path in (self.folder / name, self.folder / f"{name}.pub"):
            path.unlink(missing_ok=True)
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(self.folder / name)]
        subprocess.run(argv, check=True, timeout=30)

    def new_host_key(self) -> None:
        """Give the server another key; it shows it from its next start on."""
        self._key("host")

    def pin(self) -> None:
        """Write the server's key into the known hosts."""
        kind, key = (self.folder / "host.pub").read_text().split()[:2]
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def connection(self, **settings: Any) -> Connection:
        """A connection of its own to the server.

        Args:
            settings: Those of `Host` that are not to have their defaults.
        """
        values: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": pwd.getpwuid(os.geteuid()).pw_name,
            "key_file": self.folder / "user",
            "known_hosts": self.folder / "known_hosts",
            "call_seconds": 20,
            "breaker_failures": 100_000,
        }
        return Connection(Host.model_validate(values | settings))

    def start(self) -> None:
        """Start it, and wait until it answers."""
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder}/host",
            f"AuthorizedKeysFile {self.folder}/authorized",
            f"PidFile {self.folder}/pid",
            "UsePAM no",
            "StrictModes no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "MaxStartups 100:30:200",
            f"MaxSessions {self._sessions}",
            "UseDNS no",
            "Subsystem sftp internal-sftp",
            # The login scripts of whoever runs this take their time, and locks that a kill leaves behind.
            f"SetEnv HOME={self.folder}",
        ]
        if not self._shell:
            lines += ["ForceCommand internal-sftp", "AllowTcpForwarding no", "PermitTTY no"]
        version = subprocess.run([SSHD, "-V"], capture_output=True, text=True, timeout=30, check=False)
        found = re.search(r"OpenSSH_(\d+)\.(\d+)", version.stdout + version.stderr)
        if found and (int(found[1]), int(found[2])) >= (9, 8):
            lines.append("PerSourcePenalties no")
        config = self.folder / "sshd_config"
        config.write_text("\n".join(lines) + "\n")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=log)
        wait_for(self._answers, "the server answers", report=lambda: self.log)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                return probe.recv(4) == b"SSH-"
        except OSError:
            assert self._process is not None and self._process.poll() is None, self.log
            return False

    @property
    def log(self) -> str:
        """The end of what it has said."""
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def freeze(self) -> None:
        """Stop it and all its sessions where they are: connections stand, and nothing answers."""
        assert self._process is not None
        self._frozen, waiting = [], [self._process.pid]
        while waiting:
            # A stopped process has no further children.
            process = waiting.pop()
            try:
                os.kill(process, signal.SIGSTOP)
            except ProcessLookupError:
                continue
            self._frozen.append(process)
            waiting += _children(process)

    def thaw(self) -> None:
        """Let it go on."""
        for process in self._frozen:
            _signal(process, signal.SIGCONT)

    def kill(self) -> None:
        """End it and all its sessions at once, as a power cut would."""
        if self._process is None:
            return
        self.freeze()
        for process in self._frozen:
            _signal(process, signal.SIGKILL)
        self._process.wait(_WAIT_SECONDS)
        self._process = None

    def restart(self) -> None:
        """Kill it, and start it on the same port."""
        self.kill()
        self.start()


def _signal(process: int, number: signal.Signals) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == parent:
            found.append(int(entry.name))
    return found
