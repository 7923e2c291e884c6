"""What machines ask: does this process answer, can it serve, and the numbers of a site for Prometheus."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from http import HTTPStatus

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mqi_dagster import __version__
from mqi_dagster.people.rights import Right
from mqi_dagster.resources.site import Site
from mqi_dagster.web.access import Needs, public
from mqi_dagster.web.api.rows import kind_of, rows_of
from mqi_dagster.web.live import Live
from mqi_dagster.worklist import CaseState, Work

router = APIRouter(include_in_schema=False)
LATE_SECONDS = 30.0
"""Boards that were read so long ago cannot be read."""


class NeedsFromAway:
    """A dependency of a route: a right, of whoever is not this machine itself.

    Behind a proxy everything seems to come from this machine, so that nobody is excused there.

    Args:
        right: Which.
    """

    def __init__(self, right: Right) -> None:
        self.right = right

    async def __call__(self, request: Request) -> None:
        """Check it; see `Needs`."""
        if not _is_local(request):
            await Needs(self.right)(request)


def _is_local(request: Request) -> bool:
    site: Site = request.app.state.site
    passed_on = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-real-ip", "via"))
    if site.settings.web.behind_proxy or passed_on or request.client is None:
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


_LOOKS_FROM_AWAY = Depends(NeedsFromAway(Right.LOOK))


@router.get("/healthz", dependencies=[Depends(public)])
def healthz() -> dict[str, str]:
    """Whether this process answers."""
    return {"status": "ok"}


@router.get("/readyz", dependencies=[_LOOKS_FROM_AWAY])
async def readyz(request: Request) -> Response:
    """Whether what the pages need can be read; else the names of what is away."""
    seen = request.app.state.live.seen
    away = [one.subject for one in seen.away]
    if seen.work is None:
        away = away or ["boards"]
    elif not away and (seen.error or _age(seen.work.at, datetime.now(UTC)) > LATE_SECONDS):
        away = ["boards"]
    status = HTTPStatus.SERVICE_UNAVAILABLE if away else HTTPStatus.OK
    content = {"status": "not ready" if away else "ready", "away": away, "detail": seen.error}
    return JSONResponse(content, status, {"Retry-After": "5"} if away else None)


@router.get("/metrics", dependencies=[_LOOKS_FROM_AWAY])
def metrics(request: Request) -> Response:
    """The numbers of a site."""
    registry: CollectorRegistry = request.app.state.metrics
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def registry_of(live: Live) -> CollectorRegistry:
    """What `/metrics` shows."""
    registry = CollectorRegistry()
    registry.register(_SiteCollector(live))
    ProcessCollector(registry=registry)
    return registry


def _age(moment: datetime, now: datetime) -> float:
    return max(0.0, (now - moment).total_seconds())


def _gauge(name: str, text: str, values: Iterable[tuple[tuple[str, ...], float]], *labels: str) -> Metric:
    gauge = GaugeMetricFamily(f"mqi_{name}", text, labels=labels)
    for of, value in values:
        gauge.add_metric(of, value)
    return gauge


class _SiteCollector(Collector):
    """Numbers of the boards as they were read last; no label is a partition, a person or a host."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def collect(self) -> Iterable[Metric]:
        """Every number."""
        seen, now = self._live.seen, datetime.now(UTC)
        yield _gauge("info", "Version of the platform.", [((__version__,), 1)], "version")
        yield _gauge("streams_open", "Live streams of pages and programs.", [((), self._live.streams)])
        failed = CounterMetricFamily("mqi_read_errors", "Readings of the boards that failed.")
        failed.add_metric((), self._live.failures)
        yield failed
        readable = seen.work is not None and not seen.error
        yield _gauge("boards_readable", "1 where the boards can be read.", [((), readable)])
        if seen.work is not None:
            yield from _of_work(seen.work, now)


def _of_work(work: Work, now: datetime) -> Iterable[Metric]:
    states = Counter((kind_of(row).value, row.state.value) for row in rows_of(work))
    yield _gauge(
        "partitions", "Cases, beams and courses by state.",
        [((kind, state), states[kind, state]) for kind in ("case", "beam", "course") for state in CaseState],
        "kind", "state",
    )  # fmt: skip
    yield _gauge("concluded", "Cases and courses that are concluded.", [((), work.concluded_cases)])
    waiting = [
        (kind_of(row).value, row.since) for row in rows_of(work)
        if row.state is CaseState.WAITING and row.since is not None
    ]  # fmt: skip
    oldest = {kind: min(at for one, at in waiting if one == kind) for kind, _ in waiting}
    yield _gauge(
        "oldest_waiting_seconds", "Since what waits longest has waited.",
        [((kind,), _age(at, now)) for kind, at in sorted(oldest.items())], "kind",
    )  # fmt: skip
    slots = [gpu for gpu in work.gpus if gpu.slot]
    for name, text, counted in (
        ("slots", "Slots of the pool.", slots),
        ("slots_in_service", "Slots that are given out.", [gpu for gpu in slots if gpu.in_service]),
        ("slots_used", "Slots that a beam or a course has.", [gpu for gpu in slots if gpu.owner is not None]),
    ):
        kinds = Counter(gpu.kind for gpu in counted)
        yield _gauge(name, text, [((kind,), kinds[kind]) for kind in ("gpu", "cpu")], "kind")
    queue = work.queue
    for name, text, number in (
        ("runs_queued", "Runs in Dagster's queue.", queue.queued),
        ("runs_in_work", "Runs in work.", queue.in_work),
        ("waiting_beams", "Beams for which no run was asked yet.", queue.waiting_beams),
        ("waiting_cases", "Cases that are ready and not taken in.", queue.waiting_cases),
        ("inbox", "Cases and courses that cannot be taken yet.", queue.inbox),
        ("daemon_alive", "1 where Dagster's daemon lives.", work.daemon_alive),
        ("boards_age_seconds", "Since the boards were read.", _age(work.at, now)),
    ):
        yield _gauge(name, text, [((), number)])
    if work.daemon_seen is not None:
        age = _age(work.daemon_seen, now)
        yield _gauge("daemon_heartbeat_age_seconds", "Since Dagster's daemon gave a sign.", [((), age)])
    yield _gauge(
        "sensor_tick_age_seconds", "Since a sensor was evaluated.",
        [((one.sensor,), _age(one.ticked_at, now)) for one in work.sensors if one.ticked_at is not None],
        "sensor",
    )  # fmt: skip
    kinds = Counter(alarm.kind for alarm in work.alarms)
    yield _gauge("alarms", "Alarms that stand.", [((kind,), kinds[kind]) for kind in sorted(kinds)], "kind")
