"""Failed tries to sign in: how long an account is locked, and what a stranger may cost.

What is counted here is kept in memory, bounded, and gone with the process; of accounts the ledger counts.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from math import ceil
from typing import Any

from mqi_dagster.errors import TooManyTriesError

_FREE = 5
_FIRST_LOCK, _LONGEST_LOCK = timedelta(seconds=30), timedelta(hours=1)
_OF_AN_ADDRESS = 30
_FORGIVEN_EVERY = timedelta(seconds=10)
_REMEMBERED = 10_000
_WAITING = 8


def lock_of(failures: int) -> timedelta | None:
    """How long a name is locked after so many wrong passwords in a row: from the fifth on ever longer."""
    if failures < _FREE:
        return None
    doubled: int = 2 ** min(failures - _FREE, 20)
    return min(_LONGEST_LOCK, _FIRST_LOCK * doubled)


class SignInTries:
    """The failed tries of addresses, and of names that have no account.

    Such a name is locked as an account is: otherwise a lock would tell which names there are.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_WAITING)
        self._addresses: OrderedDict[str, tuple[float, datetime]] = OrderedDict()
        self._names: OrderedDict[str, tuple[int, datetime | None]] = OrderedDict()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One try at a time: beside each other they would pass a lock, and each takes 64 MB.

        Raises:
            TooManyTriesError: Many wait for their turn already.
        """
        if not self._waiting.acquire(blocking=False):
            raise TooManyTriesError("too many sign in at this moment: try again", 1)
        try:
            with self._turn:
                yield
        finally:
            self._waiting.release()

    def require_few(self, address: str, now: datetime) -> None:
        """Check that an address may try at all.

        Raises:
            TooManyTriesError: Too many of its tries have failed.
        """
        if seconds := self.waits(address, now):
            raise TooManyTriesError(f"too many failed tries from this address: wait {seconds} s", seconds)

    def waits(self, address: str, now: datetime) -> int:
        """For how many seconds an address may try no more; 0 where it may."""
        over = self._failures(address, now) - _OF_AN_ADDRESS + 1
        return max(1, ceil(over * _FORGIVEN_EVERY.total_seconds())) if over > 0 else 0

    def failed(self, address: str, now: datetime) -> None:
        """Count a failed try of an address; one is forgiven every few seconds."""
        self._addresses[address] = (self._failures(address, now) + 1, now)
        _keep(self._addresses, address)

    def _failures(self, address: str, now: datetime) -> float:
        failures, since = self._addresses.get(address, (0.0, now))
        return max(0.0, failures - (now - since) / _FORGIVEN_EVERY)

    def locked_until(self, name: str) -> datetime | None:
        """Until when a name without an account seems locked."""
        return self._names.get(name, (0, None))[1]

    def unknown(self, name: str, now: datetime) -> None:
        """Count a try with a name that has no account."""
        failures = self._names.get(name, (0, None))[0] + 1
        lock = lock_of(failures)
        self._names[name] = (failures, None if lock is None else now + lock)
        _keep(self._names, name)


def _keep(counted: OrderedDict[str, Any], key: str) -> None:
    counted.move_to_end(key)
    while len(counted) > _REMEMBERED:
        counted.popitem(last=False)
