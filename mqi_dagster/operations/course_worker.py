"""What `mqi course run` does in a process of its own for each course, and at the end for all together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from mqi_dagster.definitions import build_definitions
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.lifecycle.failures import Cause
from mqi_dagster.lifecycle.jobs import cohort_job, course_job
from mqi_dagster.operations.course_stages import STAGE_OF, stage_log
from mqi_dagster.operations.in_process import execute_here
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.processes.errors import TaskMemoryError
from mqi_dagster.resources.site import Site

_TOLD = (
    dg.DagsterEventType.STEP_START,
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
)


def run_course(settings_file: str, course: str, assets: list[str]) -> str | None:
    """Make assets of a course; the first cause where its run has failed.

    Args:
        settings_file: Of the site.
        course: Its key.
        assets: What is to be made; what was made before is found in the store.

    Raises:
        MemoryError: The memory did not suffice: it is worth another try with more.
        InfrastructureError: Dagster's database cannot be read or written.
    """
    return _run(Path(settings_file), course_job.name, course, assets)


def run_cohort(settings_file: str) -> str | None:
    """Make the tables of all courses; the first cause where that has failed.

    Raises:
        MemoryError: The memory did not suffice.
        InfrastructureError: Dagster's database cannot be read or written.
    """
    return _run(Path(settings_file), cohort_job.name, None, None)


def _run(settings_file: Path, job: str, course: str | None, assets: list[str] | None) -> str | None:
    site = Site(settings_file)
    definition = build_definitions(site).resolve_job_def(job)
    tags: Mapping[str, str] = {} if course is None else course_job.tags(course, "", 0)
    try:
        with open_instance(site.settings) as instance:
            run_id, cause = execute_here(instance, site, definition, course, tags, assets)
            if course is not None:
                _write_stage_logs(instance, site, run_id, course, cause)
    except SQLAlchemyError as error:
        reason = getattr(error, "orig", None) or type(error).__name__
        raise InfrastructureError(
            f"Dagster's database cannot be read or written ({reason}): see whether the disk is full, then run"
            " again; what was made is found"
        ) from None
    if cause is None:
        return None
    if cause.code == TaskMemoryError.code:
        raise MemoryError
    return cause.text


def _write_stage_logs(
    instance: dg.DagsterInstance, site: Site, run_id: str, course: str, cause: Cause | None
) -> None:
    """What each stage did, into its own log: its steps, its checks, and what its code has said."""
    lines: dict[str, list[str]] = defaultdict(list)
    for entry in instance.all_logs(run_id):
        stage = STAGE_OF.get(entry.step_key or "")
        event = entry.dagster_event
        if stage is None or (event is not None and event.event_type not in _TOLD):
            continue
        message = entry.message or (event.message if event is not None else "") or ""
        if event is not None and event.event_type is dg.DagsterEventType.STEP_FAILURE and cause is not None:
            message = cause.text
        at = datetime.fromtimestamp(entry.timestamp, UTC)
        lines[stage].append(f"{at:%Y-%m-%d %H:%M:%S} {course} {' '.join(message.split())}\n")
    for stage, told in lines.items():
        with stage_log(site.settings, stage).open("a", encoding="utf-8") as stream:
            # In one write, so that the lines of courses that end at once stay whole.
            stream.write("".join(told))
