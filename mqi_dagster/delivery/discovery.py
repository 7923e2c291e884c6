"""Which case folders stand in the inbox, and which of them can be taken.

A *delivery folder* is one that the machine wrote: it holds PlanInfo, PlanRange, records or machine plans.
A *case folder* is the parent of delivery folders. Both layouts are this one rule: the machine's
(`<study>/<16 digits>/`) and the simple one (`<case>/<beam folder>/`), also below group and patient folders,
which hold case folders and are never cases themselves. A folder with an RT Ion Plan and without deliveries
is a case that still waits for them. An arrival without a plan, or with several, is an arrival all the same:
its validation fails in sight.

Readiness says only that nobody writes any more (behaviours 1, 7). Whether the contents are complete is for
the validation to find, as a visible failure that a later change of the files starts anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from mqi_dagster.delivery.case_files import case_files
from mqi_dagster.delivery.inbox_tree import SeenFile, SeenFolder, fingerprint, see_folder
from mqi_dagster.delivery.machine_files import is_machine_file
from mqi_dagster.delivery.plan_info import machine_time
from mqi_dagster.dicom.kinds import DicomKind, dicom_kind
from mqi_dagster.errors import ConfigurationError, DeliveryError
from mqi_dagster.settings import Intake, Ready

DEFAULT_MARKER = Intake.model_validate({}).marker


@dataclass(frozen=True, slots=True)
class Arrival:
    """A case folder as it stands in the inbox."""

    relative: str
    """Path below the inbox. May hold identifiers: only ever shown through a keyed hash."""
    folder: Path
    plans: tuple[Path, ...]
    """RT Ion Plans in the case folder; where there is none, the DICOM files there that cannot be read."""
    delivery_folders: tuple[Path, ...]
    ct_files: tuple[Path, ...]
    stray_files: tuple[Path, ...]
    """Machine files in the case folder itself, outside any delivery folder."""
    unreadable_files: tuple[Path, ...]
    """Files that should be DICOM objects, for example images, and cannot be read."""
    unused_files: tuple[Path, ...]
    """Whatever else lies in the case folder."""
    ready: bool
    reason: str
    """Why it waits, without paths; empty where it is ready."""
    next_check: datetime | None
    """When waiting for quiet files will be over if nothing changes, UTC."""
    fingerprint: str
    """Changes with every change of names, sizes or times below the case folder."""


@dataclass(frozen=True, slots=True)
class _Found:
    node: SeenFolder
    plans: tuple[SeenFile, ...]
    deliveries: tuple[SeenFolder, ...]
    holds_cases: bool
    """Whether other case folders stand below this one."""


def find_arrivals(inbox: Path, intake: Intake, now: datetime) -> list[Arrival]:
    """Every arrival in the inbox, ready or not, in the order of names.

    Args:
        inbox: The inbox; only read.
        intake: The site's rule of readiness.
        now: The present time, with a zone.

    Raises:
        ConfigurationError: The inbox is not there or cannot be listed.
    """
    root = inbox.resolve()
    tree = see_folder(root, root)
    if tree.unreadable:
        raise ConfigurationError(f"the inbox cannot be read: {tree.unreadable}")
    arrivals = [_waiting(root, tree, found, intake, now) for found in _cases(tree)]
    return sorted(arrivals + _refused(root, tree, arrivals), key=lambda arrival: arrival.relative)


def arrival_of(folder: Path, marker: str = DEFAULT_MARKER) -> Arrival:
    """The arrival of a folder given by hand: the case folder itself, or the only one below it.

    It counts as ready: who names a folder says that it is finished.

    Args:
        folder: The folder.
        marker: Name of the site's marker file, which is no part of the case.

    Raises:
        DeliveryError: There is no such folder, no case in it, more than one, or a link leads out of it.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise DeliveryError("the folder is not there")
    tree = see_folder(root, root)
    if tree.unreadable:
        raise DeliveryError(f"the folder cannot be read: {tree.unreadable}")
    cases = _cases(tree)
    if not cases:
        raise DeliveryError("the folder holds no case: no delivery folder (PlanInfo.txt) and no RT Ion Plan")
    if len(cases) > 1:
        raise DeliveryError(f"the folder holds {len(cases)} cases; name one of them")
    blocked = _blocked(cases[0])
    if blocked:
        raise DeliveryError(blocked)
    return _arrival(root, cases[0], "", None, marker)


def _looks_delivered(node: SeenFolder) -> bool:
    if any(is_machine_file(file.path.name) for file in node.files):
        return True
    # A delivery that lost all its files still has its name.
    return not node.folders and machine_time(node.path.name, ZoneInfo("UTC")) is not None


def _is_delivery(node: SeenFolder) -> bool:
    # A machine file that strayed into a patient folder does not make that folder a delivery.
    return _looks_delivered(node) and not any(
        _looks_delivered(below) for folder in node.folders for below in folder.walk()
    )


def _of_kind(node: SeenFolder, *kinds: DicomKind) -> tuple[SeenFile, ...]:
    return tuple(
        file
        for file in node.files
        if not is_machine_file(file.path.name) and dicom_kind(file.path, file.size, file.mtime_ns) in kinds
    )


def _cases(node: SeenFolder, parent_has_plan: bool = False) -> list[_Found]:
    ion_plans = _of_kind(node, DicomKind.ION_PLAN)
    deliveries = [
        folder
        for folder in node.folders
        if _is_delivery(folder) and (ion_plans or not _of_kind(folder, DicomKind.ION_PLAN))
    ]
    if ion_plans and not parent_has_plan and _is_delivery(node):
        deliveries.append(node)
    nested: list[_Found] = []
    for folder in node.folders:
        if folder not in deliveries:
            found = _cases(folder, parent_has_plan=bool(ion_plans))
            # A plan among the images of a case (an export of all objects) is no case of its own.
            nested += [case for case in found if case.deliveries or not (ion_plans or deliveries)]
    if not deliveries and (not ion_plans or nested):
        return nested
    plans = ion_plans or _of_kind(node, DicomKind.UNREADABLE)
    return [_Found(node, plans, tuple(deliveries), bool(nested)), *nested]


def _blocked(found: _Found) -> str:
    """Why an arrival cannot be taken however long one waits; empty where nothing is in the way."""
    folders = list(found.node.walk())
    if any(folder.refused_links for folder in folders):
        return "a link in it leads out of the inbox or nowhere"
    unreadable = [folder.unreadable for folder in folders if folder.unreadable]
    if unreadable:
        return f"a folder in it cannot be read: {unreadable[0]}"
    if found.holds_cases and not found.plans:
        return "deliveries stand beside case folders, outside any of them"
    if not found.deliveries:
        return "no delivery folder is there yet"
    return ""


def _waiting(root: Path, tree: SeenFolder, found: _Found, intake: Intake, now: datetime) -> Arrival:
    if found.node is tree:
        reason = "deliveries or plans stand in the inbox itself, not in a case folder"
        return _arrival(root, found, reason, None, intake.marker)
    blocked = _blocked(found)
    if blocked:
        return _arrival(root, found, blocked, None, intake.marker)
    if intake.ready is Ready.MARKER:
        reason = "" if _is_marked(root, found.node.path, intake.marker) else f"no marker file {intake.marker}"
        return _arrival(root, found, reason, None, intake.marker, marked=True)
    changed = datetime.fromtimestamp(found.node.newest_ns() / 1e9, UTC)
    quiet = timedelta(seconds=intake.stable_seconds)
    if not quiet or now - changed >= quiet:
        return _arrival(root, found, "", None, intake.marker)
    reason = f"files changed within the last {math.ceil(intake.stable_seconds)} s"
    if changed - now > timedelta(seconds=1):
        reason = "the time of a file lies in the future"
    return _arrival(root, found, reason, changed + quiet, intake.marker)


def _is_marked(root: Path, case_folder: Path, marker: str) -> bool:
    if (case_folder / marker).is_file():
        return True
    # The patient folder may carry the marker; the inbox itself may not, it would release everything.
    return case_folder.parent != root and (case_folder.parent / marker).is_file()


def _arrival(
    root: Path,
    found: _Found,
    reason: str,
    next_check: datetime | None,
    marker: str,
    *,
    marked: bool = False,
) -> Arrival:
    node = found.node
    files = case_files(
        SeenFolder(node.path, node.mtime_ns, [file for file in node.files if file.path.name != marker]),
        found.deliveries,
        [
            folder
            for folder in node.folders
            if folder not in found.deliveries and not any(_is_delivery(below) for below in folder.walk())
        ],
        {file.path for file in found.plans},
    )
    strayed = [] if node in found.deliveries else node.files
    stray = tuple(file.path for file in strayed if is_machine_file(file.path.name))
    # The marker counts where it is a file like any other.
    kept = [file for file in node.files if not (marked and file.path.name == marker)]
    counted = SeenFolder(node.path, node.mtime_ns, kept, node.folders)
    return Arrival(
        relative=node.path.relative_to(root).as_posix(),
        folder=node.path,
        plans=tuple(file.path for file in found.plans),
        delivery_folders=tuple(folder.path for folder in found.deliveries),
        ct_files=files.images,
        stray_files=stray,
        unreadable_files=files.unreadable,
        unused_files=files.unused,
        ready=not reason,
        reason=reason,
        next_check=next_check,
        fingerprint=fingerprint(node.path, [counted]),
    )


def _refused(root: Path, tree: SeenFolder, arrivals: list[Arrival]) -> list[Arrival]:
    """Links and locked folders outside every case, so that they are seen as well."""
    known = [arrival.folder for arrival in arrivals if arrival.folder != root]
    refused = []
    for folder in tree.walk():
        faults = [(link, "is a link that leads out of the inbox or nowhere") for link in folder.refused_links]
        if folder.unreadable:
            faults.append((folder.path, f"cannot be read: {folder.unreadable}"))
        if not faults or any(folder.path.is_relative_to(case) for case in known):
            continue
        for path, reason in faults:
            empty = fingerprint(path, [])
            relative = path.relative_to(root).as_posix()
            refused.append(Arrival(relative, path, (), (), (), (), (), (), False, reason, None, empty))
    return refused
