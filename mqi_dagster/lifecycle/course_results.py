"""The results of a course's stages: which of them are of what it has now, and why the others are not.

Every result says in its manifest which files and which other results it was made of (`made_of`). Whoever
reads it compares: one of other files, or of a result that was made anew since, never stands beside new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

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


def _images(course: CourseAtWork) -> Iterator[str]:
    for series in course.analysed:
        yield from (image.sop_instance_uid for image in series.images)


def _images_and_sets(course: CourseAtWork) -> Iterator[str]:
    yield from _images(course)
    yield from (one.found.sop_instance_uid for one in course.inventory.structure_sets)


def _doses_and_plans(course: CourseAtWork) -> Iterator[str]:
    yield from (one.found.sop_instance_uid for one in course.inventory.doses)
    yield from (one.found.sop_instance_uid for one in course.inventory.plans)


_MADE_OF: Mapping[str, Callable[[CourseAtWork], Iterator[str]]] = {
    "auto_segmentation": _images,
    "custom_segmentation": _images,
    "structures": _images_and_sets,
    "dvh": _doses_and_plans,
    "radiomics": _images,
}
"""UIDs of the objects that each stage reads itself; the others reach it through the results that it reads."""


def made_of(course: CourseAtWork, asset: str, results: Collection[Published] = ()) -> dict[str, Any]:
    """For the manifest of a result: the files and the results that it is made of.

    Args:
        course: As it is now.
        asset: What is made.
        results: What else it was made from.
    """
    return {_FILES: _files(course, asset), _RESULTS: {one.manifest.asset: one.digest for one in results}}


def made_of_nothing() -> dict[str, Any]:
    """For the manifest of a result that is the same whatever a course holds: its stage is switched off."""
    return {_FILES: None, _RESULTS: {}}


def _files(course: CourseAtWork, asset: str) -> str:
    return digest_of(files={uid: course.contents[uid] for uid in set(_MADE_OF[asset](course))})


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
            if why := _of_before(instance, store, course, asset, found):
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
    if why := _of_before(instance, store, course, asset, found):
        raise StoreError(f"it {why}", where=Where(case=course.key, kind=asset))
    return found


def _of_before(
    instance: dg.DagsterInstance, store: Store, course: CourseAtWork, asset: str, found: Published
) -> str:
    """Why a result is not of what the course has now; empty where it is."""
    files = found.meta.get(_FILES, "")
    if files is not None and files != _files(course, asset):
        return _OTHER_FILES
    for source, digest in found.meta.get(_RESULTS, {}).items():
        latest = latest_digest(instance, source, course.key)
        again = f"was made of an earlier {source}: materialise it again"
        if latest != digest:
            return again
        before = store.find(course.key, None, source, digest)
        if before is not None and (why := _of_before(instance, store, course, source, before)):
            return f"was made of {source}, which {why}"
    return ""
