"""Commands of a real OpenSSH server that end at once: the connection outlives them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import paramiko
import pytest

from mqi_dagster.hpc.errors import ConnectionLostError
from mqi_dagster.hpc.shell import run
from tests.handover.sftp_server import SftpServer

DATA, END_OF_DATA, CLOSE = 94, 96, 97
"""Numbers of messages (RFC 4254, 9)."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SftpServer]:
    made = SftpServer(tmp_path / "sshd")
    made.start()
    yield made
    made.kill()


@pytest.mark.parametrize("kind", [DATA, END_OF_DATA])
def test_the_connection_outlives_a_command_that_ends_before_its_input(
    server: SftpServer, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    """The machine is so busy that a command is over before its input, or the end of it, is on its way."""
    here, over = threading.current_thread(), threading.Event()
    handlers = dict(paramiko.Transport._channel_handler_table)

    def heard(number: int, channel: paramiko.Channel, message: paramiko.Message) -> None:
        """What says that the command is over, in paramiko's other thread."""
        if channel.lock.locked():
            # By the late one: leave is taken after its message.
            over.set()
        handlers[number](channel, message)
        if number == CLOSE:
            over.set()

    def be_late(place: str) -> None:
        real = getattr(paramiko.Transport, place)

        def late(transport: Any, message: paramiko.Message) -> None:
            if message.asbytes()[0] == kind and threading.current_thread() is here:
                over.wait(60)
                if place == "_send_user_message":
                    # Its answer comes when the server, too, has taken leave of the command.
                    transport.global_request("keepalive@openssh.com")
            real(transport, message)

        patched.setattr(paramiko.Transport, place, late)

    connection = server.connection()
    first = connection.transport()
    with monkeypatch.context() as patched:
        for number in (END_OF_DATA, CLOSE):
            said = functools.partial(heard, number)
            patched.setitem(paramiko.Transport._channel_handler_table, number, said)
        be_late("_send_user_message")
        be_late("_send_message")
        assert run(connection, ["sleep", "0.3"], feed=b"dose").exit_code == 0
    assert run(connection, ["echo", "here"]).text == "here\n"
    assert connection.transport() is first
    assert "nonexistent channel" not in server.log


def test_the_end_of_input_waits_until_keys_are_exchanged(server: SftpServer) -> None:
    connection = server.connection()
    transport = connection.transport()

    class Keys(threading.Event):
        """As they are while keys are exchanged, until somebody waits for them."""

        waited_for = False

        def wait(self, timeout: float | None = None) -> bool:
            if not self.waited_for:
                self.waited_for = True
                threading.Thread(target=exchanged).start()
            return super().wait(timeout)

    def exchanged() -> None:
        # As the thread that exchanges keys does: whoever held this while waiting would wait for ever.
        with transport.clear_to_send_lock:
            transport.clear_to_send.set()

    def feed(stream: BinaryIO) -> None:
        stream.write(b"dose")
        transport.clear_to_send = Keys()

    assert run(connection, ["cat"], feed=feed).out == b"dose"
    assert isinstance(transport.clear_to_send, Keys) and transport.clear_to_send.waited_for
    assert connection.transport() is transport


@pytest.mark.parametrize("times", [1, 2])
def test_a_connection_that_had_ended_unseen_is_opened_again_once(
    server: SftpServer, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    real, ended = paramiko.Transport.open_session, []

    def ends_first(transport: paramiko.Transport, *arguments: Any, **named: Any) -> paramiko.Channel:
        if len(ended) < times:
            ended.append(transport)
            transport.close()
        return real(transport, *arguments, **named)

    monkeypatch.setattr(paramiko.Transport, "open_session", ends_first)
    connection = server.connection()
    if times == 2:
        with pytest.raises(ConnectionLostError):
            run(connection, ["true"])
    assert run(connection, ["echo", "here"]).text == "here\n"
    assert len(ended) == times
