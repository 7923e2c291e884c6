"""Beams that wait for a slot: what they say, and doing something about it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.chain.chain import Chain
from tests.waiting import wait_for


@contextmanager
def once_it_waits(chain: Chain, beam: str, then: Callable[[], None]) -> Iterator[list[str]]:
    """While something is done that needs a slot: do something once the beam says why it waits for one.

    Yields:
        What it said, filled by the end.
    """
    said: list[str] = []

    def says() -> list[str]:
        report = chain.site.ledger.progress.get(beam)
        if report is not None and report.phase == "waiting":
            said.append(report.message)
        return said

    def watch() -> None:
        wait_for(says, "the beam says why it waits")
        then()

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield said
    watcher.join()
