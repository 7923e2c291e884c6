"""An SFTP session on a connection, with limits that paramiko has not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import paramiko
from paramiko.sftp import CMD_READ, SFTPError

from mqi_dagster.hpc.connection import DEAD, Connection, quiet_close
from mqi_dagster.hpc.errors import (
    CommandTimeoutError,
    ConnectionLostError,
    HostFilesError,
    RemoteCommandError,
)


class _Client(paramiko.SFTPClient):
    """An SFTP client that tells the end of a connection from the end of a file.

    Its thread that reads ahead says nothing when the connection ends.
    """

    def _async_request(self, file: Any, kind: Any, *arguments: Any) -> Any:
        try:
            return super()._async_request(file, kind, *arguments)  # type: ignore[misc]
        except DEAD as error:
            if file is not type(None):
                # Whoever waits for the answer finds out by himself.
                return -1
            if kind == CMD_READ and isinstance(error, EOFError):
                # A file of paramiko takes it for its own end, and reads less than there is.
                raise paramiko.SSHException("the channel was closed before a read") from None
            raise


@contextmanager
def sftp(connection: Connection, timeout: float | None = None) -> Iterator[paramiko.SFTPClient]:
    """An SFTP session; every call on it has the limit.

    Raises:
        UnreachableError: The connection died, or an answer took too long.
        RemoteCommandError: What answers there is no SFTP server.
    """
    limit = timeout or connection.host.call_seconds
    with connection.session(limit) as channel:
        try:
            channel.settimeout(limit)
            request(channel, limit, lambda: channel.invoke_subsystem("sftp"))
            client = _Client(channel)
            # Without a limit of its own a read from a black hole never returns.
            client.get_channel().settimeout(limit)  # type: ignore[union-attr]
        except TimeoutError:
            connection.drop(channel.get_transport())
            raise CommandTimeoutError(f"no SFTP session within {limit:g} s") from None
        except SFTPError:
            raise RemoteCommandError("no SFTP session: does a login script print something?", 1) from None
        except DEAD as error:
            alive = channel.get_transport().is_active()
            if not alive:
                connection.drop(channel.get_transport())
            reason = str(error) or type(error).__name__
            raise ConnectionLostError(f"no SFTP session: {reason}") from None
        try:
            yield client
        except TimeoutError:
            connection.drop(channel.get_transport())
            raise CommandTimeoutError(f"no answer from SFTP within {limit:g} s") from None
        except (FileNotFoundError, PermissionError):
            raise
        except DEAD as error:
            if channel.get_transport().is_active() and isinstance(error, OSError) and not channel.closed:
                raise
            connection.drop(channel.get_transport())
            reason = str(error) or type(error).__name__
            raise ConnectionLostError(f"the connection was lost during a transfer: {reason}") from None
        finally:
            quiet_close(client)


@contextmanager
def reading(connection: Connection, what: str, timeout: float | None = None) -> Iterator[paramiko.SFTPClient]:
    """An SFTP session that reads: what the host's file system refuses is told from what it cannot do now.

    Raises:
        HostFilesError: The connection stands, and the file system behind it fails.
        RemoteCommandError: The account may not read it.
    """
    try:
        with sftp(connection, timeout) as client:
            yield client
    except PermissionError:
        raise RemoteCommandError(f"the account may not read {what}", 1) from None
    except OSError:
        # SFTP has one word for all its failures.
        raise HostFilesError(f"the host's file system does not give {what} now") from None


def request(channel: paramiko.Channel, limit: float, ask: Callable[[], None]) -> None:
    """Ask a channel for a subsystem or a command; paramiko by itself waits without an end for the answer.

    Raises:
        TimeoutError: There was none in time.
    """
    end = time.monotonic() + limit
    late = threading.Timer(limit, channel.event.set)
    late.daemon = True
    late.start()
    try:
        ask()
    except DEAD:
        if time.monotonic() >= end:
            raise TimeoutError from None
        raise
    finally:
        late.cancel()
