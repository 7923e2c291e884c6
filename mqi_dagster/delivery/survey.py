"""An arrival at a glance: its plan and its fractions, from the small files alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from mqi_dagster.delivery.discovery import CaseFolder
from mqi_dagster.delivery.files import file_entry
from mqi_dagster.delivery.fractions import Fraction, group_fractions, read_deliveries
from mqi_dagster.delivery.inbox_tree import fingerprint, see_folder
from mqi_dagster.delivery.manifest import InputFile
from mqi_dagster.errors import DeliveryError, InputError, PlanError, Where
from mqi_dagster.plan.model import IonPlan
from mqi_dagster.plan.reading import read_ion_plan

KIND = "RT plan"


@dataclass(frozen=True, slots=True)
class PlanSource:
    """The one plan of an arrival."""

    plan: IonPlan
    file: InputFile
    copies: tuple[InputFile, ...]
    """Further files with the same bytes."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What an arrival holds."""

    arrival: CaseFolder
    source: PlanSource | None
    """The plan; None where there is not exactly one readable plan."""
    plan_error: InputError | None
    """Why there is none."""
    fractions: tuple[Fraction, ...]
    """In time order."""

    def fingerprint(self, fraction: Fraction) -> str:
        """A cheap hash that changes with the files of this fraction, its plan and CT, and nothing else.

        Another fraction in the same case folder leaves it as it is.
        """
        base = self.arrival.folder
        tree = see_folder(base, base)
        wanted = {*fraction.folders, *(header.folder for header in fraction.duplicates)}
        single = _single_files(self.arrival)
        folders = [folder for folder in tree.walk() if folder.path in wanted]
        files = [file for folder in tree.walk() for file in folder.files if file.path in single]
        return fingerprint(base, folders, files)

    def changed_ns(self, fraction: Fraction | None) -> int:
        """When the status of a file or folder of the case last changed (st_ctime) [ns].

        A repair that keeps a file's size and time changes it.

        Args:
            fraction: The case's fraction; None for all of the arrival.
        """
        return changed_ns(self.arrival, None if fraction is None else fraction.folders)


def changed_ns(arrival: CaseFolder, folders: Sequence[Path] | None = None) -> int:
    """When the status of a file or folder of an arrival last changed (st_ctime) [ns]; nothing is opened.

    Args:
        arrival: The arrival.
        folders: The delivery folders that count; all where None.
    """
    counted = arrival.delivery_folders if folders is None else folders
    found = [arrival.folder, *_single_files(arrival), *counted]
    for folder in counted:
        with suppress(OSError):
            found += folder.iterdir()
    newest = 0
    for path in found:
        with suppress(OSError):
            newest = max(newest, path.stat().st_ctime_ns)
    return newest


def _single_files(arrival: CaseFolder) -> set[Path]:
    """The files that count for every fraction: plan, images, and what should not lie there."""
    return {
        *arrival.plans,
        *arrival.ct_files,
        *arrival.stray_files,
        *arrival.unreadable_files,
        *arrival.archives,
    }


def find_plan(arrival: CaseFolder) -> PlanSource:
    """The plan of an arrival.

    Raises:
        PlanError: There is none, it cannot be read, or there are several.
        DeliveryError: A file cannot be read.
    """
    if not arrival.plans:
        raise PlanError("there is no RT Ion Plan in the case folder", where=Where(kind=KIND))
    by_content: dict[str, list[InputFile]] = {}
    for path in sorted(arrival.plans):
        entry = file_entry(path, KIND)
        by_content.setdefault(entry.sha256, []).append(entry)
    first, *copies = next(iter(by_content.values()))
    if len(by_content) == 1:
        return PlanSource(read_ion_plan(first.path), first, tuple(copies))
    plans = [read_ion_plan(entries[0].path) for entries in by_content.values()]
    if len({plan.sop_instance_uid for plan in plans}) == 1:
        fault = f"{len(plans)} different RT plans with the same SOP Instance UID are in the case folder"
    else:
        fault = f"{len(plans)} RT plans are in the case folder; a case has exactly one"
    raise PlanError(fault, where=Where(kind=KIND))


def survey_arrival(arrival: CaseFolder, zone: ZoneInfo, window: timedelta) -> Survey:
    """Look at an arrival without opening its records.

    Args:
        arrival: The arrival.
        zone: The zone in which the machine writes its times.
        window: How long after its first delivery a fraction stays open.
    """
    source: PlanSource | None = None
    plan_error: InputError | None = None
    try:
        source = find_plan(arrival)
    except (PlanError, DeliveryError) as error:
        plan_error = error
    headers, broken = read_deliveries(arrival.delivery_folders, zone, window)
    fractions = group_fractions(headers, source.plan if source else None, window, broken)
    return Survey(arrival, source, plan_error, tuple(fractions))
