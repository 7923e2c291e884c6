"""What a command on a host reads, sent in order with the end of the command.

Paramiko's own `Channel.send` and `Channel.shutdown_write` may put their message on its way after paramiko's
other thread has taken leave of a command that has ended; OpenSSH then ends the whole connection, with every
other command on it. Here a message is sent under the lock under which leave is taken. While keys are
exchanged nothing may be said, and the other thread must not be held up.
"""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Any

import paramiko
from paramiko.common import cMSG_CHANNEL_DATA

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_KEY_EXCHANGE_POLL_SECONDS = 0.1


class StandardInput(io.RawIOBase):
    """Writes to a command; what follows a failure goes nowhere, so that whoever clears up waits no more.

    Args:
        channel: Of the command.
        end: When at the latest everything has to be on its way [s, monotonic].
    """

    def __init__(self, channel: paramiko.Channel, end: float) -> None:
        super().__init__()
        self._channel: Any = channel
        self._transport: Any = channel.get_transport()
        self._end = end
        self._broken = False

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: ReadableBuffer) -> int:
        """Send a block, whole.

        Raises:
            TimeoutError: The command does not read it in time.
            OSError: The command has ended.
            EOFError: The connection is gone.
        """
        block = memoryview(bytes(data))
        if not self._broken:
            self._broken = True
            sent = 0
            while sent < len(block):
                sent += self._send(block[sent:])
            self._broken = False
        return len(block)

    def end(self) -> None:
        """Say that no more comes, unless the command has ended.

        Raises:
            TimeoutError: It cannot be said in time.
        """
        while self._transport.is_active():
            with self._channel.lock, self._transport.clear_to_send_lock:
                if self._transport.clear_to_send.is_set():
                    if (message := self._channel._send_eof()) is not None:
                        self._transport._send_message(message)
                    return
            self._wait()

    def _send(self, block: memoryview) -> int:
        """Send as much as the command takes now; how much that is."""
        message = paramiko.Message()
        with self._channel.lock:
            size = int(self._channel._wait_for_send_window(len(block)))
            message.add_byte(cMSG_CHANNEL_DATA)
            message.add_int(self._channel.remote_chanid)
            message.add_string(bytes(block[:size]))
        while size and self._transport.is_active():
            with self._channel.lock, self._transport.clear_to_send_lock:
                if self._channel.closed:
                    break
                if self._transport.clear_to_send.is_set():
                    self._transport._send_message(message)
                    return size
            self._wait()
        raise OSError("the command takes no more")

    def _wait(self) -> None:
        if time.monotonic() >= self._end:
            raise TimeoutError
        self._transport.clear_to_send.wait(_KEY_EXCHANGE_POLL_SECONDS)
