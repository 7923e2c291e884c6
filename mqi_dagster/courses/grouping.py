"""From indexed objects to treatment courses: by referenced UIDs first, then by Frame of Reference.

A course lies in one Frame of Reference of one patient: that of its structure sets' images, else of what its
plans and doses state. Objects are joined by what they name and never by names of files, order or likeness;
what cannot be joined is set aside with its reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TypeVar

from mqi_dagster.courses.dicom_index import Copies, DicomIndex, IndexedObject, PatientKey
from mqi_dagster.courses.dose_rules import decide_doses, prescription
from mqi_dagster.courses.inventory import (
    WORDS,
    CourseInventory,
    Finding,
    FindingCode,
    ImageFile,
    ImageSeries,
    Linked,
    LinkedBy,
    Reason,
    SetAside,
)
from mqi_dagster.courses.objects import (
    DicomObject,
    Dose,
    Image,
    Other,
    Part,
    Patient,
    Plan,
    Registration,
    StructureSet,
)

Keyed = Callable[..., str]
"""A keyed hash of texts (`Pseudonyms.keyed`): identities of courses say nothing about patients."""

_Object = TypeVar("_Object", bound=Part)
_COPY_REASONS = {Copies.EQUAL: Reason.EQUAL_COPY, Copies.DIFFERENT: Reason.DIFFERENT_COPIES}


@dataclass(frozen=True, slots=True)
class Group:
    """What the tree holds of one patient, or what in it is no patient's."""

    patient: PatientKey | None
    courses: tuple[CourseInventory, ...]
    """In the order of their identities."""
    set_aside: tuple[SetAside, ...]
    """What belongs to none of them."""


def groups(index: DicomIndex, keyed: Keyed, max_days: int | None = None) -> Iterator[Group]:
    """The courses of every patient of a tree, one patient at a time, and last what is no patient's.

    Args:
        index: Of the tree.
        keyed: The keyed hash for identities of courses.
        max_days: Plans of one Frame of Reference that are farther apart belong to different courses; None: to
            one, whatever their dates are.
    """
    for patient in index.patients():
        yield group_patient(patient, index.objects(patient), keyed, max_days)
    rest = [_set_aside(one, Reason.NO_PATIENT_ID) for one in index.objects(None)]
    rest += [
        SetAside(place=entry.place, reason=Reason(entry.kind.value), text=entry.reason)
        for entry in index.other_entries()
    ]
    yield Group(None, (), tuple(sorted(rest, key=lambda one: one.place)))


def group_patient(
    patient: PatientKey, objects: Sequence[IndexedObject], keyed: Keyed, max_days: int | None = None
) -> Group:
    """The courses of one patient.

    Args:
        patient: Whose they are.
        objects: All objects of the patient.
        keyed: As for `groups`.
        max_days: As for `groups`.
    """
    return _Grouping(patient, objects, keyed, max_days).group()


@dataclass(frozen=True, slots=True)
class Identities:
    """By what a course is recognised, as keyed hashes: the number that it was given stays with these."""

    frame: str
    """Of its Frame of Reference."""
    plans: tuple[str, ...]
    """Of its plans, in that Frame of Reference."""


def identities(course: CourseInventory, patient: PatientKey, keyed: Keyed) -> Identities:
    """By what a course is recognised."""
    known = "course", patient.patient_id, patient.issuer or "", course.frame_of_reference_uid
    plans = sorted(one.found.sop_instance_uid for one in course.plans)
    return Identities(keyed(*known), tuple(keyed(*known, plan) for plan in plans))


@dataclass(frozen=True, slots=True)
class _Anchor:
    """The Frame of Reference that an object belongs to; None where nothing tells it."""

    frame: str | None
    linked_by: LinkedBy = LinkedBy.FRAME_OF_REFERENCE
    reason: Reason = Reason.NO_FRAME_OF_REFERENCE


_Course = tuple[str, int]
"""A Frame of Reference, and which of the runs of plans in it: 0 unless days separate them."""
_Courses = dict[_Course, LinkedBy]
_Grouped = Plan | Dose | StructureSet | Other


class _Grouping:
    """The objects of one patient, and what they name."""

    def __init__(
        self, patient: PatientKey, objects: Sequence[IndexedObject], keyed: Keyed, max_days: int | None
    ) -> None:
        self._patient, self._keyed, self._max_days = patient, keyed, max_days
        self._objects = sorted(objects, key=lambda one: (one.found.sop_instance_uid, one.place))
        used = {one.found.sop_instance_uid: one.found for one in objects if one.copies not in _COPY_REASONS}
        self._plans = {uid: found for uid, found in used.items() if isinstance(found, Plan)}
        self._sets = {uid: found for uid, found in used.items() if isinstance(found, StructureSet)}
        self._images = {uid: found for uid, found in used.items() if isinstance(found, Image)}
        self._doses = [found for found in used.values() if isinstance(found, Dose)]
        self._registrations = [found for found in used.values() if isinstance(found, Registration)]
        self._differing = {o.found.sop_instance_uid for o in objects if o.copies is Copies.DIFFERENT}
        self._series_frames: dict[str | None, Counter[str]] = defaultdict(Counter)
        for image in self._images.values():
            if image.frame_of_reference_uid is not None:
                self._series_frames[image.series_uid][image.frame_of_reference_uid] += 1
        self._named_by_sets: dict[str, set[str]] = defaultdict(set)
        """Frames of Reference of the structure sets that name an image or series."""
        for one in self._sets.values():
            frame = _known([self._anchor_of_set(one).frame])
            for uid in (*one.image_uids, *one.series_uids):
                self._named_by_sets[uid] |= frame
        founding: tuple[_Grouped, ...] = (*self._plans.values(), *self._doses, *self._sets.values())
        self._runs = {
            frame: self._runs_of(frame) for frame in _known(self._anchor(f).frame for f in founding)
        }

    def group(self) -> Group:
        """The courses, and what belongs to none."""
        members: dict[_Course, list[tuple[IndexedObject, LinkedBy]]] = defaultdict(list)
        aside: dict[_Course, list[SetAside]] = defaultdict(list)
        homeless: list[SetAside] = []
        for one in self._objects:
            courses, reason = self._courses_of(one.found)
            copy = _COPY_REASONS.get(one.copies)
            for course, linked_by in courses.items():
                if copy is None:
                    members[course].append((one, linked_by))
                else:
                    aside[course].append(_set_aside(one, copy))
            if not courses:
                homeless.append(_set_aside(one, copy or reason))
        identity_findings = _identity_findings([one.patient for one in self._objects])
        made = [
            self._inventory(course, members[course], aside[course], identity_findings)
            for course in self._all_runs(self._runs)
        ]
        return Group(self._patient, tuple(sorted(made, key=lambda one: one.identity)), tuple(homeless))

    def _courses_of(self, found: DicomObject) -> tuple[_Courses, Reason]:
        """The courses that an object belongs to, and the reason where there is none."""
        if isinstance(found, Image):
            return self._courses_of_image(found)
        if isinstance(found, Registration):
            named = [frame for frame in found.frame_uids if frame in self._runs]
            return self._all_runs(named), Reason.NO_COURSE
        anchor = self._anchor(found)
        if anchor.frame is None:
            return {}, anchor.reason
        if anchor.frame not in self._runs:
            return {}, Reason.NO_COURSE
        runs = self._runs_with(found, self._runs[anchor.frame])
        return {(anchor.frame, run): anchor.linked_by for run in runs}, Reason.DAY_UNKNOWN

    def _courses_of_image(self, image: Image) -> tuple[_Courses, Reason]:
        """By the structure sets that name it or its series, by its Frame of Reference, by a registration."""
        own = image.frame_of_reference_uid
        courses = self._all_runs([own] if own in self._runs else [])
        named = self._named_by_sets.get(image.sop_instance_uid, set())
        named = named | self._named_by_sets.get(image.series_uid or "", set())
        courses |= self._all_runs(named, LinkedBy.REFERENCE)
        if not courses and own is not None:
            for registration in self._registrations:
                if own in registration.frame_uids:
                    frames = [frame for frame in registration.frame_uids if frame in self._runs]
                    courses |= self._all_runs(frames, LinkedBy.REGISTRATION)
        return courses, Reason.NO_FRAME_OF_REFERENCE if own is None else Reason.NO_COURSE

    def _all_runs(
        self, frames: Iterable[str | None], linked_by: LinkedBy = LinkedBy.FRAME_OF_REFERENCE
    ) -> _Courses:
        known = (frame for frame in frames if frame is not None)
        return {(frame, run): linked_by for frame in known for run in range(len(self._runs[frame]))}

    def _anchor(self, found: _Grouped) -> _Anchor:
        """Where the objects are that it names; where none of them is there, what it states."""
        if isinstance(found, StructureSet):
            return self._anchor_of_set(found)
        own = found.frame_of_reference_uid
        named = self._frames_named_by(found)
        if len(named) == 1:
            return _Anchor(named.pop(), LinkedBy.REFERENCE)
        if named and own not in named:
            return _Anchor(None, reason=Reason.LINKS_CONTRADICT)
        return _Anchor(own, LinkedBy.REFERENCE if named else LinkedBy.FRAME_OF_REFERENCE)

    def _frames_named_by(self, found: Plan | Dose | Other) -> set[str]:
        without_frame = found.frame_of_reference_uid is None
        if isinstance(found, Plan):
            named = self._frames_of_sets(found.structure_set_uids)
            if not named and without_frame:
                doses = [dose for dose in self._doses if found.sop_instance_uid in dose.plan_uids]
                named = _known(dose.frame_of_reference_uid for dose in doses)
            return named
        plans = [self._plans[uid] for uid in found.plan_uids if uid in self._plans]
        named = _known(self._anchor(plan).frame for plan in plans)
        if not named and without_frame and isinstance(found, Dose):
            named = self._frames_of_sets(found.structure_set_uids)
        if not named and without_frame and isinstance(found, Other):
            named = {frame for uid in found.series_uids for frame in self._series_frames.get(uid, ())}
        return named

    def _frames_of_sets(self, uids: Iterable[str]) -> set[str]:
        return _known(self._anchor_of_set(self._sets[uid]).frame for uid in uids if uid in self._sets)

    def _anchor_of_set(self, found: StructureSet) -> _Anchor:
        """Where its images lie; where none is there, what it states. Of several, that of most regions."""
        regions = Counter(roi.frame_of_reference_uid for roi in found.rois)
        images = [self._images[uid] for uid in found.image_uids if uid in self._images]
        seen = Counter(f for image in images if (f := image.frame_of_reference_uid) is not None)
        if not seen:
            for uid in found.series_uids:
                seen += self._series_frames.get(uid, Counter())
        stated = _known([*regions, *(frame.uid for frame in found.frames), found.frame_of_reference_uid])
        choice = sorted(seen or stated, key=lambda frame: (-regions[frame], -seen[frame], frame))
        if not choice:
            return _Anchor(None)
        return _Anchor(choice[0], LinkedBy.REFERENCE if seen else LinkedBy.FRAME_OF_REFERENCE)

    def _runs_of(self, frame: str) -> list[list[Plan]]:
        """The plans of a Frame of Reference in runs of days; one run where days do not count."""
        plans = [plan for plan in self._plans.values() if self._anchor(plan).frame == frame]
        if self._max_days is None:
            return [plans]
        dated = sorted(
            (day, plan.sop_instance_uid, plan) for plan in plans if (day := plan.plan_date) is not None
        )
        runs: list[list[Plan]] = []
        for at, (day, _, plan) in enumerate(dated):
            if at == 0 or (day - dated[at - 1][0]).days > self._max_days:
                runs.append([])
            runs[-1].append(plan)
        return runs or [plans]

    def _runs_with(self, found: _Grouped, runs: Sequence[Sequence[Plan]]) -> list[int]:
        """The runs of plans that an object belongs to: by references, else by its day."""
        if len(runs) == 1 or self._max_days is None:
            return [0]
        uid = found.sop_instance_uid
        if isinstance(found, Plan):
            named, day = {uid}, found.plan_date
        elif isinstance(found, StructureSet):
            named = {plan.sop_instance_uid for plan in self._plans.values() if uid in plan.structure_set_uids}
            day = found.structure_set_date or found.study_date
        else:
            named, day = set(found.plan_uids), found.study_date
        by_reference = [
            run for run, plans in enumerate(runs) if any(plan.sop_instance_uid in named for plan in plans)
        ]
        if by_reference or day is None:
            return by_reference
        near = [
            run
            for run, plans in enumerate(runs)
            if min(_distance(plan.plan_date, day) for plan in plans) <= self._max_days
        ]
        return near if len(near) == 1 else []

    def _inventory(
        self,
        course: _Course,
        members: Sequence[tuple[IndexedObject, LinkedBy]],
        aside: Sequence[SetAside],
        identity_findings: Sequence[Finding],
    ) -> CourseInventory:
        (frame, run), patient = course, self._patient
        first = [] if run == 0 else [self._runs[frame][run][0].sop_instance_uid]
        plans, sets = _of(Plan, members), _of(StructureSet, members)
        doses = _of(Dose, members)
        images = [(one, linked_by) for one, linked_by in members if isinstance(one.found, Image)]
        linked: list[Plan | Dose | StructureSet] = [one.found for one in plans]
        linked += [one.found for one in doses]
        linked += [one.found for one in sets]
        findings = [finding for found in linked for finding in self._findings(found, frame)]
        with_dose = {uid for one in doses for uid in one.found.plan_uids}
        without = tuple(uid for one in plans if (uid := one.found.sop_instance_uid) not in with_dose)
        if without:
            text = f"{len(without)} of {len(plans)} plans have no dose here"
            findings.append(Finding(code=FindingCode.PLAN_WITHOUT_DOSE, text=text, uids=without))
        return CourseInventory(
            identity=self._keyed("course", patient.patient_id, patient.issuer or "", frame, *first),
            frame_of_reference_uid=frame,
            image_series=_series(images),
            structure_sets=sets,
            plans=plans,
            doses=doses,
            registrations=_of(Registration, members),
            others=_of(Other, members),
            prescriptions=tuple(prescription(one.found, [each.found for each in sets]) for one in plans),
            dose_decisions=decide_doses([one.found for one in plans], [one.found for one in doses]),
            findings=(*identity_findings, *findings),
            set_aside=tuple(aside),
        )

    def _findings(self, found: Plan | Dose | StructureSet, frame: str) -> Iterator[Finding]:
        uid, own = found.sop_instance_uid, found.frame_of_reference_uid
        if isinstance(found, StructureSet):
            yield from self._missing(uid, "image", found.image_uids, self._images, FindingCode.IMAGES_MISSING)
            stated = _known(
                [*(one.uid for one in found.frames), *(roi.frame_of_reference_uid for roi in found.rois)]
            )
            if stated and stated != {frame}:
                text = "a structure set has regions or images in another Frame of Reference than the course"
                yield Finding(code=FindingCode.FRAME_OF_REFERENCE_DIFFERS, text=text, uids=(uid,))
        elif own is not None and own != frame:
            text = f"a {found.role} states another Frame of Reference than the objects that it names"
            yield Finding(code=FindingCode.FRAME_OF_REFERENCE_DIFFERS, text=text, uids=(uid,))
        unresolved = FindingCode.REFERENCE_UNRESOLVED
        if isinstance(found, Plan):
            yield from self._missing(uid, "structure set", found.structure_set_uids, self._sets, unresolved)
        if isinstance(found, Dose):
            yield from self._missing(uid, "plan", found.plan_uids, self._plans, unresolved)

    def _missing(
        self, uid: str, what: str, named: Sequence[str], there: Container[str], code: FindingCode
    ) -> Iterator[Finding]:
        absent = sorted({one for one in named if one not in there})
        differing = [one for one in absent if one in self._differing]
        if differing:
            text = (
                f"{len(differing)} of {len(set(named))} {what}s that it names are there in copies that differ"
            )
            yield Finding(code=FindingCode.COPIES_DIFFER, text=text, uids=(uid, *differing))
        if len(absent) > len(differing):
            missing = [one for one in absent if one not in self._differing]
            text = f"{len(missing)} of {len(set(named))} {what}s that it names are not in the tree"
            yield Finding(code=code, text=text, uids=(uid, *missing))


def _of(
    kind: type[_Object], members: Sequence[tuple[IndexedObject, LinkedBy]]
) -> tuple[Linked[_Object], ...]:
    return tuple(
        Linked[kind](  # type: ignore[valid-type]
            place=one.place, size=one.size, stamp=one.stamp, linked_by=linked_by, found=one.found
        )
        for one, linked_by in members
        if isinstance(one.found, kind)
    )


def _series(images: Sequence[tuple[IndexedObject, LinkedBy]]) -> tuple[ImageSeries, ...]:
    found: dict[tuple[str, str], list[tuple[IndexedObject, LinkedBy]]] = defaultdict(list)
    for one, linked_by in images:
        found[one.found.series_uid or "", one.found.frame_of_reference_uid or ""].append((one, linked_by))
    series = []
    for _, members in sorted(found.items()):
        image = members[0][0].found
        assert isinstance(image, Image)
        links = {linked_by for _, linked_by in members}
        series.append(
            ImageSeries(
                series_uid=image.series_uid,
                study_uid=image.study_uid,
                modality=image.modality,
                description=image.series_description,
                frame_of_reference_uid=image.frame_of_reference_uid,
                linked_by=next(one for one in LinkedBy if one in links),
                images=tuple(
                    ImageFile(
                        sop_instance_uid=one.found.sop_instance_uid,
                        place=one.place,
                        size=one.size,
                        stamp=one.stamp,
                    )
                    for one, _ in members
                ),
            )
        )
    return tuple(series)


def _identity_findings(patients: Sequence[Patient]) -> list[Finding]:
    """Without numbers of objects, which files of another course would change."""
    findings = []
    for values, what, code in (
        (_known(one.compared_name for one in patients), "names", FindingCode.PATIENT_NAME_DIFFERS),
        (_known(one.birth_date for one in patients), "birth dates", FindingCode.BIRTH_DATE_DIFFERS),
    ):
        if len(values) > 1:
            text = f"the objects of this patient ID bear {len(values)} different {what}"
            findings.append(Finding(code=code, text=text))
    if len({one.issuer is None for one in patients}) > 1:
        text = "some objects of this patient ID do not name its issuer"
        findings.append(Finding(code=FindingCode.ISSUER_ABSENT, text=text))
    return findings


def _set_aside(one: IndexedObject, reason: Reason) -> SetAside:
    return SetAside(
        place=one.place,
        reason=reason,
        text=WORDS[reason],
        role=one.found.role,
        sop_instance_uid=one.found.sop_instance_uid,
    )


def _distance(one: date | None, other: date) -> int:
    return 0 if one is None else abs((one - other).days)


def _known(values: Iterable[str | None]) -> set[str]:
    return {value for value in values if value is not None}
