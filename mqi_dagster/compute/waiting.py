"""Waiting in sight, for a slot or a cluster that is away: a beam pauses and goes on, it does not fail."""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import dagster as dg

from mqi_dagster.backoff import Backoff
from mqi_dagster.errors import InfrastructureError, MqiError, Retry, UnreachableError
from mqi_dagster.ledger.leases import Lease, Need, Refusal
from mqi_dagster.lifecycle.stages import WorkPhase
from mqi_dagster.partitions import root_of
from mqi_dagster.resources.gpu_pool import GpuPool
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import Intervals

_TRIES = 6
"""Of what is damaged on the way each time: then it is not the way."""
T = TypeVar("T")


class Patience:
    """Calls again what another machine could not answer, for as long as it takes.

    Args:
        log: Of the step.
        intervals: Waits between two tries, and when people should know; None where nothing is tried again.
        pause: Called with the reason before each wait; stops the beam by raising.
        clock: Seconds of a clock that never goes back; replaced in tests.
        sleep: Lets so many seconds pass; replaced in tests.
    """

    def __init__(
        self,
        log: dg.DagsterLogManager,
        intervals: Intervals | None,
        pause: Callable[[str], None] = lambda _: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._log = log
        self._intervals = intervals
        self._pause = pause
        self._clock = clock
        self._sleep = sleep

    def persist(self, what: str, call: Callable[[], T]) -> T:
        """The result of a call, once there is one.

        Args:
            what: What is being done, for people.
            call: Safe to repeat.

        Raises:
            MqiError: What a person has to mend, or what was damaged on the way six times.
        """
        intervals = self._intervals
        if intervals is None:
            return call()
        began, failures, damaged, said, alarmed = self._clock(), 0, 0, "", False
        backoff = Backoff(intervals.retry_seconds, intervals.retry_maximum_seconds, jitter=0.5)
        while True:
            try:
                return call()
            except UnreachableError as error:
                reason = error.message
            except MqiError as error:
                damaged += 1
                if error.retry is not Retry.FOREVER or damaged >= _TRIES:
                    raise
                reason = error.message
            if reason != said:
                self._log.warning("%s waits: %s", what, reason)
                said = reason
            away = self._clock() - began
            if away > intervals.alarm_seconds and not alarmed:
                self._log.error("%s has waited for %.0f minutes: %s", what, away / 60, reason)
                alarmed = True
            self._pause(reason)
            failures += 1
            self.sleep(backoff.seconds(failures))

    def sleep(self, seconds: float) -> None:
        """Wait, looking every second whether the beam still may."""
        end = self._clock() + seconds
        while (left := end - self._clock()) > 0:
            self._sleep(min(1.0, left))
            self._pause("")


_POLLS_MISSED = 10
"""After so many polls that did not come, a run does not count as waiting any more."""


def wait_for_slot(context: dg.AssetExecutionContext, site: Site, pool: GpuPool, beam: str) -> Lease:
    """The lease of a beam, once there is a slot for it.

    Args:
        context: Of the step.
        site: The installation.
        pool: Its slots.
        beam: Beam key.
    """
    need = pool.declare()
    run_id, waiting, doubtful = context.run.run_id, "", False
    poll = site.settings.execution.lease_poll_seconds
    case = root_of(beam)
    try:
        while True:
            pool.free_ended(context.instance)
            if _sample(site, pool, need, again=doubtful):
                # A GPU may have come back, or have been lost.
                need = pool.declare()
            finished, live = _holder(context, site, pool, site.ledger.leases.get(beam))
            found = site.ledger.leases.acquire(
                beam,
                run_id,
                need,
                stale_after=site.stale_after,
                priority=site.ledger.arrivals.priorities([case]).get(case, 0),
                wait=timedelta(seconds=_POLLS_MISSED * poll),
                finished_owner=finished,
                live_owner=live,
            )
            if isinstance(found, Lease):
                return found
            doubtful = found.by_sample
            waiting = _say(context, site, beam, found, waiting)
            time.sleep(poll)
    except BaseException:
        # A ledger that is away forgets it by itself, and the first cause is what people need.
        with suppress(InfrastructureError):
            site.ledger.leases.stop_waiting(beam, run_id)
        raise


def _sample(site: Site, pool: GpuPool, need: Need, *, again: bool) -> bool:
    """Sample the GPUs of this machine where the last sample is too old to decide, or has just refused one.

    Returns:
        Whether that was so.
    """
    if not need.max_sample_age:
        return False
    now = datetime.now(UTC)
    seen = [gpu for gpu in site.ledger.gpus.all() if gpu.host == need.host]
    if again or not seen or not all(gpu.is_fresh(now, need.max_sample_age) for gpu in seen):
        pool.sample_here()
        return True
    return False


def _holder(
    context: dg.AssetExecutionContext, site: Site, pool: GpuPool, lease: Lease | None
) -> tuple[str | None, str | None]:
    """The run that holds the beam's lease: as one that has finished, as a live one, or as neither.

    On a cluster it has finished when it has ended: its job goes on, for the next run to take over. On a
    machine it is live until its worker and engine have surely ended: what has ended is freed for whoever is
    next, and to take it over would be to work beside it.
    """
    if lease is None:
        return None, None
    if site.executor_on(lease.host) is None:
        return None, None if pool.job_ended(lease) else lease.owner
    run = context.instance.get_run_by_id(lease.owner)
    return lease.owner if run is not None and run.is_finished else None, None


def _say(context: dg.AssetExecutionContext, site: Site, beam: str, refusal: Refusal, before: str) -> str:
    if refusal.reason != before:
        context.log.info("waiting: %s", refusal.reason)
        if not refusal.at_work:
            site.ledger.progress.record(
                beam, context.run.run_id, WorkPhase.WAITING_FOR_SLOT, message=refusal.reason
            )
    return refusal.reason
