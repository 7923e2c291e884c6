"""Courses in the tree of DICOM files become course partitions and runs; changed ones are worked on anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from contextlib import closing
from datetime import UTC, datetime, timedelta

import dagster as dg

from mqi_dagster.courses.dicom_index import DicomIndex, PatientKey
from mqi_dagster.courses.grouping import group_patient
from mqi_dagster.courses.inventory import CourseInventory, Reason
from mqi_dagster.errors import InfrastructureError, InputsAwayError, MqiError
from mqi_dagster.imaging.quality_checks import counted
from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.lifecycle.boundary import safe_text
from mqi_dagster.lifecycle.course import arrival_of, keyed_courses, open_index
from mqi_dagster.lifecycle.jobs import PARTITION_TAG, course_job, course_tags
from mqi_dagster.lifecycle.pipeline import Pipeline
from mqi_dagster.lifecycle.run_requests import (
    REQUESTS_PER_TICK,
    SECONDS_PER_TICK,
    Room,
    arrival_key,
    settle_requested,
    within_a_tick,
)
from mqi_dagster.lifecycle.runs import UNFINISHED
from mqi_dagster.partitions import COURSE
from mqi_dagster.resources.dicom_source import (
    ScanProcess,
    read_record,
    write_fault,
)
from mqi_dagster.resources.site import Site
from mqi_dagster.resources.site_folders import tree_trouble

QUEUED_AT_MOST = 20
"""Courses in Dagster's queue: each takes long, and a tree of thousands must not keep beams out of it."""
GONE = "it is not in the tree any more; what was made of it stays"


class _Tree:
    """The tree as it was last seen by this process: a tick costs what has changed since."""

    def __init__(self) -> None:
        self._process: ScanProcess | None = None
        self._scanned_at: datetime | None = None
        self._began_at = datetime.min.replace(tzinfo=UTC)
        self._pending: list[PatientKey] = []
        self._states: dict[PatientKey, str] = {}
        """What the index has held of each patient when it was last looked at."""
        self._courses: dict[PatientKey, tuple[str, ...]] = {}
        self._unquiet: set[PatientKey] = set()
        self._first_seen: dict[str, tuple[str, datetime]] = {}
        """The fingerprint of each course, and at which scan it was first like this."""
        self._aside: dict[PatientKey | None, Counter[Reason]] = {}
        self._faulty: set[PatientKey] = set()
        self._said = ""
        self._only_here = 0

    def scanned(self, site: Site, now: datetime) -> str:
        """See to it that the tree is looked at; why nothing can be taken from it now, empty where it can."""
        if self._process is None and self._due(site, now):
            self._began_at = now
            self._process = ScanProcess(site.settings_file)
        state = site.settings.paths.state
        if self._process is not None:
            if not self._process.ended(SECONDS_PER_TICK):
                record = read_record(state)
                return f"the tree is being looked at: {record.words if record else 'it begins'}"
            fault, self._process = self._process.fault, None
            self._scanned_at = self._began_at
            if fault:
                write_fault(fault, self._began_at, state)
            record = read_record(state)
            if record is not None and record.tree is None:
                self._only_here = record.only_here
                with closing(open_index(site)) as index:
                    self._pending = index.patients()
                    self._aside[None] = _without_patient(index)
                return ""
        record = read_record(state)
        return "it has not been looked at yet" if record is None else record.tree.text if record.tree else ""

    def _due(self, site: Site, now: datetime) -> bool:
        if self._scanned_at is None:
            return True
        every = timedelta(minutes=site.settings.radiotherapy.scan_minutes)
        if self._unquiet:
            every = min(every, timedelta(seconds=site.settings.intake.stable_seconds))
        return not self._pending and now - self._scanned_at >= every

    def note(self, context: dg.SensorEvaluationContext, site: Site) -> None:
        """Write what the index shows of courses into the ledger, as far as a tick lasts."""
        if not self._pending or self._scanned_at is None:
            return
        with closing(open_index(site)) as index:
            for patient in within_a_tick(list(self._pending)):
                self._pending.remove(patient)
                try:
                    self._note_patient(site, index, patient, self._scanned_at)
                except InfrastructureError as error:
                    self._faulty.add(patient)
                    context.log.error("a patient's courses cannot be looked at now: %s", error)
                except Exception as error:  # noqa: BLE001 - one patient must not keep all others waiting
                    self._faulty.add(patient)
                    context.log.error("a patient's courses cannot be looked at: %s", safe_text(error))
        if not self._pending:
            with closing(open_index(site)) as index:
                self._let_go(context, site, index.patients())
            if self.words != self._said:
                self._said = self.words
                context.log.info("%s", self._said)

    def _note_patient(self, site: Site, index: DicomIndex, patient: PatientKey, scanned_at: datetime) -> None:
        state = index.state(patient)
        if self._states.get(patient) == state and patient not in self._unquiet | self._faulty:
            return
        self._states.pop(patient, None)
        max_days = site.settings.radiotherapy.max_days
        group = group_patient(patient, index.objects(patient), site.pseudonyms.keyed, max_days)
        courses = keyed_courses(site, group)
        quiet = [self._note_course(site, key, course, scanned_at) for key, course in courses.items()]
        (self._unquiet.discard if all(quiet) else self._unquiet.add)(patient)
        self._courses[patient] = tuple(courses)
        self._aside[patient] = Counter(one.reason for one in group.set_aside)
        self._states[patient] = state
        self._faulty.discard(patient)

    def _note_course(self, site: Site, key: str, course: CourseInventory, scanned_at: datetime) -> bool:
        """Write down what the index shows of a course; whether its files stand still."""
        arrivals = site.ledger.arrivals
        arrival, fingerprint = arrival_of(site, key, course)
        if self._first_seen.get(key, ("", scanned_at))[0] != fingerprint:
            self._first_seen[key] = fingerprint, scanned_at
        row = arrivals.get(key)
        if row is not None and row.files == fingerprint:
            # A person may have asked for it once more as it is.
            fingerprint = row.fingerprint
        # Times of files say little: what copies a tree may keep them. What two looks find alike stands still.
        quiet_for = timedelta(seconds=site.settings.intake.stable_seconds)
        known = row is not None and row.requested_fingerprint == fingerprint
        ready_at = self._first_seen[key][1] + quiet_for
        ready = known or scanned_at >= ready_at
        reason = "" if ready else f"files of it have changed within the last {quiet_for.total_seconds():g} s"
        next_check = None if ready else ready_at
        arrivals.record(arrival, key, fingerprint, ready, reason, next_check, kind=COURSE.name)
        return ready

    def _let_go(
        self, context: dg.SensorEvaluationContext, site: Site, patients: Collection[PatientKey]
    ) -> None:
        """Say of courses that they are gone, once all of the tree has been looked at."""
        for patient in self._courses.keys() - set(patients):
            del self._courses[patient]
            self._states.pop(patient, None)
            self._aside.pop(patient, None)
            self._unquiet.discard(patient)
        self._faulty &= set(patients)
        if self._faulty:
            return
        present = {key for keys in self._courses.values() for key in keys}
        for row in site.ledger.arrivals.all(COURSE.name):
            if row.case in present or (not row.ready and row.reason == GONE):
                continue
            self._first_seen.pop(row.case, None)
            if row.requested_fingerprint is None:
                site.ledger.arrivals.forget(row.case)
                continue
            site.ledger.arrivals.record(row.arrival, row.case, row.fingerprint, False, GONE, None)
            context.log.warning("course %s: %s", row.case, GONE)

    @property
    def words(self) -> str:
        """What a person should know of what the last scan has found."""
        total: Counter[Reason] = sum(self._aside.values(), Counter())
        aside = ", ".join(reason.counted(number) for reason, number in sorted(total.items()))
        parts = [f"{counted(sum(map(len, self._courses.values())), 'course')} in the tree"]
        parts += [f"{counted(len(self._pending), 'patient')} still to be looked at"] if self._pending else []
        parts += [f"{counted(len(self._faulty), 'patient')} cannot be looked at"] if self._faulty else []
        parts += [f"of no course: {aside}"] if aside else []
        kept = counted(self._only_here, "object")
        deleted = f"{kept} that Orthanc has deleted {'is' if self._only_here == 1 else 'are'} kept"
        parts += [deleted] if self._only_here else []
        return "; ".join(parts)


def _without_patient(index: DicomIndex) -> Counter[Reason]:
    """What of the tree is no patient's, by what it is."""
    found = Counter(Reason(entry.kind.value) for entry in index.other_entries())
    if nobody := len(index.objects(None)):
        found[Reason.NO_PATIENT_ID] = nobody
    return found


def dicom_arrivals(interval: int, pipelines: Collection[Pipeline]) -> dg.SensorDefinition:
    """The sensor that looks at the tree of DICOM files.

    Args:
        interval: Seconds.
        pipelines: Those of the site, which share the queue.
    """
    tree = _Tree()
    away: list[str] = []

    @dg.sensor(
        name="dicom_arrivals",
        job=course_job.definition,
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Has the DICOM tree scanned; adds a course partition and requests its run when it is new"
        " or has changed.",
    )
    def sensor(context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site]) -> dg.SensorResult:
        if site.settings.radiotherapy.dicom_root is None:
            return _skipped("radiotherapy.dicom_root names no tree of DICOM files")
        # An unmounted share looks like a tree from which everything was taken away.
        if why := tree_trouble(site, note=True):
            away.append(why)
            return _skipped(f"the tree of DICOM files: {why}")
        if away:
            # Nobody has to wait for the end of a back-off.
            site.ledger.outcomes.bring_forward(InputsAwayError.code)
            away.clear()
        # Before anything is looked at: what was asked for is not forgotten with what is gone.
        busy = _busy(context.instance)
        _settle(context.instance, site, busy)
        try:
            why = tree.scanned(site, datetime.now(UTC))
        except MqiError as error:
            why = str(error)
        if not why:
            tree.note(context, site)
        # What was found ready before goes on, whatever keeps the scan.
        _settle(context.instance, site, busy)
        requests = _requests(context.instance, site, pipelines, busy)
        keys = [str(request.partition_key) for request in requests]
        waiting = len(site.ledger.arrivals.waiting(COURSE.name))
        said = why or f"nothing new is ready; {waiting} courses wait; {tree.words}"
        return dg.SensorResult(
            run_requests=requests,
            dynamic_partitions_requests=[COURSE.definition.build_add_request(keys)] if keys else [],
            skip_reason=None if requests else dg.SkipReason(said),
        )

    return sensor


def _skipped(why: str) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=dg.SkipReason(why))


def _busy(instance: dg.DagsterInstance) -> set[str]:
    """Courses of which a run is queued or in work."""
    runs = instance.get_runs(dg.RunsFilter(job_name=course_job.name, statuses=UNFINISHED))
    return {run.tags.get(PARTITION_TAG, "") for run in runs}


def _open(site: Site, busy: Collection[str]) -> list[Arrival]:
    return site.ledger.arrivals.open(REQUESTS_PER_TICK + len(busy), COURSE.name)


def _settle(instance: dg.DagsterInstance, site: Site, busy: Collection[str]) -> None:
    settle_requested(instance, site.ledger.arrivals, course_job.name, _open(site, busy))


def _requests(
    instance: dg.DagsterInstance, site: Site, pipelines: Collection[Pipeline], busy: Collection[str]
) -> list[dg.RunRequest]:
    """The runs that are to be asked for: one for each set of files of a course, one of it at once."""
    room = Room(instance, pipelines, course_job.name, QUEUED_AT_MOST)
    return [
        dg.RunRequest(
            run_key=arrival_key(instance, course_job.name, row)[0],
            partition_key=row.case,
            tags=course_tags(row.case, site.settings.handover.target, row.priority),
        )
        for row in _open(site, busy)
        # What is in work reads the index of its start: it goes on with the present files afterwards.
        if row.case not in busy and room.take(1, row.priority)
    ]
