"""The folders of a site that lie on other people's machines: whether they are there now."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from mqi_dagster.resources.site import Site
from mqi_dagster.settings import LOCAL
from mqi_dagster.store.known_folders import FolderTrouble, KnownFolder, in_time

_OF_THE_FOLDER = "the hand-over folder: "


def is_of_the_folder(text: str) -> bool:
    """Whether an alarm's text is what `target_trouble` has found, and not that the target takes nothing."""
    return text.startswith(_OF_THE_FOLDER)


def _note(known: KnownFolder) -> None:
    # That nothing can be written beside the ledger is the fault of another disk, and an alarm of its own.
    with suppress(OSError):
        known.note()


def inbox_trouble(site: Site, *, note: bool = False) -> str:
    """Why the inbox is not there, without a path; empty where it is."""
    sentinel = site.settings.intake.sentinel

    def lacking() -> FolderTrouble | None:
        if sentinel is None or (site.inbox / sentinel).exists():
            return None
        return FolderTrouble(f"the file {sentinel} is not in it (intake.sentinel)")

    known = site.known_folder("inbox", site.inbox)
    return _source_trouble(known, f"inbox {site.inbox}", "paths.inbox", "case", lacking, note=note)


def tree_trouble(site: Site, *, note: bool = False) -> str:
    """Why the tree of DICOM files is not there, without a path; empty where it is, or none is named."""
    root = site.settings.radiotherapy.dicom_root
    if root is None:
        return ""
    known, name = site.known_folder("dicom_root", root), f"DICOM root {root}"
    return _source_trouble(known, name, "radiotherapy.dicom_root", "folder", lambda: None, note=note)


def _source_trouble(
    known: KnownFolder,
    name: str,
    setting: str,
    first: str,
    lacking: Callable[[], FolderTrouble | None],
    *,
    note: bool,
) -> str:
    """Why a folder from which something is taken is not there; empty where it is.

    Args:
        known: The folder.
        name: Of the folder, for whoever waits for it.
        setting: That names it.
        first: What ends the trouble of a folder that was made anew.
        lacking: What it lacks, where it is there.
        note: Whether that it was seen is noted.
    """

    def ask() -> FolderTrouble | None:
        if trouble := known.trouble() or lacking():
            return trouble
        if note:
            _note(known)
        return None

    trouble = in_time(name, ask)
    if trouble is None:
        return ""
    advice = f"Mount it, or correct {setting}; what waits for it goes on by itself"
    if trouble.replaced:
        advice += f". Where it was made anew on purpose, the first {first} in it ends this"
    return f"{trouble.text}. {advice}"


def target_trouble(site: Site, *, note: bool = False) -> str:
    """Why nothing can be handed over to a folder of this machine, without a path; empty where it can."""
    handover = site.settings.handover
    if handover.target != LOCAL:
        return ""
    known = site.known_folder("handover", handover.folder)

    def ask() -> FolderTrouble | None:
        # The first hand-over makes it.
        there = handover.folder
        if not there.exists() and known.was_seen():
            return FolderTrouble("it is not there any more", replaced=True)
        while not there.exists() and there != there.parent:
            there = there.parent
        if not os.access(there, os.W_OK | os.X_OK) or os.statvfs(there).f_flag & os.ST_RDONLY:
            return FolderTrouble("it cannot be written")
        if not handover.folder.exists():
            return None
        if trouble := known.trouble():
            return trouble
        if note:
            _note(known)
        return None

    trouble = in_time(f"handover {handover.folder}", ask)
    if trouble is None:
        return ""
    advice = "Mend it; what waits for it goes on by itself"
    if trouble.replaced:
        advice = (
            "Mount it, and what waits for it goes on by itself."
            " Where it is a new one on purpose, make it, and any folder in it"
        )
    return f"{_OF_THE_FOLDER}{trouble.text}. {advice}"
