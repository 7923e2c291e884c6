"""A course at work: found by its key in the index of the tree, and what its steps read of it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from functools import cache, cached_property, partial
from pathlib import Path

import dagster as dg

from mqi_dagster.courses.chosen_series import ChosenSeries, chosen_series
from mqi_dagster.courses.dicom_index import DicomIndex
from mqi_dagster.courses.grouping import Group, group_patient, identities
from mqi_dagster.courses.inventory import CourseInventory, ImageSeries, read_inventory
from mqi_dagster.courses.places import Place, bytes_at, file_at
from mqi_dagster.dicom.reading import decoding, read_dicom
from mqi_dagster.errors import (
    ConfigurationError,
    DicomError,
    InputError,
    InputsAwayError,
    StoreError,
    Where,
)
from mqi_dagster.imaging.course_facts import CourseFacts, FactsReader
from mqi_dagster.lifecycle.lineage import resolve
from mqi_dagster.lifecycle.materialisations import INVENTORY
from mqi_dagster.partitions import COURSE, course_key
from mqi_dagster.plan.identifiers import PATIENT, identity_of
from mqi_dagster.plan.identity import UNKNOWN, Identity
from mqi_dagster.pseudonyms import Pseudonyms
from mqi_dagster.resources.dicom_source import INDEX_FILE
from mqi_dagster.resources.site import Site
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import Store

INVENTORY_FILE = "inventory.json"
CONTENTS_FILE = "contents.json"
"""SHA-256 of each object of the inventory, by SOP Instance UID."""
UNREADABLE = "unreadable"
"""Before the SHA-256 of the file in which an object lies that cannot be read, by itself where the disk does
not give that file either: whoever asks for its content is told why."""


@dataclass(frozen=True)
class CourseAtWork:
    """What the steps of a course read: its inventory and, verified, the files that it names."""

    key: str
    digest: str
    """Of the inventory."""
    inventory: CourseInventory
    contents: Mapping[str, str]
    """SHA-256 of the file of each object, by SOP Instance UID."""
    root: Path
    """Of the tree in which they lie."""

    @cached_property
    def chosen(self) -> ChosenSeries:
        """The series that are analysed."""
        return chosen_series(self.inventory)

    @property
    def analysed(self) -> tuple[ImageSeries, ...]:
        """The planning series and the further ones."""
        chosen = self.chosen
        return (*(() if chosen.planning is None else (chosen.planning,)), *chosen.others)

    @cached_property
    def places(self) -> Mapping[str, Place]:
        """Where each object lies, by SOP Instance UID."""
        return places_of(self.inventory)

    @cached_property
    def inventory_to_show(self) -> CourseInventory:
        """The inventory with another label for each plan whose own holds anything of the patient's identity.

        Raises:
            As `content`.
        """
        known = self._identities()
        plans = []
        for number, plan in enumerate(self.inventory.plans, start=1):
            typed = [text for text in (plan.found.label, plan.found.name) if text]
            # Of a patient of whom nothing is known, nobody can say that a text does not name him.
            if not known or any(one.named_in(text) for one in known for text in typed):
                found = plan.found.model_copy(update={"label": f"plan {number}", "name": None})
                plan = plan.model_copy(update={"found": found})
            plans.append(plan)
        return self.inventory.model_copy(update={"plans": tuple(plans)})

    def _identities(self) -> set[Identity]:
        """What the patient is known by, in each plan and an image of each series."""
        uids = [one.found.sop_instance_uid for one in self.inventory.plans]
        uids += [one.images[0].sop_instance_uid for one in self.inventory.image_series if one.images]
        known = set[Identity]()
        for uid in uids:
            if self.contents[uid].startswith(UNREADABLE):
                continue
            content = self.content(uid)
            try:
                with decoding():
                    known.add(identity_of(read_dicom(content, only=PATIENT)))
            except DicomError:
                continue
        return known - {UNKNOWN}

    def content(self, uid: str) -> bytes:
        """The file of one object.

        Raises:
            InputError: It is not what it was when the course was organised.
            InputsAwayError: The whole tree is away.
        """
        try:
            found = _read(self.root, self.places[uid], self.key)
        except DicomError as error:
            # Not a fault of its content, of which a result may say that it cannot be used.
            raise InputError(f"a file of the course {error.message}", where=Where(case=self.key)) from None
        if hashlib.sha256(found).hexdigest() != self.contents[uid]:
            raise InputError("a file has changed since the course was organised", where=Where(case=self.key))
        return found

    def images(self, series: ImageSeries) -> Iterator[bytes]:
        """The files of a series, one at a time."""
        for image in series.images:
            yield self.content(image.sop_instance_uid)

    def digests(self, uids: Iterable[str]) -> list[str]:
        """SHA-256 of some objects, sorted: what a result that is made of them depends on."""
        return sorted(self.contents[uid] for uid in uids)

    def digests_of(self, series: ImageSeries) -> list[str]:
        """SHA-256 of the images of a series, sorted."""
        return self.digests(image.sop_instance_uid for image in series.images)


def places_of(inventory: CourseInventory) -> dict[str, Place]:
    """Where each object of a course lies, by SOP Instance UID."""
    found = {image.sop_instance_uid: image.place for one in inventory.image_series for image in one.images}
    for structure_set in inventory.structure_sets:
        found[structure_set.found.sop_instance_uid] = structure_set.place
    for plan in inventory.plans:
        found[plan.found.sop_instance_uid] = plan.place
    for dose in inventory.doses:
        found[dose.found.sop_instance_uid] = dose.place
    for registration in inventory.registrations:
        found[registration.found.sop_instance_uid] = registration.place
    return found


def _read(root: Path, place: Place, course: str) -> bytes:
    try:
        return bytes_at(root, place)
    except FileNotFoundError:
        # An empty one is what an unmounted share looks like.
        if not root.is_dir() or not any(root.iterdir()):
            raise InputsAwayError("the tree of DICOM files is away", where=Where(case=course)) from None
        raise InputError("a file of the course is gone from the tree", where=Where(case=course)) from None


def series_pseudonym(pseudonyms: Pseudonyms, course: CourseAtWork, series: ImageSeries) -> str:
    """By what a series of a course is known in everything that is made of it.

    It is made of the Series Instance UID; where images of one UID lie in several Frames of Reference, which
    are then several series of the course, of the UID of the Frame of Reference as well.
    """
    uid, frame = series.series_uid or "", series.frame_of_reference_uid or ""
    same = sum(one.series_uid == series.series_uid for one in course.analysed)
    return pseudonyms.series(uid, frame) if same > 1 else pseudonyms.series(uid)


def dicom_root(site: Site) -> Path:
    """The tree of DICOM files of a site.

    Raises:
        ConfigurationError: The settings name none.
    """
    root = site.settings.radiotherapy.dicom_root
    if root is None:
        raise ConfigurationError("radiotherapy.dicom_root names no tree of DICOM files")
    return root


def open_index(site: Site) -> DicomIndex:
    """The index of the site's tree."""
    path = site.settings.paths.state / INDEX_FILE
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return DicomIndex(path, dicom_root(site))


def keyed_courses(site: Site, group: Group) -> dict[str, CourseInventory]:
    """The courses of one patient by their keys; a new one is given the patient's next number for good.

    Where days separate courses, a course is recognised by any plan that it shares with what is known. Without
    days, and without plans, it is recognised by its Frame of Reference.

    Raises:
        InputError: Courses that are known have become one, or a known one has become several.
    """
    if group.patient is None:
        return {}
    name = site.pseudonyms.patient(group.patient.patient_id, group.patient.issuer)
    known = site.ledger.fractions.known_of(name)
    in_frame = Counter(course.frame_of_reference_uid for course in group.courses)
    found: dict[str, CourseInventory] = {}
    for course in sorted(group.courses, key=_first_day):
        own = identities(course, group.patient, site.pseudonyms.keyed)
        by_frame = site.settings.radiotherapy.max_days is None or not own.plans
        numbers = {known[one] for one in own.plans if one in known}
        if own.frame in known:
            # A number that plans have is theirs, and not that of another course in their frame.
            unclaimed = not numbers and list(known.values()).count(known[own.frame]) == 1
            numbers |= {known[own.frame]} if by_frame or unclaimed else set()
            by_frame |= unclaimed
        elif in_frame[course.frame_of_reference_uid] == 1:
            by_frame = True
        if len(numbers) > 1:
            raise InputError(
                f"what is known as the courses {_several(numbers)} has become one: choose"
                " radiotherapy.max_days so that they stay apart, or take the plans that join them out of the"
                " tree",
                where=Where(case=course_key(name, min(numbers))),
            )
        wanted = [own.frame] if by_frame else []
        if site.settings.radiotherapy.max_days is not None:
            wanted += own.plans
        elif own.frame not in known:
            wanted += [one for one in own.plans if one in known]
        number = site.ledger.fractions.number(name, wanted)
        known |= dict.fromkeys(wanted, number)
        key = course_key(name, number)
        if key in found:
            raise InputError(
                "its plans have become several courses: set radiotherapy.max_days as it was, or put back the"
                " plans that joined them",
                where=Where(case=key),
            )
        found[key] = course
    return found


def _first_day(course: CourseInventory) -> tuple[str, date, str]:
    days = [day for one in course.plans if (day := one.found.plan_date) is not None]
    return course.frame_of_reference_uid, min(days, default=date.max), course.identity


def _several(numbers: Iterable[int]) -> str:
    return " and ".join(f"c{number:02d}" for number in sorted(numbers))


def arrival_of(site: Site, key: str, inventory: CourseInventory) -> tuple[str, str]:
    """By what a course is known in the ledger, and what changes there with anything in its inventory."""
    keyed = site.pseudonyms.keyed
    return keyed("course arrival", key), keyed("course inventory", inventory.fingerprint)


def find_course(site: Site, key: str) -> CourseInventory:
    """A course as the index has it now.

    Raises:
        InputError: The tree does not hold it.
    """
    stem, max_days = COURSE.key(key).stem, site.settings.radiotherapy.max_days
    with closing(open_index(site)) as index:
        for patient in index.patients():
            if site.pseudonyms.patient(patient.patient_id, patient.issuer) == stem:
                group = group_patient(patient, index.objects(patient), site.pseudonyms.keyed, max_days)
                found = keyed_courses(site, group).get(key)
                if found is not None:
                    return found
    raise InputError("the tree holds no such course (any more): organise it again", where=Where(case=key))


def read_once(root: Path, inventory: CourseInventory, course: str) -> tuple[dict[str, str], CourseFacts]:
    """SHA-256 of every object of a course by SOP Instance UID, and the facts of all; each file is read once.

    An object that cannot be read is a fact; `UNREADABLE` and the SHA-256 of its file stand in its place.

    Raises:
        InputError: A file is gone.
        InputsAwayError: The whole tree is away.
    """
    contents, reader = dict[str, str](), FactsReader(inventory)
    unreadable = cache(partial(_unreadable, root))
    for uid, place in sorted(places_of(inventory).items()):
        try:
            content = _read(root, place, course)
        except DicomError as error:
            contents[uid] = unreadable(place.path)
            reader.take_unreadable(uid, error.message)
        else:
            contents[uid] = hashlib.sha256(content).hexdigest()
            reader.take(uid, content)
    return contents, reader.facts()


def _unreadable(root: Path, path: str) -> str:
    """What stands in place of the SHA-256 of an object in a file, or an archive, that is damaged."""
    try:
        with file_at(root, path).open("rb") as stream:
            return f"{UNREADABLE} {hashlib.file_digest(stream, 'sha256').hexdigest()}"
    except OSError:
        return UNREADABLE


def write_contents(contents: Mapping[str, str], path: Path) -> None:
    """Write the digests of a course's objects."""
    path.write_text(json.dumps(contents, indent=0, sort_keys=True), encoding="ascii")


def load_course(instance: dg.DagsterInstance, store: Store, site: Site, key: str) -> CourseAtWork:
    """A course by its latest inventory.

    Raises:
        StoreError: It was not organised yet, or its inventory is damaged.
    """
    return course_in(resolve(instance, store, INVENTORY, key), site, key)


def course_in(published: Published, site: Site, key: str) -> CourseAtWork:
    """A course by a published inventory.

    Raises:
        StoreError: It is damaged.
    """
    try:
        contents = json.loads(published.path(CONTENTS_FILE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        raise StoreError("the digests of the course's files cannot be read", where=Where(case=key)) from None
    inventory = read_inventory(published.path(INVENTORY_FILE))
    return CourseAtWork(key, published.digest, inventory, contents, dicom_root(site))
