"""Changes of status, pushed: differences of what was read, which a client that was away gets afterwards."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from sse_starlette.sse import EventSourceResponse

from mqi_dagster.people.rights import Right
from mqi_dagster.web.access import LOOKS, GoesOn, Needs, still
from mqi_dagster.web.api.models import StatusChange
from mqi_dagster.web.api.rows import AnyRow, key_of, kind_of, rows_of
from mqi_dagster.web.live import Live
from mqi_dagster.worklist import Work

_log = logging.getLogger(__name__)
router = APIRouter()
KEPT = 10_000
_AT_ONCE = 200


Rows = Mapping[str, AnyRow]


def changes_between(before: Rows, rows: Rows, work: Work) -> Iterator[StatusChange]:
    """What stands elsewhere than it stood, in the order of the board; what is gone comes last."""
    for key, row in rows.items():
        old = before.get(key)
        if old is not row and (old is None or (old.state, old.stage) != (row.state, row.stage)):
            yield StatusChange(
                at=work.at, kind=kind_of(row), partition=key, state=row.state, stage=row.stage,
                reason=row.reason,
            )  # fmt: skip
    for key in before.keys() - rows.keys():
        yield StatusChange(at=work.at, kind=kind_of(before[key]), partition=key, state=None, stage=None)


class Changes:
    """The changes of status since this process began.

    Args:
        live: What they are found in.
        kept: How many a client that was away can still get.
    """

    def __init__(self, live: Live, kept: int = KEPT) -> None:
        self._live = live
        self._rows: Rows | None = None
        self._version = 0
        self._kept: deque[StatusChange] = deque(maxlen=kept)
        self._count = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for them, in the loop that serves."""
        self._task = asyncio.get_running_loop().create_task(self._follow())

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    async def _follow(self) -> None:
        while True:
            try:
                self.look()
            except Exception:  # noqa: BLE001 - one change that cannot be told must stop no other
                _log.exception("changes of status cannot be told")
            await self._live.after(self._version)

    def look(self) -> None:
        """Note what differs in what was read last."""
        seen = self._live.seen
        if seen.version == self._version:
            return
        # Also of what could not be read: else the next change would not be waited for.
        self._version = seen.version
        if seen.work is None:
            return
        rows = {key_of(row): row for row in rows_of(seen.work)}
        if self._rows is not None:
            for change in changes_between(self._rows, rows, seen.work):
                self._kept.append(change)
                self._count += 1
        self._rows = rows

    def name(self, number: int) -> str:
        """The id of an event."""
        return f"{self._live.began}-{number}"

    def after(self, number: int) -> list[tuple[int, StatusChange]]:
        """Changes later than the one of a number, each with its own, some at a time."""
        first = self._count - len(self._kept)
        found = islice(self._kept, max(number - first, 0), None)
        return list(zip(range(number + 1, number + 1 + _AT_ONCE), found, strict=False))

    def position(self, last: str) -> int | None:
        """The number of an event by its id; None where what came after it is not known any more."""
        began, _, digits = last.partition("-")
        number = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 18 else -1
        known = began == self._live.began and self._count - len(self._kept) <= number <= self._count
        return number if known else None

    async def stream(self, last: str, goes_on: GoesOn, name: str = "") -> AsyncIterator[dict[str, str]]:
        """Server-sent events: ``status`` with each change, ``reset`` where some lack, ``beat``, ``end``.

        Args:
            last: Id of the last event that the client has; empty where it has none.
            goes_on: Whether whoever listens is still signed in and may.
            name: Of their account.
        """
        self._live.open[name] += 1
        try:
            begun = self.position(last) if last else self._count
            position = -1 if begun is None else begun
            yield {"event": "beat", "data": "", "id": self.name(position)}
            while not self._live.stopped:
                if position < self._count - len(self._kept):
                    position = self._count
                    yield {"event": "reset", "data": "", "id": self.name(position)}
                version = self._version
                for number, change in (found := self.after(position)):
                    yield {"event": "status", "data": change.model_dump_json(), "id": self.name(number)}
                    position = number
                if not found:
                    await self._live.after(version)
                    self.look()
                    if version == self._version:
                        yield {"event": "beat", "data": ""}
                if not await goes_on():
                    break
            yield {"event": "end", "data": ""}
        finally:
            self._live.open[name] -= 1


@router.get("/events", response_class=EventSourceResponse)
async def events(
    request: Request, visitor: LOOKS, last_event_id: Annotated[str, Header(max_length=100)] = ""
) -> Response:
    """Changes of status as server-sent events.

    `status` has a StatusChange; `reset` says that some were missed, so that the lists are to be read again;
    `beat` that the stream lives; `end` that it is over, and whether to come again.
    """
    changes: Changes = request.app.state.changes
    request.app.state.live.require_few(visitor.name)
    goes_on = still(request, Needs(Right.LOOK))
    return EventSourceResponse(changes.stream(last_event_id, goes_on, visitor.name))
