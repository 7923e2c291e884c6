"""What stands where at this moment, read once for all who look, and pushed to them when it changes."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from mqi_dagster.errors import MqiError
from mqi_dagster.lifecycle.health import HealthProblem
from mqi_dagster.operations.alarms import found_now
from mqi_dagster.operations.board_reader import BackgroundReader, BoardReader
from mqi_dagster.resources.site import Site
from mqi_dagster.web import words
from mqi_dagster.web.access import Crowd, Visitor
from mqi_dagster.web.render import Pages
from mqi_dagster.worklist import Work

EVERY_SECONDS = 2.0
BEAT_SECONDS = 10.0
"""After so long without a change a stream says that it lives."""
_KEPT = 200
_AWAY_AGAIN = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read last."""

    version: int
    """Rises with every change."""
    work: Work | None
    """None before the first reading."""
    error: str
    """Why it cannot be read now; empty where it can. ``work`` is of before."""
    away: tuple[HealthProblem, ...] = ()
    """What does not work at this moment, where the boards cannot be read."""


class Live:
    """Reads the boards of a site in the background.

    Args:
        site: The site.
        seconds: From one reading to the next.
    """

    def __init__(self, site: Site, seconds: float = EVERY_SECONDS) -> None:
        self._site = site
        self._board = BoardReader(site, timedelta.max, again=True)
        self._reader = BackgroundReader(self._board, seconds, self._told_from_thread)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._away_at = datetime.min.replace(tzinfo=UTC)
        self._rendered: OrderedDict[tuple[object, ...], str] = OrderedDict()
        self._rendering = threading.Lock()
        self.seen = Seen(0, None, "")
        self.streams = 0
        """How many are open."""

    async def start(self) -> None:
        """Begin to read; call it in the loop that serves the pages."""
        self._loop = asyncio.get_running_loop()
        self._reader.start()

    async def stop(self) -> None:
        """Read no more, and end the streams."""
        await asyncio.to_thread(self._reader.stop)
        self._loop = None
        self._changed.set()

    @property
    def instance(self) -> dg.DagsterInstance | None:
        """Dagster's records as the boards read them; None while they are away."""
        return self._board.instance

    @property
    def stopped(self) -> bool:
        """Whether nothing is pushed any more."""
        return self._loop is None

    def _told_from_thread(self) -> None:
        refused = self._reader.refused
        error = refused.message if refused is not None else self._reader.error or ""
        work, before = self._reader.work, self.seen
        away = before.away if error else ()
        if error and datetime.now(UTC) - self._away_at > _AWAY_AGAIN:
            self._away_at = datetime.now(UTC)
            try:
                away = tuple(found_now(self._site))
            except MqiError as failure:
                error = f"{error}; {failure.message}"
        same = error == before.error and away == before.away and _content(work) == _content(before.work)
        seen = Seen(before.version + (not same), work, error, away)
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._publish, seen, same)

    def _publish(self, seen: Seen, same: bool) -> None:
        self.seen = seen
        if not same:
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def first(self, seconds: float = 10.0) -> Seen:
        """What was read last; the first reading is waited for."""
        if self.seen.version == 0:
            await self._wait(seconds)
        return self.seen

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return

    def rendered(self, key: tuple[object, ...], render: Callable[[], str]) -> str:
        """A part of a page, made once for all who see the same, until something changes."""
        whole = (self.seen.version, *key)
        with self._rendering:
            found = self._rendered.get(whole)
            if found is None:
                found = self._rendered[whole] = render()
                while len(self._rendered) > _KEPT:
                    self._rendered.popitem(last=False)
        return found

    def part(
        self,
        pages: Pages,
        visitor: Visitor,
        template: str,
        key: tuple[object, ...] = (),
        values: Callable[[], Mapping[str, Any]] = dict,
    ) -> str:
        """A part of a page as a visitor sees it, made once for all with the same rights.

        Args:
            pages: Makes it.
            visitor: Who sees it; the template is given a `Crowd` in place of one person.
            template: Its name.
            key: What tells it from other parts of this template.
            values: What the template speaks of beside ``seen``, asked for only where it is made.
        """
        crowd = Crowd(visitor.actor.rights)
        found = self.rendered(
            (template, words.LANGUAGE.get(), crowd.rights, *key),
            lambda: pages.part(template, crowd, seen=self.seen, **values()),
        )
        return found.replace(crowd.csrf, visitor.csrf)

    async def stream(
        self, render: Callable[[], Awaitable[str]], goes_on: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[dict[str, str]]:
        """Server-sent events: ``part`` with HTML whenever it differs, ``beat`` while it does not, ``end``.

        Args:
            render: Makes the part.
            goes_on: Whether whoever looks is still signed in and may.
        """
        self.streams += 1
        told = ""
        try:
            while not self.stopped:
                version = self.seen.version
                html = await render()
                digest = hashlib.sha256(html.encode()).hexdigest()
                if digest != told:
                    told = digest
                    yield {"event": "part", "data": html}
                else:
                    yield {"event": "beat", "data": ""}
                if version == self.seen.version:
                    await self._wait(BEAT_SECONDS)
                if not await goes_on():
                    yield {"event": "end", "data": ""}
                    return
        finally:
            self.streams -= 1


def _content(work: Work | None) -> tuple[object, ...]:
    """What of it is a change: not that it was looked at once more."""
    if work is None:
        return ()
    return (
        work.daemon_alive,
        work.concluded_cases,
        work.cases,
        work.beams,
        work.gpus,
        work.queue,
        work.alarms,
    )
