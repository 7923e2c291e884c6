"""Arrived cases become case partitions and intake runs."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import dagster as dg

from mqi_dagster.assets.arrivals import ArrivedCase, arrivals_in, cases_of, refused
from mqi_dagster.assets.boundary import safe_text
from mqi_dagster.assets.jobs import CASE_TAG, PRIORITY_TAG, intake_job
from mqi_dagster.delivery.discovery import Arrival
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.ledger.arrivals import Arrival as Row
from mqi_dagster.partitions import CASES
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors.queue import REQUESTS_PER_TICK, Room, asked_key, within_a_tick


def _readiness(
    site: Site, found: ArrivedCase, first_seen: datetime, now: datetime
) -> tuple[bool, str, datetime | None]:
    """Whether the case can be taken, why not, and when to look again."""
    arrival, fraction = found.arrival, found.fraction
    if not arrival.ready:
        return False, arrival.reason, arrival.next_check
    source = found.survey.source
    if fraction is None or fraction.complete or source is None:
        return True, "", None
    # Measured from arrival: the machine's clock groups deliveries, it does not make people wait.
    closes = first_seen + timedelta(minutes=site.settings.intake.fraction_window_minutes)
    if now >= closes:
        return True, "", None
    planned = len(source.plan.beams)
    come = planned - len(fraction.missing_beams)
    return False, f"{come} of {planned} beams have come; layers or beams are missing", closes


def see(site: Site, arrival: Arrival, now: datetime) -> bool:
    """Write what the inbox shows of one arrival into the ledger.

    Returns:
        Whether it can be taken: until its files change there is nothing to look at again.
    """
    cases = cases_of(site, arrival)
    taken: list[bool] = []
    for found in cases:
        row = site.ledger.arrival(found.case)
        ready, reason, next_check = _readiness(site, found, row.first_seen if row else now, now)
        site.ledger.see_arrival(found.place, found.case, found.fingerprint, ready, reason, next_check)
        taken.append(ready)
    site.ledger.forget_unrequested(cases[0].place, [found.case for found in cases])
    return all(taken)


def case_arrivals(interval: int) -> dg.SensorDefinition:
    """The sensor that looks at the inbox every ``interval`` seconds."""
    # Opening the plan of every case that is there at every tick would make a full inbox outlast the tick.
    settled: dict[str, str] = {}
    last_look: dict[str, datetime] = {}

    @dg.sensor(
        name="case_arrivals",
        job=intake_job,
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Scans the inbox; adds a case partition and requests its intake when a case is ready.",
    )
    def sensor(context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site]) -> dg.SensorResult:
        now = datetime.now(UTC)
        arrived = {arrival.relative: arrival for arrival in arrivals_in(site, now)}
        for gone in last_look.keys() - arrived.keys():
            del last_look[gone]
            settled.pop(gone, None)
        open_ones = [
            name for name, one in arrived.items() if not (one.ready and settled.get(name) == one.fingerprint)
        ]
        failed = 0
        for name in within_a_tick(_new_ones_first(site, open_ones, last_look)):
            arrival, last_look[name] = arrived[name], now
            settled.pop(name, None)
            try:
                if see(site, arrival, now):
                    settled[name] = arrival.fingerprint
            except InfrastructureError as error:
                failed += 1
                context.log.error("an arrival cannot be looked at now: %s", error)
            except Exception as error:  # noqa: BLE001 - one arrival must not keep all others waiting
                failed += 1
                reason = safe_text(error)
                context.log.error("an arrival cannot be looked at: %s", reason)
                place, case = refused(site, arrival)
                site.ledger.see_arrival(place, case, arrival.fingerprint, False, reason, None)
        # First, so that what was asked for at the last tick does not take the place of what is new.
        _settle_requested(context, site)
        # A queue full of beams holds up no intake.
        room = Room(context.instance, intake_job.name)
        requests = [
            dg.RunRequest(
                run_key=_asked(context.instance, row)[0],
                partition_key=row.case,
                tags={CASE_TAG: row.case, PRIORITY_TAG: str(row.priority)},
            )
            for row in site.ledger.open_arrivals(REQUESTS_PER_TICK)
            if room.take(1, row.priority)
        ]
        waiting = len(site.ledger.waiting_arrivals())
        skip = None if requests else f"nothing new is ready; {waiting} cases wait, {failed} cannot be read"
        return dg.SensorResult(
            run_requests=requests,
            dynamic_partitions_requests=[
                CASES.build_add_request(
                    [request.partition_key for request in requests if request.partition_key]
                )
            ],
            skip_reason=None if requests else dg.SkipReason(skip),
        )

    return sensor


def _new_ones_first(site: Site, names: list[str], last_look: Mapping[str, datetime]) -> list[str]:
    """Arrivals in the order in which to look: those never seen, then those not looked at for longest."""
    known = {row.arrival for row in site.ledger.all_arrivals()} if names else set()
    never = datetime.min.replace(tzinfo=UTC)

    def place(name: str) -> tuple[bool, datetime]:
        return site.pseudonyms.keyed("place", name) in known, last_look.get(name, never)

    return sorted(names, key=place)


def _asked(instance: dg.DagsterInstance, row: Row) -> tuple[str, bool]:
    key = f"{row.case}:{row.fingerprint}"
    return asked_key(instance, intake_job.name, row.case, key, row.results_removed_at)


def _settle_requested(context: dg.SensorEvaluationContext, site: Site) -> None:
    """Mark the cases whose requested run exists: only then is a request safe from a crash of the tick."""
    for row in site.ledger.open_arrivals(REQUESTS_PER_TICK):
        if _asked(context.instance, row)[1]:
            site.ledger.mark_requested(row.case, row.fingerprint)
