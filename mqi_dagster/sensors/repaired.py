"""Cases whose files were put right after their intake: what to take in anew, and what to forget."""

from collections.abc import Collection, Iterable
from datetime import datetime

import dagster as dg

from mqi_dagster.assets.arrivals import ArrivedCase, refused
from mqi_dagster.assets.jobs import conclusion_job, intake_job
from mqi_dagster.delivery.discovery import Arrival
from mqi_dagster.delivery.survey import changed_ns
from mqi_dagster.ledger.alarms import AlarmKind, failed_kind
from mqi_dagster.ledger.arrivals import Arrival as Row
from mqi_dagster.partitions import CASES
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors.queue import UNFINISHED, any_unfinished, latest_run_of

_AGAIN = "~"
"""Behind a fingerprint: the files are the same by name, size and time, and are to be taken in again."""


def failed_cases(site: Site) -> dict[str, Row]:
    """The cases that have failed and that nobody has dismissed, with what the ledger knows of them."""
    failed = [alarm.subject for alarm in site.ledger.alarms() if alarm.kind == AlarmKind.CASE_FAILED]
    return site.ledger.arrivals_of(failed)


def touched_since(arrival: Arrival, rows: Iterable[Row]) -> bool:
    """Whether anything of an arrival has changed since its failed cases were asked for; nothing is opened."""
    newest_ns = changed_ns(arrival)
    return any(newest_ns > _asked_ns(row) for row in rows)


def fingerprint_of(
    instance: dg.DagsterInstance,
    found: ArrivedCase,
    row: Row | None,
    failed: Collection[str],
    present: Collection[str],
    now: datetime,
) -> str:
    """The fingerprint under which a case stands in the ledger.

    A file that was repaired with its size and time kept, and a folder that was moved or renamed, leave the
    fingerprint of the files as it was; the case is taken in anew all the same where its intake has failed,
    and after a move wherever it is not concluded.

    Args:
        instance: Dagster's.
        found: The case as it stands in the inbox.
        row: What the ledger knows of it.
        failed: Cases that have failed.
        present: Keyed hashes of the places of all arrivals.
        now: UTC.
    """
    if row is None or row.fingerprint.partition(_AGAIN)[0] != found.fingerprint:
        return found.fingerprint
    moved = row.arrival != found.place and row.arrival not in present
    if row.is_open or row.requested_at is None or not (moved or found.case in failed):
        return row.fingerprint
    run = latest_run_of(instance, found.case)
    if run is None or run.status in UNFINISHED:
        return row.fingerprint
    if moved:
        concluded = run.job_name == conclusion_job.name and run.status is dg.DagsterRunStatus.SUCCESS
        since_ns = None if concluded else int(now.timestamp() * 1e9)
    else:
        since_ns = _repaired_ns(found, row, run)
    return row.fingerprint if since_ns is None else f"{found.fingerprint}{_AGAIN}{since_ns:x}"


def _repaired_ns(found: ArrivedCase, row: Row, run: dg.DagsterRun) -> int | None:
    if run.job_name != intake_job.name or run.status is not dg.DagsterRunStatus.FAILURE:
        return None
    newest_ns = found.survey.changed_ns(found.fraction)
    return newest_ns if newest_ns > _asked_ns(row) else None


def _asked_ns(row: Row) -> int:
    """From when on a change of the files is a repair [ns]."""
    known = row.fingerprint.partition(_AGAIN)[2]
    asked_at = row.requested_at.timestamp() if row.requested_at is not None else 0.0
    return int(known, 16) if known else int(asked_at * 1e9)


def outdated_case(
    instance: dg.DagsterInstance, site: Site, relative: str, cases: Collection[str]
) -> str | None:
    """The case under which an arrival stood while it had no readable plan, and has to go now that it has one.

    It goes in two looks: its partition first, which the caller has to have deleted, then its row.

    Args:
        instance: Dagster's.
        site: The site.
        relative: The arrival's place below the inbox.
        cases: What the arrival holds now.
    """
    _, case = refused(site, relative)
    if case in cases or site.ledger.arrival(case) is None:
        return None
    if any_unfinished(instance, [case]) or instance.has_dynamic_partition(str(CASES.name), case):
        return case
    site.ledger.clear_alarms([failed_kind(case)], [case])
    site.ledger.forget_arrival(case)
    return None
