"""What an SFTP server answers on a connection that stands, as errors that say whether waiting helps."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paramiko
import pytest

from mqi_dagster.errors import InfrastructureError, UnreachableError
from mqi_dagster.hpc import files, session
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.errors import HostFilesError, RemoteCommandError


class Server(paramiko.SFTPClient):
    """Answers every question with one error.

    Args:
        error: The error.
        opens: Whether files can be opened, and only then fail.
    """

    def __init__(self, error: OSError, *, opens: bool = False) -> None:
        self._error, self._opens = error, opens

    def stat(self, path: Any) -> Any:
        raise self._error

    def open(self, *_: Any, **__: Any) -> Any:
        if not self._opens:
            raise self._error
        server = self

        class File:
            def __enter__(self) -> File:
                return self

            def __exit__(self, *_: object) -> None:
                return

            def stat(self) -> paramiko.SFTPAttributes:
                found = paramiko.SFTPAttributes()
                found.st_size = 10
                return found

            def seek(self, offset: int) -> None:
                return

            def read(self, size: int) -> bytes:
                raise server._error

            def readv(self, chunks: object) -> list[bytes]:
                raise server._error

        return File()

    def close(self) -> None:
        return


class Channel:
    """A channel of a connection that stands."""

    closed = False

    def is_active(self) -> bool:
        return True

    def get_transport(self) -> Channel:
        return self

    def get_channel(self) -> Channel:
        return self

    def settimeout(self, seconds: float) -> None:
        return


Calls = dict[str, Callable[[Connection, Path], object]]
CALLS: Calls = {
    "tail": lambda connection, _: files.tail(connection, "/srv/log", 0),
    "size": lambda connection, _: files.remote_size(connection, "/srv/log"),
    "hash": lambda connection, _: files.remote_hash(connection, "/srv/log", 10),
    "get": lambda connection, folder: files.get_resume(connection, "/srv/1", folder / "1", "0" * 64, 10),
}


@pytest.fixture
def serve(nowhere: Connection, monkeypatch: pytest.MonkeyPatch) -> Callable[[Server], Connection]:
    def made(server: Server) -> Connection:
        channel = Channel()
        server.get_channel = lambda: channel  # type: ignore[method-assign,assignment,return-value]
        monkeypatch.setattr(session, "_Client", lambda _: server)
        monkeypatch.setattr(session, "request", lambda *_: None)
        monkeypatch.setattr(nowhere, "session", lambda _: _Session(channel))
        monkeypatch.setattr(files, "_hash_there", lambda *_: None)
        return nowhere

    return made


class _Session:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def __enter__(self) -> Channel:
        return self._channel

    def __exit__(self, *_: object) -> None:
        return


@pytest.mark.parametrize("opens", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_a_file_system_that_fails_is_waited_for(
    serve: Callable[[Server], Connection], tmp_path: Path, call: str, opens: bool
) -> None:
    connection = serve(Server(OSError("Failure"), opens=opens))
    with pytest.raises(HostFilesError, match="the host's file system does not give") as raised:
        CALLS[call](connection, tmp_path)
    assert isinstance(raised.value, UnreachableError)


@pytest.mark.parametrize("call", CALLS)
def test_what_the_account_may_not_read_is_named(
    serve: Callable[[Server], Connection], tmp_path: Path, call: str
) -> None:
    connection = serve(Server(PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(RemoteCommandError, match="the account may not read") as raised:
        CALLS[call](connection, tmp_path)
    assert "srv" not in raised.value.message


def test_a_local_disk_that_fails_at_the_end_is_not_the_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with (
        pytest.raises(InfrastructureError, match="of this machine failed: No space left"),
        files._opened(tmp_path / "part", 0),
    ):
        pass
