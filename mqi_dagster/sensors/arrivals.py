"""Arrived cases become case partitions and intake runs; repaired ones are taken in anew."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from mqi_dagster.delivery.discovery import ArrivalStatus, CaseFolder, arrival_statuses
from mqi_dagster.delivery.fractions import Fraction
from mqi_dagster.delivery.inbox_tree import KeptTree
from mqi_dagster.delivery.survey import changed_ns
from mqi_dagster.errors import InfrastructureError, InputsAwayError, PrivacyError
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.ledger.arrivals import Arrival, taken_again
from mqi_dagster.lifecycle.arrived import ArrivedCase, cases_of, refused, survey
from mqi_dagster.lifecycle.boundary import is_passing, safe_text
from mqi_dagster.lifecycle.case_reading import read_case
from mqi_dagster.lifecycle.identifying import Removal, remove_identifying
from mqi_dagster.lifecycle.jobs import intake_job, intake_tags
from mqi_dagster.lifecycle.pipeline import Pipeline
from mqi_dagster.lifecycle.run_requests import (
    REQUESTS_PER_TICK,
    Room,
    arrival_key,
    settle_requested,
    within_a_tick,
)
from mqi_dagster.lifecycle.runs import UNFINISHED, any_unfinished, latest_run_of
from mqi_dagster.partitions import CASE
from mqi_dagster.plan.model import IonPlan
from mqi_dagster.resources.site import Site
from mqi_dagster.resources.site_folders import inbox_trouble


def failed_cases(site: Site) -> dict[str, Arrival]:
    """The cases that have failed and that nobody has dismissed, with what the ledger knows of them."""
    failed = [alarm.subject for alarm in site.ledger.alarms.open() if alarm.kind == AlarmKind.CASE_FAILED]
    return site.ledger.arrivals.get_many(failed)


def touched_since(arrival: CaseFolder, rows: Iterable[Arrival]) -> bool:
    """Whether anything of an arrival has changed since its failed cases were asked for; nothing is opened."""
    newest_ns = changed_ns(arrival)
    return any(newest_ns > _asked_ns(row) for row in rows)


def fingerprint_of(
    instance: dg.DagsterInstance,
    site: Site,
    found: ArrivedCase,
    row: Arrival | None,
    failed: Collection[str],
    present: Collection[str],
    now: datetime,
) -> str:
    """The fingerprint under which a case stands in the ledger.

    A file that was repaired with its size and time kept, and a folder that was moved or renamed, leave the
    fingerprint of the files as it was; the case is taken in anew all the same where its intake has failed,
    and after a move wherever it is not concluded, or where a person has asked for it (`take_again`).

    Args:
        instance: Dagster's.
        site: The site.
        found: The case as it stands in the inbox.
        row: What the ledger knows of it.
        failed: Cases that have failed.
        present: Keyed hashes of all arrivals' paths.
        now: UTC.
    """
    if row is None or row.files != found.fingerprint:
        return found.fingerprint
    moved = row.arrival != found.arrival_hash and row.arrival not in present
    if row.is_open or row.requested_at is None or not (moved or found.case in failed):
        return row.fingerprint
    run = latest_run_of(instance, found.case)
    if run is None or run.status in UNFINISHED:
        return row.fingerprint
    if moved:
        concluded = read_case(instance, site, found.case).concluded
        since_ns = None if concluded else int(now.timestamp() * 1e9)
    else:
        since_ns = _repaired_ns(found, row, run)
    return row.fingerprint if since_ns is None else taken_again(found.fingerprint, since_ns)


def _repaired_ns(found: ArrivedCase, row: Arrival, run: dg.DagsterRun) -> int | None:
    if run.job_name != intake_job.name or run.status is not dg.DagsterRunStatus.FAILURE:
        return None
    newest_ns = found.survey.changed_ns(found.fraction)
    return newest_ns if newest_ns > _asked_ns(row) else None


def _asked_ns(row: Arrival) -> int:
    """From when on a change of the files is a repair [ns]."""
    asked_at = row.requested_at.timestamp() if row.requested_at is not None else 0.0
    return int(asked_at * 1e9) if row.again_ns is None else row.again_ns


def outdated_case(
    instance: dg.DagsterInstance, site: Site, relative: str, cases: Collection[str]
) -> str | None:
    """The case under which an arrival stood while it had no readable plan, and has to go now that it has one.

    It goes in two ticks: its partition first, which the caller has to have deleted, then its row.

    Args:
        instance: Dagster's.
        site: The site.
        relative: The arrival's path below the inbox.
        cases: What the arrival holds now.
    """
    _, case = refused(site, relative)
    if case in cases or site.ledger.arrivals.get(case) is None:
        return None
    if any_unfinished(instance, [case]) or instance.has_dynamic_partition(CASE.name, case):
        return case
    site.ledger.alarms.clear_all([AlarmKind.CASE_FAILED], [case])
    site.ledger.arrivals.forget(case)
    return None


_CONCLUDED = dg.AssetKey("case_handed_over")
_PAGE = 500
_FAILED_AGAIN_AFTER = timedelta(minutes=5)
"""A failed or refused case is looked at again although its fingerprint is the same: a repair may keep sizes
and times, which the status of its files tells unopened; what refused it may have been the settings."""
_UNDER_ANOTHER_NAME = (
    "it is in work under a folder name that identifies the patient: it goes on at the end of that"
)


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
    return False, _why_incomplete(fraction, source.plan), closes


def _why_incomplete(fraction: Fraction, plan: IonPlan) -> str:
    """How much of a fraction has come, and what of it cannot be read or is of no beam of the plan."""
    planned = {beam.number for beam in plan.beams}
    come = f"{len(planned) - len(fraction.missing_beams)} of {len(planned)} beams have come"
    faults = [
        f"delivery {fraction.number_of(one.folder)} cannot be read: {one.error}" for one in fraction.broken
    ]
    faults += [
        f"delivery {fraction.number_of(one.folder)} is of beam {one.info.beam_number}, which the plan does"
        f" not have (it has {', '.join(map(str, sorted(planned)))})"
        for one in fraction.deliveries
        if one.info.beam_number not in planned
    ]
    return "; ".join([come, *(faults or ["layers or beams are missing"])])


@dataclass(frozen=True, slots=True)
class _Seen:
    """What an arrival was when it was last looked into: while it is the same it is not opened again."""

    status: tuple[str, bool, str, int]
    cases: tuple[str, ...]
    until: datetime | None
    """When it is to be looked into again all the same."""
    refused: bool = False
    """Whether it could not be looked into."""

    def holds(self, status: ArrivalStatus, now: datetime) -> bool:
        """Whether that is what it still is."""
        return self.status == _key(status) and (self.until is None or now < self.until)


def _key(status: ArrivalStatus) -> tuple[str, bool, str, int]:
    return status.fingerprint, status.ready, status.reason, status.deliveries


def see(
    instance: dg.DagsterInstance,
    site: Site,
    arrival: CaseFolder,
    now: datetime,
    *,
    failed: Collection[str] = (),
    present: Collection[str] = (),
) -> tuple[tuple[str, ...], datetime | None]:
    """Write what the inbox shows of one arrival into the ledger.

    Args:
        instance: Dagster's.
        site: The site.
        arrival: The arrival.
        now: UTC.
        failed: Cases that have failed.
        present: Keyed hashes of all arrivals' paths.

    Returns:
        Its cases, and when to look into it again although its files are the same; None for never.
    """
    try:
        cases = cases_of(site, arrival)
    except PrivacyError:
        remove_identifying(instance, site, survey(site, arrival), refused(site, arrival.relative)[1])
        raise
    removal = _names_removed(instance, site, cases)
    until = [] if removal is Removal.WHOLE else [now + _FAILED_AGAIN_AFTER]
    for found in cases:
        row = site.ledger.arrivals.get(found.case)
        ready, reason, next_check = _readiness(site, found, row.first_seen if row else now, now)
        if removal is Removal.IN_WORK:
            ready, reason, next_check = False, _UNDER_ANOTHER_NAME, now + _FAILED_AGAIN_AFTER
        fingerprint = fingerprint_of(instance, site, found, row, failed, present, now)
        site.ledger.arrivals.record(found.arrival_hash, found.case, fingerprint, ready, reason, next_check)
        until += [next_check] if next_check is not None else []
    site.ledger.arrivals.forget_unrequested(cases[0].arrival_hash, [found.case for found in cases])
    return tuple(found.case for found in cases), min(until, default=None)


def _names_removed(instance: dg.DagsterInstance, site: Site, cases: list[ArrivedCase]) -> Removal:
    """Remove what the cases left under names that identify."""
    keys = [found.case for found in cases]
    rows = site.ledger.arrivals.get_many(keys)
    left = {one.subject for one in site.ledger.alarms.open() if one.kind is AlarmKind.IDENTITY_LEFT}
    # A case that was asked for under its present name had another one before, and not since.
    known = all(key in rows and rows[key].requested_at is not None for key in keys)
    if known and left.isdisjoint(keys):
        return Removal.WHOLE
    return remove_identifying(instance, site, cases[0].survey, keys[0], keys)


class _Inbox:
    """The inbox as it was last seen by this process: a scan costs what has changed since."""

    def __init__(self) -> None:
        self._tree: KeptTree | None = None
        self._statuses: list[ArrivalStatus] = []
        self._seen: dict[str, _Seen] = {}
        self._last_scan: dict[str, datetime] = {}
        self._at_rest: set[str] = set()
        self._concluded: dict[str, float] = {}
        self._read_up_to = 0
        self._hashes: dict[str, str] = {}
        self._outdated: set[str] = set()

    def outdated(self, instance: dg.DagsterInstance) -> list[str]:
        """Partitions of cases that stood for files which are another case now, and whose runs have ended."""
        return [case for case in sorted(self._outdated) if not any_unfinished(instance, [case])]

    def scan(self, context: dg.SensorEvaluationContext, site: Site, now: datetime) -> int:
        """Write what has changed into the ledger.

        Returns:
            How many arrivals cannot be looked into.
        """
        tree = self._kept(site)
        in_work = {one.folder for one in self._statuses if one.relative not in self._at_rest}
        self._statuses = arrival_statuses(tree.root, tree.scan(in_work), site.settings.intake, now)
        arrived = {status.relative: status for status in self._statuses}
        for gone in (self._last_scan.keys() | self._seen.keys()) - arrived.keys():
            self._last_scan.pop(gone, None)
            self._forget(gone)
        self._hashes = {
            name: self._hashes.get(name) or site.pseudonyms.keyed("place", name) for name in arrived
        }
        fallen = failed_cases(site)
        open_ones = [
            name
            for name, one in arrived.items()
            if not self._is_known(name, one, now) or self._is_touched(name, one, fallen.values(), now)
        ]
        failed = 0
        self._outdated.clear()
        for name in within_a_tick(self._new_ones_first(site, open_ones)):
            self._last_scan[name] = now
            self._forget(name)
            seen = self._see(context, site, arrived[name], now, fallen)
            failed += not seen and name not in self._seen
        self._let_go(context, site, arrived)
        self._note_rest(context.instance, site)
        return failed + sum(seen.refused for seen in self._seen.values())

    def _new_ones_first(self, site: Site, names: list[str]) -> list[str]:
        """Arrivals in the order in which to look: those never seen, then those not looked at for longest."""
        known = {row.arrival for row in site.ledger.arrivals.all(CASE.name)} if names else set()
        never = datetime.min.replace(tzinfo=UTC)
        return sorted(names, key=lambda name: (self._hashes[name] in known, self._last_scan.get(name, never)))

    def _kept(self, site: Site) -> KeptTree:
        root, intake = site.inbox.resolve(), site.settings.intake
        if self._tree is None or self._tree.root != root:
            self._tree = KeptTree(root, intake.max_folder_depth, intake.full_look_minutes * 60.0)
        return self._tree

    def _is_known(self, name: str, status: ArrivalStatus, now: datetime) -> bool:
        return name in self._seen and self._seen[name].holds(status, now)

    def _is_touched(
        self, name: str, status: ArrivalStatus, fallen: Collection[Arrival], now: datetime
    ) -> bool:
        """Whether a failed case may have been repaired with sizes and times kept."""
        rows = [row for row in fallen if row.arrival == self._hashes[name]]
        if not rows or now - self._last_scan[name] < _FAILED_AGAIN_AFTER:
            return False
        self._last_scan[name] = now
        return touched_since(status.arrival(), rows)

    def _let_go(
        self, context: dg.SensorEvaluationContext, site: Site, arrived: Mapping[str, ArrivalStatus]
    ) -> None:
        """Drop what waits where no folder is any more, once a scan has shown all of the inbox."""
        gone = {row.arrival for row in site.ledger.arrivals.waiting(CASE.name)} - set(self._hashes.values())
        # A case that was moved is found at its new place first, and keeps the time of its first sight.
        if not gone or self._tree is None or not self._tree.whole or arrived.keys() - self._last_scan.keys():
            return
        count = site.ledger.arrivals.forget_removed(gone)
        context.log.info("%d cases that waited are dropped: their folders were removed from the inbox", count)

    def _forget(self, name: str) -> None:
        self._seen.pop(name, None)
        self._at_rest.discard(name)

    def _see(
        self,
        context: dg.SensorEvaluationContext,
        site: Site,
        status: ArrivalStatus,
        now: datetime,
        fallen: Collection[str],
    ) -> bool:
        instance, present = context.instance, self._hashes.values()
        try:
            cases, until = see(instance, site, status.arrival(), now, failed=fallen, present=present)
            outdated = outdated_case(instance, site, status.relative, cases)
        except InfrastructureError as error:
            context.log.error("an arrival cannot be looked at now: %s", error)
            return False
        except Exception as error:  # noqa: BLE001 - one arrival must not keep all others waiting
            reason = safe_text(error)
            context.log.error("an arrival cannot be looked at: %s", reason)
            arrival_hash, case = refused(site, status.relative)
            site.ledger.arrivals.record(arrival_hash, case, status.fingerprint, False, reason, None)
            if not is_passing(error):
                until = now + _FAILED_AGAIN_AFTER
                self._seen[status.relative] = _Seen(_key(status), (case,), until, refused=True)
            return False
        if outdated is not None:
            # Looked at again until it is gone.
            self._outdated.add(outdated)
            return True
        self._seen[status.relative] = _Seen(_key(status), cases, until)
        return True

    def _note_rest(self, instance: dg.DagsterInstance, site: Site) -> None:
        """Find what has nothing in work any more: only concluded and removed cases, for the present files."""
        page = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=_CONCLUDED, after_storage_id=self._read_up_to or None),
            limit=_PAGE,
            ascending=True,
        ).records
        for record in page:
            self._read_up_to = record.storage_id
            self._concluded[record.partition_key or ""] = record.timestamp
        busy = {
            name: seen for name, seen in self._seen.items() if name not in self._at_rest and seen.status[1]
        }
        rows = site.ledger.arrivals.get_many([case for seen in busy.values() for case in seen.cases])
        over = {case for case, row in rows.items() if self._is_over(row)}
        self._at_rest |= {name for name, seen in busy.items() if over.issuperset(seen.cases)}

    def _is_over(self, row: Arrival) -> bool:
        if row.is_open or row.requested_at is None:
            return False
        removed = row.results_removed_at
        ends = [self._concluded.get(row.case, 0.0), removed.timestamp() if removed is not None else 0.0]
        return max(ends) >= row.requested_at.timestamp()


def case_arrivals(interval: int, pipelines: Collection[Pipeline]) -> dg.SensorDefinition:
    """The sensor that looks at the inbox every ``interval`` seconds.

    Args:
        interval: Seconds.
        pipelines: Those of the site, which share the queue.
    """
    # Opening the plan of every case that is there at every tick would make a full inbox outlast the tick.
    inbox = _Inbox()
    away: list[str] = []

    @dg.sensor(
        name="case_arrivals",
        job=intake_job.definition,
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Scans the inbox; adds a case partition and requests its intake when a case is ready.",
    )
    def sensor(context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site]) -> dg.SensorResult:
        # Written down before anything of it is taken in: unmounted afterwards, it is missed.
        if why := inbox_trouble(site, note=True):
            # An unmounted share looks like an inbox from which everything was taken away.
            away.append(why)
            return dg.SensorResult(skip_reason=dg.SkipReason(f"the inbox: {why}"))
        if away:
            # Nobody has to wait for the end of a back-off.
            site.ledger.outcomes.bring_forward(InputsAwayError.code)
            away.clear()
        # Before anything is looked at: what was asked for is told from what has changed since.
        _settle(context, site)
        failed = inbox.scan(context, site, datetime.now(UTC))
        # First, so that what was asked for at the last tick does not take the place of what is new.
        _settle(context, site)
        outdated = inbox.outdated(context.instance)
        # A queue full of beams holds up no intake.
        room = Room(context.instance, pipelines, intake_job.name)
        requests = [
            dg.RunRequest(
                run_key=arrival_key(context.instance, intake_job.name, row)[0],
                partition_key=row.case,
                tags=intake_tags(row.case, site.settings.handover.target, row.priority),
            )
            for row in site.ledger.arrivals.open(REQUESTS_PER_TICK, CASE.name)
            # Of a partition that the same tick removes nothing runs.
            if row.case not in outdated and room.take(1, row.priority)
        ]
        waiting = len(site.ledger.arrivals.waiting(CASE.name))
        skip = None if requests else f"nothing new is ready; {waiting} cases wait, {failed} cannot be read"
        return dg.SensorResult(
            run_requests=requests,
            dynamic_partitions_requests=[
                CASE.definition.build_add_request(
                    [request.partition_key for request in requests if request.partition_key]
                ),
                *([CASE.definition.build_delete_request(outdated)] if outdated else []),
            ],
            skip_reason=None if requests else dg.SkipReason(skip),
        )

    return sensor


def _settle(context: dg.SensorEvaluationContext, site: Site) -> None:
    rows = site.ledger.arrivals.open(REQUESTS_PER_TICK, CASE.name)
    settle_requested(context.instance, site.ledger.arrivals, intake_job.name, rows)
