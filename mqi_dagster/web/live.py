"""What stands where at this moment, read once for all who look, and pushed to them when it changes."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import dagster as dg
from fastapi import Request, Response
from sse_starlette.sse import EventSourceResponse

from mqi_dagster.errors import MqiError, TooManyTriesError
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.lifecycle.health import HealthProblem
from mqi_dagster.operations.alarms import found_now
from mqi_dagster.operations.board_reader import BackgroundReader, BoardReader
from mqi_dagster.operations.service_locks import ServiceSeen, seen
from mqi_dagster.people.rights import Right
from mqi_dagster.resources.site import Site
from mqi_dagster.web import words
from mqi_dagster.web.access import Crowd, Needs, Visitor, still
from mqi_dagster.web.gpu_history import GpuHistory
from mqi_dagster.web.render import Pages
from mqi_dagster.worklist import BeamStatus, Work

_log = logging.getLogger(__name__)
Made = TypeVar("Made")
EVERY_SECONDS = 2.0
BEAT_SECONDS = 10.0
MOST_STREAMS = 200
"""That one account may have open: each is asked about again and again."""
SILENT_SECONDS = 10.0
"""After so long without an answer the records count as away, even if nothing has failed."""
_FIRST_SECONDS = 25.0
"""The first reading of a large site takes its time."""
_WATCH_SECONDS = 2.0
_SIGNS_EVERY = timedelta(seconds=10)
"""So often last signs of life are shown anew where nothing else has changed."""
_AWAY_AGAIN = timedelta(seconds=10)
_KEPT = 200
_CAUSES_AT_ONCE, _LABELS_AT_ONCE = 20, 200
"""A page that was just opened shows at once, and the causes of many failures one after the other."""
AWAY = frozenset(
    {
        AlarmKind.DAEMON_AWAY,
        AlarmKind.CODE_AWAY,
        AlarmKind.SERVICES_AWAY,
        AlarmKind.WATCH_AWAY,
        AlarmKind.INBOX_AWAY,
        AlarmKind.DICOM_AWAY,
        AlarmKind.TARGET_AWAY,
        AlarmKind.CLUSTER_AWAY,
        AlarmKind.LEDGER_AWAY,
        AlarmKind.RECORDS_AWAY,
    }
)
"""What is told first on every live page."""


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
    services: tuple[ServiceSeen, ...] = ()
    """The site's processes."""

    @property
    def missing(self) -> list[tuple[str, str]]:
        """What is away at this moment: its kind, and what is wrong and what to do."""
        if self.error:
            return [(one.kind.value, one.text) for one in self.away]
        alarms = self.work.alarms if self.work is not None else []
        return [(one.kind, one.text) for one in alarms if one.kind in AWAY]


class Live:
    """Reads the boards of a site in the background.

    Args:
        site: The site.
        seconds: From one reading to the next.
        beat: After so long without a change a stream says that it lives, and asks who still may look.
    """

    def __init__(self, site: Site, seconds: float = EVERY_SECONDS, beat: float = BEAT_SECONDS) -> None:
        self._site = site
        self._board = BoardReader(site, None, _CAUSES_AT_ONCE, again=True, labels_at_once=_LABELS_AT_ONCE)
        self._reader = BackgroundReader(self._board, seconds, self._told_from_thread, goes_on=True)
        self._beat = beat
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watching: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._told_at = datetime.min.replace(tzinfo=UTC)
        self._looked_at = self._signs_at = self._told_at
        self._made: dict[tuple[object, ...], Any] = {}
        self._made_of = -1
        self._making = threading.RLock()
        self.gpus = GpuHistory()
        self.began = secrets.token_hex(4)
        """Tells what this process has read from what another one has, where both count versions."""
        self.seen = Seen(0, None, "")
        self.open: Counter[str] = Counter()
        """Open streams by account."""
        self.failures = 0
        """Readings that have failed since the start."""

    async def start(self) -> None:
        """Begin to read; call it in the loop that serves the pages."""
        self._loop = asyncio.get_running_loop()
        self._told_at = datetime.now(UTC)
        self._reader.start()
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Read no more, and end the streams."""
        for task in (self._watching, self._looking):
            if task is not None:
                task.cancel()
        await asyncio.to_thread(self._reader.stop)
        self._loop = None
        self._changed.set()

    @property
    def streams(self) -> int:
        """How many are open."""
        return self.open.total()

    def require_few(self, name: str) -> None:
        """Check that an account may open another stream; TooManyTriesError where it has too many."""
        if self.open[name] >= MOST_STREAMS:
            raise TooManyTriesError(f"{name} has {MOST_STREAMS} live pages open: close some", 10)

    @property
    def instance(self) -> dg.DagsterInstance | None:
        """Dagster's records as the boards read them; None while they are away."""
        return self._board.instance

    @property
    def stopped(self) -> bool:
        """Whether nothing is pushed any more."""
        return self._loop is None

    # What is read

    def _told_from_thread(self) -> None:
        work, error, loop = self._reader.work, self._reader.error or "", self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._told, work, error)

    def _told(self, work: Work | None, error: str) -> None:
        self._told_at = datetime.now(UTC)
        self.failures += bool(error)
        if not error:
            self.gpus.add(work.gpus if work is not None else ())
        self._publish(work=work, error=error, away=self.seen.away if error else ())

    def _publish(self, **changes: Any) -> None:
        before = self.seen
        after = replace(before, **changes)
        now = datetime.now(UTC)
        same = _content(before) == _content(after) and _same_beams(before.work, after.work)
        if same and now - self._signs_at > _SIGNS_EVERY:
            same = _signs(before.work) == _signs(after.work)
        if not same:
            self._signs_at = now
        self.seen = replace(after, version=before.version + (not same))
        if not same:
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def _watch(self) -> None:
        """Look at what does not depend on the records, and whether these have answered of late."""
        while True:
            try:
                self._publish(services=await asyncio.to_thread(seen, self._site.settings))
            except (MqiError, OSError):
                self._publish(services=())
            except Exception:  # noqa: BLE001 - silence of the records must be seen all the same
                _log.exception("the services cannot be looked at")
            silent = (datetime.now(UTC) - self._told_at).total_seconds()
            if silent > (SILENT_SECONDS if self.seen.work is not None else _FIRST_SECONDS):
                text = f"they have not answered since {self._told_at:%Y-%m-%d %H:%M:%S} UTC"
                self._publish(error=text)
            looks = self._looking is not None and not self._looking.done()
            if self.seen.error and not looks and datetime.now(UTC) - self._looked_at > _AWAY_AGAIN:
                # By itself: whoever is away may keep it waiting for long.
                self._looked_at = datetime.now(UTC)
                self._looking = asyncio.create_task(self._look())
            await asyncio.sleep(_WATCH_SECONDS)

    async def _look(self) -> None:
        try:
            found = tuple(await asyncio.to_thread(found_now, self._site))
        except MqiError:
            # What the error of the boards says itself.
            found = ()
        if self.seen.error:
            self._publish(away=found)

    async def first(self, seconds: float = 10.0) -> Seen:
        """What was read last; the first reading is waited for."""
        if self.seen.work is None and not self.seen.error:
            await self._wait(seconds)
        return self.seen

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return

    async def after(self, version: int, seconds: float = BEAT_SECONDS) -> Seen:
        """What was read last; a change of what was read as ``version`` is waited for."""
        if version == self.seen.version and not self.stopped:
            await self._wait(seconds)
        return self.seen

    # What is shown

    def made(self, key: tuple[object, ...], make: Callable[[], Made]) -> Made:
        """What is made of the boards, once for all who want the same, until something changes."""
        version = self.seen.version
        with self._making:
            if self._made_of != version or len(self._made) > _KEPT:
                self._made_of, self._made = version, {}
            if key not in self._made:
                self._made[key] = make()
            found: Made = self._made[key]
        return found

    def rendered(self, key: tuple[object, ...], render: Callable[[], str]) -> str:
        """A part of a page; see `made`."""
        return self.made(("rendered", *key), render)

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
        self, render: Callable[[], Awaitable[str]], goes_on: Callable[[], Awaitable[bool]], name: str
    ) -> AsyncIterator[dict[str, str]]:
        """Server-sent events: ``part`` with HTML whenever it differs, ``beat`` while it does not, ``end``.

        Args:
            render: Makes the part.
            goes_on: Whether whoever looks is still signed in and may.
            name: Of their account.
        """
        self.open[name] += 1
        told, asked_at = "", asyncio.get_running_loop().time()
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
                await self.after(version, self._beat)
                now = asyncio.get_running_loop().time()
                if now - asked_at >= 0.9 * self._beat:
                    asked_at = now
                    if not await goes_on():
                        yield {"event": "end", "data": ""}
                        return
        finally:
            self.open[name] -= 1


def pushed(request: Request, visitor: Visitor, render: Callable[[], Awaitable[str]]) -> Response:
    """The answer of a route that pushes a part of a page; see `Live.stream`.

    Raises:
        TooManyTriesError: The account has too many of them open.
    """
    live: Live = request.app.state.live
    live.require_few(visitor.name)
    return EventSourceResponse(live.stream(render, still(request, Needs(Right.LOOK)), visitor.name))


def _content(seen: Seen) -> tuple[object, ...]:
    """What of it is a change: not that it was looked at once more."""
    found: tuple[object, ...] = (seen.error, seen.away, seen.services, seen.work is None)
    work = seen.work
    if work is not None:
        found += (work.daemon_alive, work.concluded_cases, work.cases, work.gpus, work.queue)
        found += (work.alarms, [(one.cluster, one.failing_since, one.failure) for one in work.clusters])
    return found


def _same_beams(before: Work | None, after: Work | None) -> bool:
    """Whether nothing but time has passed for the beams; a page reckons by itself how long one runs."""
    if before is None or after is None or before.beams is after.beams:
        return True
    pairs = zip(before.beams, after.beams, strict=False)
    return len(before.beams) == len(after.beams) and all(
        one is other or _without_time(one) == _without_time(other) for one, other in pairs
    )


def _without_time(beam: BeamStatus) -> BeamStatus:
    left = beam.remaining_seconds
    minutes = None if left is None else left // 60
    return beam.model_copy(update={"elapsed_seconds": None, "remaining_seconds": minutes})


def _signs(work: Work | None) -> tuple[object, ...]:
    """The last signs of life, which come again and again."""
    return () if work is None else (work.daemon_seen, work.sensors, work.clusters, work.targets)
