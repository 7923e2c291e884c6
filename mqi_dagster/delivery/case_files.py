"""What every file of a case folder is that the machine did not write: an image, unreadable, or of no use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from mqi_dagster.delivery.inbox_tree import SeenFolder
from mqi_dagster.delivery.machine_files import is_machine_file
from mqi_dagster.dicom.kinds import DicomKind, dicom_kind

DOCUMENTS = (
    *(".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".odt", ".ods", ".rtf", ".txt"),
    *(".md", ".csv", ".log", ".xml", ".json", ".html", ".htm", ".ini", ".cfg", ".jpg", ".jpeg"),
    *(".png", ".gif", ".bmp", ".tif", ".tiff", ".zip", ".7z", ".rar", ".tar", ".gz", ".db"),
    *(".exe", ".dll", ".inf", ".ico", ".jar", ".lnk", ".url", ".md5", ".sha1", ".sha256"),
)
"""Endings of names that promise something else than an image of a scanner."""


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """The files of a case folder beside its plan and the machine's own, in the order of names."""

    images: tuple[Path, ...]
    unreadable: tuple[Path, ...]
    """Files that should be DICOM objects and cannot be read: a dose without them would be another one."""
    unused: tuple[Path, ...]
    archives: tuple[Path, ...] = ()
    """Archives that may hold the images, where none lies beside them: elsewhere they are of no use."""


def case_files(
    case: SeenFolder, deliveries: Sequence[SeenFolder], others: Iterable[SeenFolder], plans: Set[Path]
) -> CaseFiles:
    """Sort the files of a case.

    Args:
        case: The case folder, its own files alone.
        deliveries: Its delivery folders.
        others: Its other folders that belong to it.
        plans: Files that are taken for its plan.
    """
    images: list[Path] = []
    unreadable: list[Path] = []
    unused: list[Path] = []
    archives: list[Path] = []
    folders = [(case, False)]
    folders += [(below, True) for folder in others for below in folder.walk()]
    folders += [
        (below, False) for folder in deliveries if folder.path != case.path for below in folder.walk()
    ]
    for folder, of_images in folders:
        kinds = {
            file.path: dicom_kind(file.path, file.size, file.mtime_ns)
            for file in folder.files
            if not is_machine_file(file.path.name) and file.path not in plans
        }
        endings = {path.suffix.lower() for path, kind in kinds.items() if kind is DicomKind.CT}
        for path, kind in kinds.items():
            if kind is DicomKind.CT:
                images.append(path)
            elif kind is DicomKind.UNREADABLE or (
                kind in (DicomKind.UNKNOWN, DicomKind.ARCHIVE)
                and _named_like_an_image(path, endings, of_images)
            ):
                unreadable.append(path)
            elif kind is DicomKind.ARCHIVE:
                archives.append(path)
            else:
                unused.append(path)
    if images:
        unused, archives = unused + archives, []
    return CaseFiles(*(tuple(sorted(paths)) for paths in (images, unreadable, unused, archives)))


def _named_like_an_image(path: Path, endings: Set[str], in_folder_of_images: bool) -> bool:
    """Whether a file of no known content has a name of the images beside it, or as scanners give one.

    Scanners and archives call an image `IM000007`, by its UID, whose last number reads as an ending, or as
    they like: in a folder of its own below the case, everything may be an image but a document. In the case
    folder itself, where whoever sends a case may leave marks, only what has such a name beside images.
    """
    ending = path.suffix.lower()
    if path.name.startswith("."):
        return False
    if in_folder_of_images:
        return ending in endings or ending not in DOCUMENTS
    return ending in endings or (bool(endings) and (not ending or ending[1:].isdigit()))
