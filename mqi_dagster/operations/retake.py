"""A case or a course is taken in anew, although its files are as they were."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg

from mqi_dagster.errors import InputError, UnreachableError, Where
from mqi_dagster.ledger.audit import Action
from mqi_dagster.lifecycle.arrived import find_case
from mqi_dagster.lifecycle.course import find_course
from mqi_dagster.lifecycle.jobs import course_job, intake_job
from mqi_dagster.lifecycle.run_requests import settle_requested
from mqi_dagster.lifecycle.runs import UNFINISHED, latest_run_of
from mqi_dagster.lifecycle.uptime import Heartbeat
from mqi_dagster.operations.audited import audited
from mqi_dagster.partitions import CASE, COURSE
from mqi_dagster.people.rights import Actor, Right
from mqi_dagster.resources.site import Site


def retake(instance: dg.DagsterInstance, site: Site, actor: Actor, key: str) -> None:
    """Have the sensor take a case or a course in once more: after a machine file was mended, for example.

    What it makes is the same where nothing else is: then nothing is simulated again. Asked for twice before
    the sensor has looked, it is taken in once.

    Args:
        instance: Dagster's records.
        site: The site.
        actor: Who wants it.
        key: Of the case or course.

    Raises:
        InputError: It has not arrived, cannot be taken yet, or is in work.
        InputsAwayError: Its folder is away.
        UnreachableError: Nobody would take it in.
        NotAllowedError: The actor does not have the right ``act``.
    """
    with audited(site, actor, Right.ACT, Action.RETAKE, key):
        place, arrivals = Where(case=key), site.ledger.arrivals
        job = course_job if COURSE.has(key) else intake_job
        if job is intake_job:
            CASE.key(key)
        if (row := arrivals.get(key)) is None:
            raise InputError("it is not known here, or has not come through the inbox", where=place)
        if not Heartbeat.of(instance, site.settings, datetime.now(UTC)).alive:
            raise UnreachableError("Dagster's daemon does not run: nothing is taken in; `mqi dev` starts it")
        run = latest_run_of(instance, key)
        if run is not None and run.status in UNFINISHED:
            raise InputError(f"it is in work: run {run.run_id}", where=place)
        if not row.ready:
            raise InputError(f"it cannot be taken yet: {row.reason}", where=place)
        # Whoever asks is told at once that there is nothing to take.
        (find_course if job is course_job else find_case)(site, key)
        # A run that the sensor has asked for at its last tick is marked at its next one only.
        settle_requested(instance, arrivals, job.name, [row] if row.is_open else ())
        arrivals.take_again(key)
