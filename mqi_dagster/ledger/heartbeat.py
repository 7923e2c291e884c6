"""The heartbeat that keeps a lease while its owner works."""

from __future__ import annotations

import threading
from datetime import timedelta
from types import TracebackType
from typing import Self

from mqi_dagster.errors import InfrastructureError, LeaseLostError
from mqi_dagster.ledger.leases import Lease, LeaseRows


class LeaseKeeper:
    """Renews a lease from a thread of its own, as a context manager.

    ``lost`` is set when the lease has passed to another owner: from then on this one must stop and touch
    neither job nor slot. A ledger that is away takes no lease from anybody; once it is back, the first
    renewal says whether the lease is still held.

    Args:
        ledger: Where the lease stands.
        lease: The lease to keep.
        every: Time between renewals.
    """

    def __init__(self, ledger: LeaseRows, lease: Lease, *, every: timedelta) -> None:
        self._ledger = ledger
        self._lease = lease
        self._every = every.total_seconds()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease-{lease.beam}", daemon=True)
        self.lost = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Stop the owner whose lease is gone.

        Raises:
            LeaseLostError: The lease is lost.
        """
        if self.lost.is_set():
            raise LeaseLostError(f"the lease of beam {self._lease.beam} is lost")

    def _beat(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self._ledger.renew(self._lease)
            except LeaseLostError:
                self.lost.set()
                return
            except InfrastructureError:
                continue
