"""Which courses there are, where each stands, and which report holds on the files that it has now."""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg

from mqi_dagster import __version__
from mqi_dagster.lifecycle.case_reading import run_facts
from mqi_dagster.lifecycle.materialisations import COURSE_REPORT, EventLog
from mqi_dagster.lifecycle.pipeline import Inventory, Pipeline
from mqi_dagster.lifecycle.stages import CaseState
from mqi_dagster.lifecycle.unit_status import unit_status
from mqi_dagster.resources.site import Site
from mqi_dagster.store.digests import digest_of

COHORT_TABLES = "cohort_tables"
CODE = "1"


@dataclass(frozen=True, slots=True)
class CourseStanding:
    """A course among all."""

    key: str
    state: CaseState
    reason: str
    """Why it has failed or waits; empty of others."""
    report: str | None
    """Digest of its report; None where it has none on the files that it has now."""


@dataclass(frozen=True, slots=True)
class Cohort:
    """All courses."""

    courses: tuple[CourseStanding, ...]
    """In the order of their keys."""
    invented: int
    """Partitions that a person has added and that are no courses."""

    @property
    def digest(self) -> str:
        """Digest of the tables of these courses: they are to be made where they have another one."""
        return digest_of(
            asset=COHORT_TABLES,
            code=CODE,
            version=__version__,
            courses={one.key: [one.state, one.reason, one.report] for one in self.courses},
        )


def read_cohort(instance: dg.DagsterInstance, site: Site, pipeline: Pipeline) -> Cohort:
    """Every course by the partitions in Dagster.

    Args:
        instance: Dagster's records.
        site: The site.
        pipeline: That of courses, whose rules say what is concluded.
    """
    kind, events = pipeline.units.kind, EventLog(instance)
    keys = instance.get_dynamic_partitions(kind.name)
    there = sorted(key for key in keys if kind.has(key))
    return Cohort(
        tuple(_standing(instance, site, pipeline, events, key) for key in there), len(keys) - len(there)
    )


def _standing(
    instance: dg.DagsterInstance, site: Site, pipeline: Pipeline, events: EventLog, key: str
) -> CourseStanding:
    arrival = site.ledger.arrivals.get(key)
    # The run first: one that has ended by then has left in the event log what it has made.
    latest = run_facts(instance, site.ledger, key)
    concluded = pipeline.concluded(events, key, (), arrival, Inventory)
    status = unit_status(pipeline.units.jobs, arrival, latest, lambda: concluded)
    report = events.latest(COURSE_REPORT, key) if concluded else None
    # How far a course at work is changes all the time, and is no part of a table.
    reason = status.reason if status.state in (CaseState.FAILED, CaseState.WAITING) else ""
    return CourseStanding(key, status.state, reason, None if report is None else report.digest)
