"""What the runs in work wait for, and since when: seen at every tick, remembered in the sensor's cursor."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from mqi_dagster.assets.jobs import PARTITION_TAG
from mqi_dagster.assets.progress import PHASE_TAG
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.execution.sign_of_life import Life
from mqi_dagster.resources.site import Site

WORKING = ("preparing", "simulating", "verifying")
"""Phases in which something should happen; in all others a run waits for something."""

Remembered = Mapping[str, tuple[str, datetime]]
"""By run id: the phase in which it was seen last, and since when."""


@dataclass(frozen=True, slots=True)
class Wait:
    """One run in work that waits."""

    run_id: str
    partition: str
    """Case or beam key."""
    phase: str
    message: str
    """For people; empty where the run has told none."""
    since: datetime


def waits_of(instance: dg.DagsterInstance, site: Site, before: Remembered, now: datetime) -> list[Wait]:
    """Every run in work that waits, by three questions however many there are.

    Args:
        instance: Dagster's.
        site: The installation.
        before: What the last look has seen. Most reports come again while a wait lasts, so that the last
            one does not tell when it began.
        now: The time.
    """
    runs = [
        (run.tags[PARTITION_TAG], run)
        for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        # One whose worker is gone waits for nothing but the reaper.
        if PARTITION_TAG in run.tags and not _is_dead(site, run.run_id)
    ]
    reports = site.ledger.progress_of({partition for partition, _ in runs})
    found = []
    for partition, run in runs:
        report = reports.get(partition)
        if report is not None and report.run_id == run.run_id:
            phase, message, seen = report.phase, report.message, report.updated_at
        else:
            # A case has no row of progress.
            phase, message, seen = run.tags.get(PHASE_TAG, "") if "__" not in partition else "", "", now
        if phase and phase not in WORKING:
            known, since = before.get(run.run_id, ("", now))
            since = since if known == phase else min(seen, now)
            found.append(Wait(run.run_id, partition, phase, message, since))
    return found


def _is_dead(site: Site, run_id: str) -> bool:
    try:
        return site.signs_of_life.of(run_id) is Life.DEAD
    except InfrastructureError:
        # A disk that cannot be read is an alarm of its own, and hides no other.
        return False


def read_waits(cursor: str | None) -> Remembered:
    """What the last look has seen, from the cursor that `write_waits` made."""
    content = json.loads(cursor) if cursor else {}
    return {run_id: (phase, datetime.fromisoformat(since)) for run_id, (phase, since) in content.items()}


def write_waits(waits: Iterable[Wait]) -> str:
    """The cursor for the next look."""
    return json.dumps({wait.run_id: (wait.phase, wait.since.isoformat()) for wait in waits})
