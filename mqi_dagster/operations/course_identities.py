"""Whose courses are: the way back from their keys, for outcome research on this machine."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg

from mqi_dagster.errors import ConfigurationError, InputError
from mqi_dagster.files import write_whole
from mqi_dagster.lifecycle.course import open_index
from mqi_dagster.partitions import COURSE
from mqi_dagster.resources.dicom_source import INDEX_FILE
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist.board_rows import StatusRow


class CourseIdentity(StatusRow):
    """A course and its patient, as the headers of its files have them."""

    course: str
    patient_id: str
    issuer: str | None
    """Issuer of Patient ID; None where no file names one."""
    names: tuple[str, ...]
    """Every way in which the files write the name."""


def identities_of(site: Site, courses: Collection[str]) -> Iterator[CourseIdentity]:
    """The patients of courses by the index of the tree, in the order of the keys; of unknown ones nothing.

    Raises:
        InputError: There is no index: nothing was organised yet, or it was removed.
        StoreError: The index is damaged.
        InfrastructureError: It cannot be read now.
    """
    if not (site.settings.paths.state / INDEX_FILE).is_file():
        raise InputError("there is no index of the tree: organise the courses (again) first")
    wanted: dict[str, list[str]] = {}
    for course in sorted(courses):
        wanted.setdefault(COURSE.key(course).stem, []).append(course)
    found: list[CourseIdentity] = []
    with closing(open_index(site)) as index:
        for patient in index.patients():
            keys = wanted.get(site.pseudonyms.patient(patient.patient_id, patient.issuer), [])
            names = tuple(index.names_of(patient)) if keys else ()
            found += [
                CourseIdentity(course=key, patient_id=patient.patient_id, issuer=patient.issuer, names=names)
                for key in keys
            ]
    yield from sorted(found, key=lambda one: one.course)


def write_identities(instance: dg.DagsterInstance, site: Site, path: Path) -> tuple[int, list[str]]:
    """Write the patients of all courses of a site as a CSV that its owner alone can read.

    Args:
        instance: Dagster's records.
        site: The installation.
        path: The file; one that is there is replaced.

    Returns:
        How many courses stand in it, and the keys of those whose patient the tree does not have any more.

    Raises:
        ConfigurationError: The file cannot be written.
        InputError: There is no index, or no course.
    """
    courses = list(filter(COURSE.has, instance.get_dynamic_partitions(COURSE.name)))
    if not courses:
        raise InputError("no course is organised yet")
    rows = list(identities_of(site, courses))
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(("course", "patient_id", "issuer_of_patient_id", "patient_name"))
    table.writerows((one.course, one.patient_id, one.issuer or "", " | ".join(one.names)) for one in rows)
    try:
        write_whole(path, text.getvalue().encode(), 0o600)
    except OSError as error:
        raise ConfigurationError(f"the file cannot be written: {error.strerror}") from None
    return len(rows), sorted(set(courses).difference(one.course for one in rows))
