"""Which case folders stand in the inbox, and which of them can be taken.

A *delivery folder* is one that the machine wrote: it holds PlanInfo, PlanRange, records or machine plans.
A *case folder* is the parent of delivery folders. Both layouts are this one rule: the machine's
(`<study>/<16 digits>/`) and the simple one (`<case>/<beam folder>/`), also below group and patient folders,
which hold case folders and are never cases themselves. A folder with an RT Ion Plan and without deliveries
is a case that still waits for them. An arrival without a plan, or with several, is an arrival all the same:
its validation fails in sight.

Readiness says only that nobody writes any more (docs/formats.md 12). Whether the contents are complete is for
the validation to find, as a visible failure that a later change of the files starts anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar
from zoneinfo import ZoneInfo

from mqi_dagster.delivery.case_files import case_files
from mqi_dagster.delivery.inbox_tree import Memo, SeenFile, SeenFolder, fingerprint, see_folder
from mqi_dagster.delivery.machine_files import (
    MACHINE_PLAN_SUFFIX,
    PLAN_INFO,
    RECORD_SUFFIX,
    is_machine_file,
)
from mqi_dagster.delivery.plan_info import machine_time
from mqi_dagster.dicom.kinds import DicomKind, read_kind
from mqi_dagster.errors import ConfigurationError, DeliveryError
from mqi_dagster.settings import Intake, Ready

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS = tuple(DicomKind)
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class CaseFolder:
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
    archives: tuple[Path, ...] = ()
    """Archives that may hold the images of a case that has none."""


@dataclass(frozen=True, slots=True)
class ArrivalStatus:
    """How an arrival stands, without its files: of most of them nobody asks for these."""

    relative: str
    folder: str
    ready: bool
    reason: str
    next_check: datetime | None
    fingerprint: str
    deliveries: int
    """How many delivery folders it has."""
    arrival: Callable[[], CaseFolder]
    """The same with its files."""


class _Found(Memo):
    """A case folder; the same object until something below it changes."""

    def __init__(
        self,
        node: SeenFolder,
        plans: tuple[SeenFile, ...],
        deliveries: tuple[SeenFolder, ...],
        holds_cases: bool,
    ) -> None:
        super().__init__()
        self.node, self.plans, self.deliveries = node, plans, deliveries
        self.holds_cases = holds_cases
        """Whether other case folders stand below this one."""


def find_arrivals(inbox: Path, intake: Intake, now: datetime) -> list[CaseFolder]:
    """Every arrival in the inbox, ready or not, in the order of names.

    Args:
        inbox: The inbox; only read.
        intake: The site's rule of readiness.
        now: The present time, with a zone.

    Raises:
        ConfigurationError: The inbox is not there or cannot be listed.
    """
    root = inbox.resolve()
    tree = see_folder(root, root, intake.max_folder_depth)
    return [status.arrival() for status in arrival_statuses(root, tree, intake, now)]


def arrival_statuses(root: Path, tree: SeenFolder, intake: Intake, now: datetime) -> list[ArrivalStatus]:
    """How every arrival stands, in the order of names.

    Nothing of one entry decides about another: what breaks on an entry is its reason to wait.

    Args:
        root: The resolved inbox.
        tree: What was seen of it. Entries of which a part has not been looked at yet are left out.
        intake: The site's rule of readiness and its limits.
        now: The present time, with a zone.

    Raises:
        ConfigurationError: The inbox is not there or cannot be listed.
    """
    if tree.unreadable:
        raise ConfigurationError(f"the inbox cannot be read: {tree.unreadable}")
    found = [_status(root, tree, case, intake, now) for case in _cases(tree)]
    return sorted(found + _refused(root, tree, found), key=lambda status: status.relative)


def arrival_of(folder: Path, intake: Intake | None = None) -> CaseFolder:
    """The arrival of a folder given by hand: the case folder itself, or the only one below it.

    It counts as ready: who names a folder says that it is finished.

    Args:
        folder: The folder.
        intake: The site's limits, and the name of its marker, which is no part of the case; the product's own
            where None.

    Raises:
        DeliveryError: There is no such folder, no case in it, more than one, a link leads out of it, or
            a limit is exceeded.
    """
    root = folder.resolve()
    limits = intake or Intake.model_validate({})
    if not root.is_dir():
        raise DeliveryError("the folder is not there")
    tree = see_folder(root, root, limits.max_folder_depth)
    if tree.unreadable:
        raise DeliveryError(f"the folder cannot be read: {tree.unreadable}")
    cases = _cases(tree)
    if not cases:
        for _, reason in _faults(tree):
            raise DeliveryError(f"a folder in it {reason}")
        raise DeliveryError("the folder holds no case: no delivery folder (PlanInfo.txt) and no RT Ion Plan")
    if len(cases) > 1:
        raise DeliveryError(f"the folder holds {len(cases)} cases; name one of them")
    blocked = _blocked(cases[0], limits)
    if blocked:
        raise DeliveryError(blocked)
    return _arrival(root, cases[0], limits, "", None)


def case_at(folder: Path, root: Path, intake: Intake, now: datetime) -> CaseFolder | None:
    """The arrival of one case folder of the inbox, looked at without the rest of the inbox.

    Args:
        folder: The case folder.
        root: The resolved inbox.
        intake: The site's rule of readiness and its limits.
        now: The present time, with a zone.

    Returns:
        None where it is no case folder.
    """
    above = SeenFolder(str(folder.parent))
    node = see_folder(folder, root, intake.max_folder_depth)
    node.parent = above
    for case in _cases(node):
        if case.node is node:
            return _status(root, above, case, intake, now).arrival()
    return None


def _looks_delivered(node: SeenFolder) -> bool:
    # A delivery that lost all its files still has its name.
    return any(map(is_machine_file, node.file_names)) or (
        not node.folders and machine_time(node.name, ZoneInfo("UTC")) is not None
    )


def _holds_delivered(node: SeenFolder) -> bool:
    """Whether it, or any folder below, looks delivered."""
    return node.derived_below.once(
        "delivered", lambda: _looks_delivered(node) or any(map(_holds_delivered, node.folders))
    )


def _is_delivery(node: SeenFolder) -> bool:
    # A machine file that strayed into a patient folder does not make that folder a delivery.
    return node.derived_below.once(
        "delivery", lambda: _looks_delivered(node) and not any(map(_holds_delivered, node.folders))
    )


def _kinds(node: SeenFolder) -> bytes:
    """For each file its place among the kinds; one behind them for the machine's own files."""
    return bytes(
        len(_KINDS) if is_machine_file(file.path.name) else _KINDS.index(_kind(node, file))
        for file in node.files
    )


def _kind(node: SeenFolder, file: SeenFile) -> DicomKind:
    try:
        return read_kind(str(file.path), file.size, file.mtime_ns)
    except OSError:
        node.troubled = True
        return DicomKind.UNREADABLE


def _of_kind(node: SeenFolder, *kinds: DicomKind) -> tuple[SeenFile, ...]:
    codes = node.derived.once("kinds", lambda: _kinds(node))
    wanted = [_KINDS.index(kind) for kind in kinds]
    if not any(code in codes for code in wanted):
        return ()
    return tuple(file for file, code in zip(node.files, codes, strict=True) if code in wanted)


def _guarded(node: SeenFolder, read: Callable[[], _Answer], otherwise: _Answer) -> _Answer:
    try:
        return read()
    except Exception as error:  # noqa: BLE001 - whatever breaks on one entry must stop no other
        reason = error.strerror if isinstance(error, OSError) else None
        node.unreadable = reason or f"our code breaks on it ({type(error).__name__})"
        return otherwise


def _cases(node: SeenFolder, parent_has_plan: bool = False) -> list[_Found]:
    name = "cases below a plan" if parent_has_plan else "cases"
    return node.derived_below.once(name, lambda: _cases_anew(node, parent_has_plan))


def _cases_anew(node: SeenFolder, parent_has_plan: bool) -> list[_Found]:
    ion_plans = bool(_of_kind(node, DicomKind.ION_PLAN))
    deliveries: list[SeenFolder] = []
    nested: list[_Found] = []
    for folder in node.folders:
        nothing: list[_Found] | None = []
        found = _guarded(folder, partial(_cases_unless_delivery, folder, ion_plans), nothing)
        if found is None:
            deliveries.append(folder)
        else:
            nested += found
    if ion_plans and not parent_has_plan and _is_delivery(node):
        deliveries.append(node)
    # A plan among the images of a case (an export of all objects) is no case of its own.
    nested = [case for case in nested if case.deliveries or not (ion_plans or deliveries)]
    if not deliveries and (not ion_plans or nested):
        return nested
    plans = _of_kind(node, DicomKind.ION_PLAN if ion_plans else DicomKind.UNREADABLE)
    return [_Found(node, plans, tuple(deliveries), bool(nested)), *nested]


def _cases_unless_delivery(folder: SeenFolder, parent_has_plan: bool) -> list[_Found] | None:
    """The cases below a folder; None where it is a delivery of the folder above."""
    if folder.depth == 1 and not _is_whole(folder):
        return []
    if _is_delivery(folder) and (parent_has_plan or not _of_kind(folder, DicomKind.ION_PLAN)):
        return None
    return _cases(folder, parent_has_plan)


def _is_whole(node: SeenFolder) -> bool:
    """Whether every folder of it has been looked at."""
    return node.derived_below.once(
        "whole", lambda: node.listed_at is not None and all(map(_is_whole, node.folders))
    )


def _blocked(found: _Found, limits: Intake) -> str:
    """Why an arrival cannot be taken however long one waits; empty where nothing is in the way."""
    return found.once("blocked", lambda: _blocked_anew(found, limits))


def _blocked_anew(found: _Found, limits: Intake) -> str:
    folders = list(found.node.walk())
    if any(folder.refused_links for folder in folders):
        return "a link in it leads out of the inbox or nowhere"
    unreadable = [folder.unreadable for folder in folders if folder.unreadable]
    if unreadable:
        return f"a folder in it cannot be read: {unreadable[0]}"
    if not all(map(_has_readable_names, folders)):
        return "the name of a file or folder in it is not UTF-8: rename it"
    largest = limits.max_record_mb * 1_000_000
    for folder in folders:
        for file in folder.files if folder.largest > largest else ():
            if file.size > largest and is_machine_file(file.path.name):
                role = _role(file.path.name)
                return (
                    f"{role} in it has {file.size:,} bytes, more than {limits.max_record_mb:,} MB"
                    " (intake.max_record_mb)"
                )
    if found.holds_cases and not found.plans:
        return "deliveries stand beside case folders, outside any of them"
    if not found.deliveries:
        return "no delivery folder is there yet"
    return ""


def _role(name: str) -> str:
    """What a file of the machine is, with its article."""
    lower = name.lower()
    kinds = {RECORD_SUFFIX: "a record", MACHINE_PLAN_SUFFIX: "a machine plan"}
    return kinds.get(lower[-4:], "a PlanInfo" if lower == PLAN_INFO.lower() else "a PlanRange")


def _has_readable_names(folder: SeenFolder) -> bool:
    try:
        folder.location.encode("utf-8")
        folder.listing.decode("utf-8")
    except UnicodeError:
        return False
    return True


def _status(root: Path, tree: SeenFolder, found: _Found, intake: Intake, now: datetime) -> ArrivalStatus:
    try:
        return _waiting(root, tree, found, intake, now)
    except Exception as error:  # noqa: BLE001 - whatever breaks on one entry must stop no other
        reason = f"our code breaks on it ({type(error).__name__})"
        return _refusal(root, found.node.path, reason)


def _waiting(root: Path, tree: SeenFolder, found: _Found, intake: Intake, now: datetime) -> ArrivalStatus:
    def status(reason: str, next_check: datetime | None = None) -> ArrivalStatus:
        return ArrivalStatus(
            relative=found.once("relative", lambda: found.node.path.relative_to(root).as_posix()),
            folder=found.node.location,
            ready=not reason,
            reason=reason,
            next_check=next_check,
            fingerprint=_fingerprint(found, intake),
            deliveries=len(found.deliveries),
            arrival=partial(_arrival, root, found, intake, reason, next_check),
        )

    if found.node is tree:
        return status("deliveries or plans stand in the inbox itself, not in a case folder")
    blocked = _blocked(found, intake)
    if blocked:
        return status(blocked)
    if intake.ready is Ready.MARKER:
        return status(
            "" if _is_marked(tree, found.node, intake.marker) else f"no marker file {intake.marker}"
        )
    # In whole nanoseconds: a share may show a time that no datetime can hold.
    newest_ns = found.once("newest", found.node.newest_ns)
    now_ns = (now - _EPOCH) // timedelta(microseconds=1) * 1000
    quiet_ns = int(intake.stable_seconds * 1e9)
    if not quiet_ns or now_ns - newest_ns >= quiet_ns:
        return status("")
    try:
        next_check = _EPOCH + timedelta(microseconds=(newest_ns + quiet_ns) // 1000)
    except OverflowError:
        return status("the time of a file lies beyond the year 9999: copy it again, or set its time")
    reason = f"files changed within the last {math.ceil(intake.stable_seconds)} s"
    if newest_ns - now_ns > 1_000_000_000:
        reason = "the time of a file lies in the future"
    return status(reason, next_check)


def _is_marked(tree: SeenFolder, node: SeenFolder, marker: str) -> bool:
    if marker in node.file_names:
        return True
    # The patient folder may carry the marker; the inbox itself may not, it would release everything.
    return node.parent is not None and node.parent is not tree and marker in node.parent.file_names


def _fingerprint(found: _Found, intake: Intake) -> str:
    marker = {found.node.path / intake.marker} if intake.ready is Ready.MARKER else frozenset()
    return found.once("fingerprint", lambda: fingerprint(found.node.path, [found.node], without=marker))


def _arrival(
    root: Path, found: _Found, intake: Intake, reason: str, next_check: datetime | None
) -> CaseFolder:
    node = found.node
    own = SeenFolder(node.location, listing=node.listing_without(intake.marker))
    others = [
        folder for folder in node.folders if folder not in found.deliveries and not _holds_delivered(folder)
    ]
    files = case_files(own, found.deliveries, others, {file.path for file in found.plans})
    stray = [node.path / name for name in node.file_names if is_machine_file(name)]
    return CaseFolder(
        relative=node.path.relative_to(root).as_posix(),
        folder=node.path,
        plans=tuple(file.path for file in found.plans),
        delivery_folders=tuple(folder.path for folder in found.deliveries),
        ct_files=files.images,
        stray_files=() if node in found.deliveries else tuple(stray),
        unreadable_files=files.unreadable,
        unused_files=files.unused,
        ready=not reason,
        reason=reason,
        next_check=next_check,
        fingerprint=_fingerprint(found, intake),
        archives=files.archives,
    )


def _faults(node: SeenFolder) -> tuple[tuple[str, str], ...]:
    """Places below a folder that cannot be looked at, and why."""
    return node.derived_below.once(
        "faults",
        lambda: (
            *((str(link), "is a link that leads out of the inbox or nowhere") for link in node.refused_links),
            *([(node.location, f"cannot be read: {node.unreadable}")] if node.unreadable else []),
            *(fault for folder in node.folders for fault in _faults(folder)),
        ),
    )


def _refused(root: Path, tree: SeenFolder, cases: list[ArrivalStatus]) -> list[ArrivalStatus]:
    """Links and locked folders outside every case, so that they are seen as well."""
    faults = _faults(tree)
    known = {case.folder for case in cases if case.folder != tree.location} if faults else set()
    return [
        _refusal(root, Path(location), reason)
        for location, reason in faults
        if not any(str(above) in known for above in (Path(location), *Path(location).parents))
    ]


def _refusal(root: Path, path: Path, reason: str) -> ArrivalStatus:
    relative, empty = path.relative_to(root).as_posix(), fingerprint(path, [])
    return ArrivalStatus(
        relative,
        str(path),
        False,
        reason,
        None,
        empty,
        0,
        lambda: CaseFolder(relative, path, (), (), (), (), (), (), False, reason, None, empty),
    )
