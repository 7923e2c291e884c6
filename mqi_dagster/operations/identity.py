"""Whose a case, a course or an image set is: read from its DICOM files when shown, and in the audit."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import dagster as dg
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from mqi_dagster.dicom.reading import decoding, read_dicom
from mqi_dagster.errors import MqiError, shown
from mqi_dagster.ledger.audit import Action
from mqi_dagster.lifecycle.arrived import find_case
from mqi_dagster.lifecycle.beam import find_manifest
from mqi_dagster.lifecycle.course import load_course
from mqi_dagster.lifecycle.image_set import FACTS, ImageSetAtWork
from mqi_dagster.lifecycle.lineage import resolve
from mqi_dagster.lifecycle.materialisations import IMAGES
from mqi_dagster.operations.course_identities import identities_of
from mqi_dagster.operations.noted_reads import may_see_noted
from mqi_dagster.partitions import CASE, COURSE, IMAGE_SET, root_of
from mqi_dagster.people.rights import Actor, Right
from mqi_dagster.plan.elements import text
from mqi_dagster.resources.site import Site

_READ = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "RTPlanLabel", "RTPlanDate")
_FOUND_SECONDS, _MISSING_SECONDS = 600.0, 60.0
_REMEMBERED = 2000


@dataclass(frozen=True, slots=True)
class Identity:
    """A patient, for the eyes of whom may see it; every text is empty where the files have none."""

    name: str
    """``Family, Given``, with the forms in other scripts behind it."""
    patient_id: str
    birth_date: str = ""
    """``YYYY-MM-DD``."""
    sex: str = ""
    """DICOM Patient's Sex: ``M``, ``F`` or ``O``."""
    plan_label: str = ""
    plan_date: str = ""
    """``YYYY-MM-DD``."""


_known: OrderedDict[tuple[Path, str], tuple[float, Identity | None]] = OrderedDict()
"""What was read of late, in this process's memory alone: a list asks for the same ones again and again."""


def identity_of(site: Site, instance: dg.DagsterInstance, actor: Actor, partition: str) -> Identity | None:
    """Whose a partition is, and a row of the audit once per actor, partition and hour.

    Args:
        site: The site.
        instance: Dagster's records.
        actor: Who looks.
        partition: Key of a case, a beam, a course or an image set.

    Returns:
        None where the actor may not see it, the look cannot be noted, or its files do not tell (any more).
    """
    unit = root_of(partition)
    if not actor.may(Right.IDENTITY):
        return None
    found = _remembered(site, instance, unit)
    if found is None or not may_see_noted(site, actor, Right.IDENTITY, Action.IDENTITY_READ, unit):
        return None
    return found


def is_of_patient(site: Site, instance: dg.DagsterInstance, partition: str, words: str) -> bool:
    """Whether a partition is of a patient with this ID, or whose name holds these words.

    Nobody is told more of it here; whoever searches notes that by itself.
    """
    found = _remembered(site, instance, root_of(partition))
    if found is None:
        return False
    wanted = words.casefold()
    plain = found.name.replace(", ", " ").casefold()
    return wanted == found.patient_id.casefold() or wanted in found.name.casefold() or wanted in plain


def _remembered(site: Site, instance: dg.DagsterInstance, unit: str) -> Identity | None:
    key, now = (site.settings_file, unit), time.monotonic()
    at, found = _known.get(key, (0.0, None))
    if key not in _known or now - at > (_MISSING_SECONDS if found is None else _FOUND_SECONDS):
        found = _read(site, instance, unit)
        _known[key] = now, found
        while len(_known) > _REMEMBERED:
            _known.popitem(last=False)
    return found


def _read(site: Site, instance: dg.DagsterInstance, unit: str) -> Identity | None:
    try:
        if CASE.has(unit):
            return _of_case(site, instance, unit)
        if IMAGE_SET.has(unit):
            return _of_image_set(site, instance, unit)
        return _of_course(site, instance, unit) if COURSE.has(unit) else None
    except (MqiError, OSError):
        # Why its files cannot be read, its own status says.
        return None


def _of_case(site: Site, instance: dg.DagsterInstance, case: str) -> Identity | None:
    manifest = find_manifest(instance, site.store, case)
    if manifest is None:
        source = find_case(site, case).survey.source
        entry = None if source is None else source.file
    else:
        entry = manifest.plan
    if entry is None:
        return None
    content = entry.path.read_bytes()
    # Another file may lie in its place, of another patient.
    return _in(content) if hashlib.sha256(content).hexdigest() == entry.sha256 else None


def _of_course(site: Site, instance: dg.DagsterInstance, course: str) -> Identity | None:
    try:
        known = load_course(instance, site.store, site, course)
        plans = [one.found.sop_instance_uid for one in known.inventory.plans]
        images = [one.images[0].sop_instance_uid for one in known.inventory.image_series]
        return _in(known.content((plans or images)[0]))
    except (MqiError, OSError, IndexError):
        for one in identities_of(site, [course]):
            return Identity(_name_of(one.names[0] if one.names else ""), shown(one.patient_id))
    return None


def _of_image_set(site: Site, instance: dg.DagsterInstance, key: str) -> Identity:
    images = ImageSetAtWork(key, resolve(instance, site.store, IMAGES, key, only=(FACTS,)))
    first = images.files(images.main_role)[0]
    images.published.verify([str(first.relative_to(images.published.folder))])
    return _in(first.read_bytes())


def _in(content: bytes) -> Identity:
    # It is what the platform has read before: nothing has to prove it harmless once more.
    with decoding():
        header = read_dicom(content, only=_READ, of_ours=True)
        return Identity(
            name=_name_of(text(header, "PatientName")),
            patient_id=shown(text(header, "PatientID")),
            birth_date=_day(header, "PatientBirthDate"),
            sex=shown(text(header, "PatientSex")),
            plan_label=shown(text(header, "RTPlanLabel")),
            plan_date=_day(header, "RTPlanDate"),
        )


def _name_of(written: str) -> str:
    """A DICOM person name: its letters, and behind them its ideograms and how they are spoken."""
    forms = []
    for separator, group in zip((", ", " ", " "), PersonName(written).components, strict=False):
        family, given = (*(part.strip() for part in group.split("^")), "", "")[:2]
        forms.append(separator.join(filter(None, (family, given))))
    first, *others = [*filter(None, forms), ""]
    return shown(f"{first} ({', '.join(others[:-1])})" if others[:-1] else first)


def _day(header: Dataset, keyword: str) -> str:
    """A DICOM date as ``YYYY-MM-DD``; what is none, as it stands there."""
    written = text(header, keyword)
    try:
        return datetime.strptime(written, "%Y%m%d").date().isoformat()
    except ValueError:
        return shown(written)
