"""The results of a course's stages: which of them are of what it has now, and why the others are not.

Every result says in its manifest which files and which other results it was made of (`made_of`). Whoever
reads it compares: one of other files, or of a result that was made anew since, never stands beside new ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from mqi_dagster.courses.inventory import ImageSeries
from mqi_dagster.errors import StoreError, Where
from mqi_dagster.lifecycle.course import CourseAtWork
from mqi_dagster.lifecycle.lineage import latest_digest, resolve
from mqi_dagster.store.digests import digest_of
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import Store

NOT_MADE = "has not been made"
GONE = "is gone from the store: materialise it again"
_OTHER_FILES = "was made of other files than the course has now: materialise it again"
_FILES, _RESULTS = "files", "results"


_ANALYSED, _SETS, _DOSES, _PLANS = "analysed series", "structure sets", "doses", "plans"


def _series_part(series: ImageSeries) -> str:
    identity = digest_of(series=series.series_uid, frame_of_reference=series.frame_of_reference_uid)
    return f"series {identity[:16]}"


def _parts(course: CourseAtWork) -> dict[str, str]:
    """What results are made of, by a name for each part of the course, and the digest of its files."""
    inventory = course.inventory
    objects = {
        _SETS: [one.found.sop_instance_uid for one in inventory.structure_sets],
        _DOSES: [one.found.sop_instance_uid for one in inventory.doses],
        _PLANS: [one.found.sop_instance_uid for one in inventory.plans],
    }
    parts = {_series_part(one): digest_of(images=course.digests_of(one)) for one in course.analysed}
    parts[_ANALYSED] = digest_of(series=sorted(parts))
    for name, uids in objects.items():
        parts[name] = digest_of(objects=course.digests(uids))
    return parts


def made_of(
    course: CourseAtWork,
    *,
    series: Iterable[ImageSeries] | None = None,
    structure_sets: bool = False,
    doses: bool = False,
    results: Collection[Published] = (),
) -> dict[str, Any]:
    """For the manifest of a result: of which files and results it was made, exactly those in its digest.

    Args:
        course: As it is now.
        series: Those of its series that are read, of all that are analysed; None: none is.
        structure_sets: Whether the structure sets are read.
        doses: Whether doses and plans are.
        results: What else it was made from.
    """
    now = _parts(course)
    names = [] if series is None else [_ANALYSED, *map(_series_part, series)]
    names += [_SETS] if structure_sets else []
    names += [_DOSES, _PLANS] if doses else []
    return {
        _FILES: {name: now[name] for name in names},
        _RESULTS: {one.manifest.asset: one.digest for one in results},
    }


@dataclass(frozen=True, slots=True)
class StageResults:
    """What the stages of a course have made of what it has now."""

    made: Mapping[str, Published]
    """By asset."""
    missing: Mapping[str, str]
    """Why there is nothing of the other assets."""

    @property
    def digests(self) -> dict[str, str]:
        """Of what there is, by asset."""
        return {asset: one.digest for asset, one in self.made.items()}


def stage_results(
    instance: dg.DagsterInstance, store: Store, course: CourseAtWork, assets: Collection[str]
) -> StageResults:
    """The latest results of a course, those that are of what it has now.

    Args:
        instance: Dagster's records.
        store: Where they were published.
        course: As it is now.
        assets: Which are wanted, each after those that it is made from.

    Raises:
        StoreError: One is there, but is not what its manifest says.
    """
    made: dict[str, Published] = {}
    missing: dict[str, str] = {}
    for asset in assets:
        digest = latest_digest(instance, asset, course.key)
        if digest is None:
            missing[asset] = NOT_MADE
        elif store.find(course.key, None, asset, digest) is None:
            missing[asset] = GONE
        else:
            found = resolve(instance, store, asset, course.key)
            if why := _of_before(instance, store, course, found):
                missing[asset] = why
            else:
                made[asset] = found
    return StageResults(made, missing)


def current_result(instance: dg.DagsterInstance, store: Store, course: CourseAtWork, asset: str) -> Published:
    """The latest result of a stage, which has to be of what the course has now.

    Raises:
        StoreError: It was never made, is gone, is damaged, or is of what the course had before.
    """
    found = resolve(instance, store, asset, course.key)
    if why := _of_before(instance, store, course, found):
        raise StoreError(f"it {why}", where=Where(case=course.key, kind=asset))
    return found


def _of_before(instance: dg.DagsterInstance, store: Store, course: CourseAtWork, found: Published) -> str:
    """Why a result is not of what the course has now; empty where it is."""
    now = _parts(course)
    if any(now.get(name) != digest for name, digest in found.meta.get(_FILES, {}).items()):
        return _OTHER_FILES
    for source, digest in found.meta.get(_RESULTS, {}).items():
        latest = latest_digest(instance, source, course.key)
        again = f"was made of an earlier {source}: materialise it again"
        if latest != digest:
            return again
        before = store.find(course.key, None, source, digest)
        if before is not None and (why := _of_before(instance, store, course, before)):
            return f"was made of {source}, which {why}"
    return ""
