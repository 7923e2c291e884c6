"""What stands between a client and a real sshd: a gate that acts at a chosen byte, and other settings."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_BLOCK = 1 << 14
_PATIENCE_SECONDS = 10.0


class Gate:
    """A port in front of a server: everything passes, and at a chosen byte something happens.

    Args:
        port: Of the server on the loopback.
        pinned: Known hosts of the server; those of the gate are made from them.
        folder: Where they go.
    """

    def __init__(self, port: int, pinned: Path, folder: Path) -> None:
        self._server = port
        self._lock = threading.Lock()
        self._wanted: tuple[str, int, Callable[[], None]] | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.connections = 0
        """How many were made through it."""
        self.passed = {"up": 0, "down": 0}
        """Bytes."""
        self.happened = threading.Event()
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._door.getsockname()[1]
        self._known = folder / "known_hosts.gate"
        self._known.write_text(pinned.read_text().replace(f"]:{port} ", f"]:{self.port} "))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def host(self) -> dict[str, Any]:
        """Changes of a host's settings that lead through the gate."""
        return {"port": self.port, "known_hosts": self._known}

    def after(self, way: str, count: int, action: Callable[[], None]) -> None:
        """Act once when this many more bytes have passed ``up`` to the server or ``down`` from it."""
        with self._lock:
            self.happened.clear()
            self._wanted = (way, count, action)

    def cut(self) -> None:
        """End every connection, as a firewall does that has lost its memory."""
        # A copy: who comes while the old ones are ended is let through.
        for pair in tuple(self._pairs):
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let nobody through any more."""
        # A thread that waits in accept holds the socket open.
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            self.connections += 1
            try:
                server = socket.create_connection(("127.0.0.1", self._server), _PATIENCE_SECONDS)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            self._pairs.append((client, server))
            for way, source, target in (("up", client, server), ("down", server, client)):
                threading.Thread(target=self._pump, args=(way, source, target), daemon=True).start()

    def _pump(self, way: str, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while block := source.recv(_BLOCK):
                first = self._left(way, len(block))
                target.sendall(block[:first])
                self._passed(way, first)
                if block[first:]:
                    target.sendall(block[first:])
                    self._passed(way, len(block) - first)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _left(self, way: str, count: int) -> int:
        """How much of a block passes before something has to happen."""
        with self._lock:
            if self._wanted is None or self._wanted[0] != way:
                return count
            return min(count, self._wanted[1])

    def _passed(self, way: str, count: int) -> None:
        with self._lock:
            self.passed[way] += count
            if self._wanted is None or self._wanted[0] != way:
                return
            left = self._wanted[1] - count
            action = self._wanted[2]
            self._wanted = (way, left, action) if left > 0 else None
        if left <= 0:
            self.happened.set()
            action()


@contextmanager
def sshd_with(cluster: Any, **settings: str) -> Iterator[None]:
    """The cluster's sshd with some other settings; afterwards as it was."""
    path = cluster.layout.etc / "sshd_config"
    before = path.read_text()
    kept = [line for line in before.splitlines() if line.split(" ")[0] not in settings]
    try:
        path.write_text("\n".join([*kept, *(f"{name} {value}" for name, value in settings.items()), ""]))
        restart_sshd(cluster)
        yield
    finally:
        path.write_text(before)
        restart_sshd(cluster)


def restart_sshd(cluster: Any) -> None:
    """End sshd with every connection, and start it again."""
    with suppress(Exception):
        cluster.kill("sshd", sessions=True)
    cluster.start_one("sshd")
