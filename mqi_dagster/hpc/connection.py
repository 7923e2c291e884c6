"""One authenticated SSH connection to a host, opened when it is needed and again when it is gone.

What paramiko leaves to its caller is done here: a socket with TCP_NODELAY and keepalive of its own, a limit
for every call, host keys that are pinned and never added, an exit status of -1 that is told apart from a dead
connection, and no use of a connection on the other side of a fork.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import paramiko

from mqi_dagster.backoff import Backoff
from mqi_dagster.hpc.breaker import Breaker
from mqi_dagster.hpc.channels import ChannelLimit
from mqi_dagster.hpc.credentials import read_known_hosts, read_private_key
from mqi_dagster.hpc.errors import AuthenticationError, ConnectError, ConnectionLostError, HostKeyError
from mqi_dagster.settings import Host, JumpHost

_KEEPALIVE_SECONDS = 15
_TCP_OPTIONS = (
    ("TCP_KEEPIDLE", 15),
    ("TCP_KEEPINTVL", 5),
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", 30_000),
)
_OPEN_TRIES = 7
_REFUSED = Backoff(0.05, jitter=0.5)
DEAD = (paramiko.SSHException, EOFError, OSError)
"""What paramiko raises when a connection is gone."""


class _Refuse(paramiko.MissingHostKeyPolicy):
    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise paramiko.BadHostKeyException(hostname, key, key)


class Connection:
    """The connection of this process to one host; safe to share between threads.

    Args:
        host: How to get there.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._breaker = Breaker(self.host.breaker_failures, self.host.breaker_seconds)
        self._clients: list[paramiko.SSHClient] = []
        self.channels = ChannelLimit(self.host.channels)

    def _own(self) -> None:
        """After a fork the parent's connection is left alone: two processes would mix up its packets."""
        if self._process != os.getpid():
            self._reset()

    @property
    def is_open(self) -> bool:
        """Whether a connection stands, as far as is known."""
        transport = self._clients[-1].get_transport() if self._clients else None
        return transport is not None and transport.is_active()

    def transport(self) -> paramiko.Transport:
        """The transport of a connection that stands, opened if there is none.

        Raises:
            ConnectError: The host cannot be reached now.
            HostKeyError: It shows another key than the pinned one.
            AuthenticationError: It does not let this user in.
            CredentialError: Key file or known hosts cannot be used.
        """
        self._own()
        with self._lock:
            if not self.is_open:
                self._drop()
                self._breaker.check()
                try:
                    self._clients = self._connect()
                except ConnectError:
                    self._breaker.failed()
                    raise
                self._breaker.succeeded()
            found = self._clients[-1].get_transport()
        if found is None:
            raise ConnectError("the connection was lost at once")
        return found

    def drop(self, transport: paramiko.Transport | None = None) -> None:
        """Close the connection; the next call opens another one.

        Args:
            transport: Close it only if this is still its transport: another thread may have opened a new one.
        """
        self._own()
        with self._lock:
            current = self._clients[-1].get_transport() if self._clients else None
            if transport is None or transport is current:
                self._drop()

    def _drop(self) -> None:
        clients, self._clients = self._clients, []
        for client in reversed(clients):
            quiet_close(client)

    @contextmanager
    def session(self, timeout: float) -> Iterator[paramiko.Channel]:
        """A channel for one command or one SFTP session.

        Raises:
            ConnectError: There is no connection, or the server opens no further channel.
            ConnectionLostError: The connection died while the channel was opened.
        """
        self._own()
        with self.channels.permit(timeout):
            channel = self._open_channel(timeout)
            with self.channels.granted():
                try:
                    yield channel
                finally:
                    quiet_close(channel)

    def _open_channel(self, timeout: float) -> paramiko.Channel:
        refusal, found_dead = "", False
        for number in range(1, _OPEN_TRIES + 1):
            transport = self.transport()
            try:
                return transport.open_session(timeout=min(timeout, self.host.connect_seconds))
            except DEAD as error:
                refused = isinstance(error, paramiko.ChannelException) or "Unable to open" in str(error)
                if not (refused and transport.is_active()):
                    # A black hole answers nothing and looks alive: only a new connection can tell.
                    black_hole = transport.is_active()
                    self.drop(transport)
                    if not black_hole and not found_dead:
                        # It had ended before; through a channel that was never opened nothing was asked.
                        found_dead = True
                        continue
                    raise ConnectionLostError(f"the connection is gone: {_said(error)}") from None
                refusal = _said(error)
            # The server frees a session a little after the client has seen its end.
            self.channels.refused()
            time.sleep(_REFUSED.seconds(number))
        raise ConnectError(f"the server opens no further channel: {refusal}")

    def _connect(self) -> list[paramiko.SSHClient]:
        clients: list[paramiko.SSHClient] = []
        try:
            through: paramiko.Channel | None = None
            if self.host.jump is not None:
                clients.append(self._client(self.host.jump, None))
                through = self._through(clients[0])
            clients.append(self._client(self.host, through))
        except BaseException:
            for client in reversed(clients):
                quiet_close(client)
            raise
        return clients

    def _through(self, jump: paramiko.SSHClient) -> paramiko.Channel:
        transport = jump.get_transport()
        if transport is None:
            raise ConnectError("the jump host has closed the connection")
        try:
            return transport.open_channel(
                "direct-tcpip",
                (self.host.host, self.host.port),
                ("127.0.0.1", 0),
                timeout=self.host.connect_seconds,
            )
        except DEAD as error:
            raise ConnectError(f"the jump host opens no way to the host: {_said(error)}") from None

    def _client(self, host: Host | JumpHost, through: paramiko.Channel | None) -> paramiko.SSHClient:
        key = read_private_key(host.key_file)
        client = paramiko.SSHClient()
        for name, keys in read_known_hosts(host.known_hosts, host.host, host.port).items():
            for kind, pinned in keys.items():
                client.get_host_keys().add(name, kind, pinned)
        client.set_missing_host_key_policy(_Refuse())
        limit = self.host.connect_seconds
        try:
            client.connect(
                host.host,
                host.port,
                host.user,
                pkey=key,
                sock=through or _socket(host.host, host.port, limit),
                allow_agent=False,
                look_for_keys=False,
                timeout=limit,
                banner_timeout=limit,
                auth_timeout=limit,
                channel_timeout=limit,
            )
        except BaseException as error:
            answered = _is_connected(client) and "timeout" not in str(error)
            quiet_close(client)
            who = "the jump host" if isinstance(host, JumpHost) else "the host"
            if isinstance(error, paramiko.BadHostKeyException):
                raise HostKeyError(
                    f"{who} shows another key than the one in known_hosts; nothing was sent. Ask its"
                    " administrator whether the key was replaced, and only then put the new one there"
                ) from None
            if isinstance(error, paramiko.AuthenticationException) and answered:
                raise AuthenticationError(
                    f"{who} does not let {host.user} in with this key; see its authorized_keys"
                ) from None
            if isinstance(error, DEAD):
                raise ConnectError(f"no connection: {_said(error)}") from None
            raise
        transport = client.get_transport()
        if transport is not None:
            transport.set_keepalive(_KEEPALIVE_SECONDS)
        return client


def _is_connected(client: paramiko.SSHClient) -> bool:
    """Whether a connection stands: paramiko calls one that ends while it logs in a refusal."""
    transport = client.get_transport()
    return transport is not None and transport.is_active()


def _socket(host: str, port: int, timeout: float) -> socket.socket:
    made = socket.create_connection((host, port), timeout)
    # Without it every command waits 40 ms for the other side's acknowledgement.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _TCP_OPTIONS:
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def quiet_close(
    thing: paramiko.SSHClient | paramiko.Channel | paramiko.SFTPClient | paramiko.SFTPFile,
) -> None:
    """Close something whose connection may be dead: then paramiko's own close raises."""
    try:
        thing.close()
    except DEAD:
        return


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
