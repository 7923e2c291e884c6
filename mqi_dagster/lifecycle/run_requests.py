"""What a sensor asks for: which runs there are, how many more may be, and how far it has read."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import dagster as dg

from mqi_dagster.dagster_internals import SENSOR_NAME_TAG
from mqi_dagster.ledger.arrivals import Arrival, Arrivals
from mqi_dagster.lifecycle.jobs import PARTITION_TAG, RETRY_OF_TAG, RUN_KEY_TAG
from mqi_dagster.lifecycle.pipeline import Pipeline, levels_of

_Key = TypeVar("_Key")
_OVERLAP = 200
"""Rows that are looked at again: PostgreSQL shows some only after others with a higher number."""


@dataclass(frozen=True, slots=True)
class Position:
    """The highest row that was read, and those read shortly before it."""

    after: int = 0
    seen: frozenset[int] = field(default=frozenset())

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Position:
        """From what `content` has made; one from before rows were remembered counts them all as read."""
        after = int(content["after"])
        if "seen" not in content:
            return cls(after, frozenset(range(max(0, after - _OVERLAP) + 1, after + 1)))
        return cls(after, frozenset(int(number) for number in content["seen"]))

    def content(self) -> dict[str, Any]:
        """For a cursor."""
        return {"after": self.after, "seen": sorted(self.seen)}

    @property
    def floor(self) -> int:
        """Rows with a higher number than this are to be looked at."""
        return max(0, self.after - _OVERLAP)

    def is_new(self, number: int) -> bool:
        """Whether a row was not read yet."""
        return number > self.floor and number not in self.seen

    def past(self, numbers: Iterable[int]) -> Position:
        """The position once these rows are read as well."""
        read = self.seen | set(numbers)
        after = max([self.after, *read])
        return Position(after, frozenset(number for number in read if number > after - _OVERLAP))


_ASKED_AT_ONCE = 500
"""Partitions in one query; databases limit them."""
REQUESTS_PER_TICK = 10
"""Dagster needs about half a second for each on a small machine, and a tick should end within ten."""
SECONDS_PER_TICK = 5.0
QUEUED_AT_MOST = 200
URGENT_AT_MOST = 40
"""Runs of cases with a priority that may stand in the queue beyond: else a full queue keeps them out."""


def asking(pipelines: Iterable[Pipeline]) -> list[str]:
    """Names of the sensors that ask for runs."""
    return [*(name for pipeline in pipelines for name in pipeline.sensors), "run_outcomes"]


class Room:
    """How many more runs a tick may ask for, so that the queue stays short and priorities count.

    Only what the sensors have asked for counts: what a person has put into the queue by a backfill, however
    much it is, keeps nothing out.

    Args:
        instance: Dagster's.
        pipelines: Those of the site.
        job: Count only the queued runs of this job; None counts all but those of pipelines that have a room
            of their own.
        at_most: How many of them may stand in the queue; None: `QUEUED_AT_MOST`.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        pipelines: Collection[Pipeline],
        job: str | None = None,
        at_most: int | None = None,
    ) -> None:
        asked_by = {SENSOR_NAME_TAG: asking(pipelines)}

        def waiting(name: str | None) -> int:
            queued = [dg.DagsterRunStatus.QUEUED]
            return instance.get_runs_count(dg.RunsFilter(job_name=name, statuses=queued, tags=asked_by))

        apart = [] if job is not None else [one for one in pipelines if one.room_of_its_own]
        others = sum(waiting(one.name) for level in levels_of(apart) for one in level.jobs)
        self._tick = REQUESTS_PER_TICK
        self._queue = (QUEUED_AT_MOST if at_most is None else at_most) - waiting(job) + others

    def left(self, priority: int) -> int:
        """How many runs may still be asked for of a case; above priority 0 the queue may become longer."""
        beyond = URGENT_AT_MOST if priority > 0 else 0
        return max(0, min(self._tick, self._queue + beyond))

    def take(self, wanted: int, priority: int) -> int:
        """How many of the wanted runs may be asked for now; they count from then on.

        Args:
            wanted: Runs of one case.
            priority: Of the case.
        """
        given = min(wanted, self.left(priority))
        self._tick -= given
        self._queue -= given
        return given


def asked_key(
    instance: dg.DagsterInstance, job: str, partition: str, key: str, since: datetime | None = None
) -> tuple[str, bool]:
    """The run key under which something is to be asked of a partition now, and whether its run exists.

    Dagster uses a run key up for ever. Where something else was asked for in between (files were taken out
    and put back, a calibration was changed and changed back), the same is asked anew, under a key with the
    run that it follows: else nothing would run, and what was made in between would pass for the present.
    No run that is left bears such a key already, whichever of a partition's runs were deleted.

    Args:
        instance: Dagster's.
        job: Name of the job.
        partition: Case or beam.
        key: What is asked for.
        since: When the results of the case were last removed: a run from before does not count as asked for.
    """
    return asked_keys(instance, job, {partition: key}, since)[partition]


def asked_keys(
    instance: dg.DagsterInstance, job: str, keys: Mapping[str, str], since: datetime | None = None
) -> dict[str, tuple[str, bool]]:
    """`asked_key` of several partitions, by one query."""
    of_these = dg.RunsFilter(job_name=job, tags={PARTITION_TAG: list(keys)})
    records = instance.get_run_records(of_these) if keys else []
    found = {}
    for partition, key in keys.items():
        # A re-execution repeats what was asked for; it asks for nothing itself.
        asked = [
            (run.tags[RUN_KEY_TAG], run.run_id, record.create_timestamp)
            for record in records
            if (run := record.dagster_run).tags[PARTITION_TAG] == partition
            and RUN_KEY_TAG in run.tags
            and run.parent_run_id is None
            and RETRY_OF_TAG not in run.tags
        ]
        same = [one == key or one.startswith(f"{key}:") for one, _, _ in asked]
        if not any(same):
            found[partition] = (key, False)
            continue
        latest_key, latest_run, created = asked[0]
        is_current = same[0] and (since is None or created >= since)
        found[partition] = (latest_key, True) if is_current else (f"{key}:{latest_run}", False)
    return found


def arrival_key(instance: dg.DagsterInstance, job: str, row: Arrival) -> tuple[str, bool]:
    """The run key of an arrival's present files, and whether their run exists: see `asked_key`."""
    return asked_key(instance, job, row.case, f"{row.case}:{row.fingerprint}", row.results_removed_at)


def settle_requested(
    instance: dg.DagsterInstance, arrivals: Arrivals, job: str, rows: Iterable[Arrival]
) -> None:
    """Mark the arrivals whose requested run exists: only then is a request safe from a crash of the tick.

    Args:
        instance: Dagster's.
        arrivals: Of the ledger.
        job: That is asked for.
        rows: Those that are open.
    """
    by_removal: dict[datetime | None, list[Arrival]] = {}
    for row in rows:
        by_removal.setdefault(row.results_removed_at, []).append(row)
    for removed_at, alike in by_removal.items():
        # By few questions: a person may have put runs of thousands into the queue.
        for part in (alike[at : at + _ASKED_AT_ONCE] for at in range(0, len(alike), _ASKED_AT_ONCE)):
            keys = {row.case: f"{row.case}:{row.fingerprint}" for row in part}
            asked = asked_keys(instance, job, keys, removed_at)
            for row in part:
                if asked[row.case][1]:
                    arrivals.mark_requested(row.case, row.fingerprint)


def within_a_tick(keys: Iterable[_Key]) -> Iterator[_Key]:
    """The keys in their order, until a tick has lasted its time; at least one."""
    began = time.monotonic()
    for key in keys:
        yield key
        if time.monotonic() - began > SECONDS_PER_TICK:
            return


def read_cursor(text: str | None) -> tuple[Position, list[str]]:
    """How far the records were read, and the keys that the last tick put off."""
    if not text:
        return Position(), []
    content = json.loads(text)
    return Position.of(content), [str(key) for key in content["pending"]]


def write_cursor(position: Position, pending: Sequence[str]) -> str:
    """The cursor that `read_cursor` reads."""
    return json.dumps({**position.content(), "pending": list(pending)})
