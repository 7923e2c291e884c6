"""The tables of all courses together are made again once courses have concluded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from mqi_dagster.errors import shown
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.lifecycle.failures import first_cause, goes_on_by_itself
from mqi_dagster.lifecycle.jobs import RUN_KEY_TAG, cohort_job, course_job
from mqi_dagster.lifecycle.materialisations import COURSE_REPORT, made_by_number
from mqi_dagster.lifecycle.runs import UNFINISHED
from mqi_dagster.partitions import COURSE
from mqi_dagster.resources.site import Site
from mqi_dagster.store.digests import digest_of

_AT_LEAST_EVERY = timedelta(hours=1)
"""While courses go on being worked on, the tables do not wait for the last of them for ever."""
_AGAIN_AFTER = timedelta(minutes=10)
"""After infrastructure was lost."""
SUBJECT = "cohort"


class _Reports:
    """The reports of all courses as this process last saw them: a tick reads those that are new."""

    def __init__(self) -> None:
        self._read: dict[int, str | None] = {}
        """Digest by number in the event log."""

    def digests(self, instance: dg.DagsterInstance) -> dict[str, str]:
        """Digest of the latest report of every course that has one."""
        newest = instance.event_log_storage.get_latest_storage_id_by_partition(
            dg.AssetKey(COURSE_REPORT), dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        there = set(instance.get_dynamic_partitions(COURSE.name))
        numbers = {number: course for course, number in newest.items() if course in there}
        made = made_by_number(instance, COURSE_REPORT, numbers.keys() - self._read.keys())
        known = self._read | {number: one.digest for number, one in made.items()}
        self._read = {number: known[number] for number in numbers if number in known}
        return {numbers[number]: digest for number, digest in self._read.items() if digest is not None}


def cohort(interval: int) -> dg.SensorDefinition:
    """The sensor that asks for the tables of all courses.

    Args:
        interval: Seconds.
    """
    reports = _Reports()

    @dg.sensor(
        name="cohort",
        job=cohort_job,
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Requests the tables of all courses once courses have concluded and none is in work.",
    )
    def sensor(context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site]) -> dg.SensorResult:
        if site.settings.radiotherapy.dicom_root is None:
            return _skipped("radiotherapy.dicom_root names no tree of DICOM files", context.cursor)
        now = datetime.now(UTC)
        asked = _read(context.cursor)
        latest = context.instance.get_run_records(dg.RunsFilter(job_name=cohort_job.name), limit=1)
        again = bool(latest) and _again(context.instance, site, latest[0], now)
        if latest and not latest[0].dagster_run.is_finished:
            return _skipped("the tables are being made", context.cursor)
        digests = reports.digests(context.instance)
        wanted = _digest_of(digests)
        # A request of which no run has come, as where the daemon was ended, is made again.
        is_asked = wanted == asked.digest and _is_there(context.instance, asked.run_key)
        if not digests or (is_asked and not again):
            return _skipped("no course has concluded since", context.cursor)
        of_courses = dg.RunsFilter(job_name=course_job.name, statuses=UNFINISHED)
        busy = context.instance.get_runs_count(of_courses) > 0
        if busy and asked.at is not None and now - asked.at < _AT_LEAST_EVERY:
            return _skipped("courses are in work", context.cursor)
        if busy and asked.at is None:
            # The first ones wait like any others, from when they were first seen.
            return _skipped("courses are in work", _write(_Asked(at=now)))
        # Dagster uses a run key up for ever, and courses may become again what they were.
        run_key = f"{SUBJECT}:{wanted[:16]}:{latest[0].dagster_run.run_id if latest else ''}"
        return dg.SensorResult(
            run_requests=[dg.RunRequest(run_key=run_key)], cursor=_write(_Asked(wanted, now, run_key))
        )

    return sensor


def _skipped(why: str, cursor: str | None) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=dg.SkipReason(why), cursor=cursor)


def _digest_of(digests: Mapping[str, str]) -> str:
    return digest_of(asset=SUBJECT, reports=dict(digests))


def _again(instance: dg.DagsterInstance, site: Site, latest: dg.RunRecord, now: datetime) -> bool:
    """Whether the tables are to be made again because of how their latest run has ended; alarms say so."""
    run = latest.dagster_run
    if run.status is dg.DagsterRunStatus.SUCCESS:
        site.ledger.alarms.clear(AlarmKind.PARTITION_FAILED, SUBJECT)
    if run.status is not dg.DagsterRunStatus.FAILURE:
        return False
    found = first_cause(instance, run.run_id)
    ended_at = datetime.fromtimestamp(latest.end_time or now.timestamp(), UTC)
    passing = goes_on_by_itself(found, served=run.remote_job_origin is not None)
    advice = "It goes on by itself" if passing else "Made again with the next course that concludes"
    text = f"the tables of all courses cannot be made: {shown(found.text)}. {advice}"
    site.ledger.alarms.raise_(AlarmKind.PARTITION_FAILED, SUBJECT, text, ended_at)
    return passing and now - ended_at > _AGAIN_AFTER


def _is_there(instance: dg.DagsterInstance, run_key: str) -> bool:
    return not run_key or instance.get_runs_count(dg.RunsFilter(tags={RUN_KEY_TAG: run_key})) > 0


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the tables were last asked for."""

    digest: str = ""
    """Of the reports."""
    at: datetime | None = None
    run_key: str = ""


def _read(cursor: str | None) -> _Asked:
    if not cursor:
        return _Asked()
    content = json.loads(cursor)
    at = datetime.fromisoformat(content["at"])
    return _Asked(str(content["asked"]), at, str(content.get("run_key", "")))


def _write(asked: _Asked) -> str:
    at = asked.at.isoformat() if asked.at is not None else None
    return json.dumps({"asked": asked.digest, "at": at, "run_key": asked.run_key})
