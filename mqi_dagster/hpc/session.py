"""An SFTP session on a connection, with limits that paramiko has not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import paramiko
from paramiko.sftp import SFTPError

from mqi_dagster.hpc.connection import DEAD, Connection, quiet_close
from mqi_dagster.hpc.errors import CommandTimeoutError, ConnectionLostError, RemoteCommandError


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
            _invoke(channel, limit)
            client = paramiko.SFTPClient(channel)
            # Without a limit of its own a read from a black hole never returns.
            client.get_channel().settimeout(limit)  # type: ignore[union-attr]
        except TimeoutError:
            connection.drop()
            raise CommandTimeoutError(f"no SFTP session within {limit:g} s") from None
        except SFTPError:
            raise RemoteCommandError("no SFTP session: does a login script print something?", 1) from None
        except DEAD as error:
            alive = channel.get_transport().is_active()
            if not alive:
                connection.drop()
            reason = str(error) or type(error).__name__
            raise ConnectionLostError(f"no SFTP session: {reason}") from None
        try:
            yield client
        except TimeoutError:
            connection.drop()
            raise CommandTimeoutError(f"no answer from SFTP within {limit:g} s") from None
        except (FileNotFoundError, PermissionError):
            raise
        except DEAD as error:
            if channel.get_transport().is_active() and isinstance(error, OSError) and not channel.closed:
                raise
            connection.drop()
            reason = str(error) or type(error).__name__
            raise ConnectionLostError(f"the connection was lost during a transfer: {reason}") from None
        finally:
            quiet_close(client)


def _invoke(channel: paramiko.Channel, limit: float) -> None:
    """Start SFTP in a channel; paramiko by itself waits without an end for the answer."""
    end = time.monotonic() + limit
    late = threading.Timer(limit, channel.event.set)
    late.daemon = True
    late.start()
    try:
        channel.invoke_subsystem("sftp")
    except DEAD:
        if time.monotonic() >= end:
            raise TimeoutError from None
        raise
    finally:
        late.cancel()
