"""A PACS as this site uses one: series are found and fetched whole, objects are stored and read back."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from pydicom.dataset import Dataset

from mqi_dagster.backoff import Backoff
from mqi_dagster.dicom.elements import text_of
from mqi_dagster.dicom.pacs_http import AT_ONCE, RefusedError
from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.errors import (
    DicomError,
    HandoverError,
    ImageError,
    InfrastructureError,
    InputError,
    UnknownSeriesError,
    UnreachableError,
    Where,
)

PACS = Where(kind="PACS")
_TRIES = 4
_BACKOFF = Backoff(0.5, 8.0, jitter=0.5)
_LONGEST_IDENTIFIER = 64
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class PacsSeries:
    """A series as a PACS tells of it. Identity in it goes to pages of people, and nowhere else."""

    identifier: str
    """What the PACS calls it: Orthanc's own identifier, or the Series Instance UID."""
    study: str
    """Likewise of its study."""
    series_uid: str
    study_uid: str
    modality: str
    description: str
    acquired: str
    """When, as DICOM writes date and time, one after the other; empty where nobody says."""
    images: int
    patient_id: str
    patient_name: str
    study_description: str = ""


@dataclass(frozen=True, slots=True)
class PacsImage:
    """An object of a series."""

    identifier: str
    """By which the PACS gives it."""
    instance_uid: str
    number: int
    """Instance Number; 0 where it has none."""
    md5: str = ""
    """Of its file; empty where the PACS does not tell."""


class Pacs(Protocol):
    """What this site asks of a PACS. Every question may raise what `version` does."""

    def version(self) -> str:
        """What answers, in words.

        Raises:
            UnreachableError: Nobody answers.
            ConfigurationError: It lets this user not in.
            InfrastructureError: What answers is none.
        """
        ...

    def series(self, identifier: str) -> PacsSeries | None:
        """A series, with the time at which its first image was acquired; None where there is none.

        Raises:
            UnknownSeriesError: This is no identifier.
        """
        ...

    def find(self, text: str, *, modality: str = "", limit: int = 100) -> list[PacsSeries]:
        """Series whose patient's name or ID or whose study has a text in it, the newest first."""
        ...

    def images(self, series: PacsSeries, *, sums: bool = True) -> list[PacsImage]:
        """The objects of a series, with their MD5 where it is wanted and the PACS tells it."""
        ...

    def file(self, identifier: str) -> bytes:
        """The file of an object.

        Raises:
            InputError: It is gone.
        """
        ...

    def preview(self, series: PacsSeries) -> bytes:
        """A picture of the image in the middle of a series, PNG or JPEG; none where it cannot be drawn."""
        ...

    def store(self, content: bytes) -> str:
        """Store an object, once more where it is there already; its identifier there.

        Raises:
            HandoverError: It is refused.
        """
        ...


def fetch_series(
    pacs: Pacs, series: PacsSeries, folder: Path, *, told: Callable[[int, int], None] = lambda done, all: None
) -> list[Path]:
    """Bring a series here, whole: every object that the PACS lists, each proven.

    Args:
        pacs: Where from.
        series: Which.
        folder: Where its files go, each named by its place in the order of their UIDs.
        told: Is told how many of how many are here.

    Returns:
        The files, in that order.

    Raises:
        UnreachableError: The PACS does not answer, or the line breaks.
        InputError: It holds no object of the series, or one of them is gone.
        ImageError: What it gives is not what it lists: another object, or another series.
        InfrastructureError: The series has grown meanwhile.
        OSError: The disk takes no file.
    """
    images = sorted(pacs.images(series), key=lambda one: one.instance_uid)
    if not images:
        raise InputError("the series has no image in the PACS", where=PACS)
    folder.mkdir(mode=0o700, parents=True)

    def fetched(image: PacsImage) -> bytes:
        return repeated(lambda: _proven(pacs.file(image.identifier), series, image))

    files = list[Path]()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for content in pool.map(fetched, images):
                path = folder / f"{len(files):05d}.dcm"
                path.write_bytes(content)
                files.append(path)
                told(len(files), len(images))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if {one.instance_uid for one in pacs.images(series, sums=False)} != {one.instance_uid for one in images}:
        raise InfrastructureError("the series has changed while it was fetched", where=PACS)
    return files


def _proven(content: bytes, series: PacsSeries, image: PacsImage) -> bytes:
    if image.md5 and md5_of(content) != image.md5:
        raise RefusedError("an image came with another MD5 than the PACS tells", where=PACS)
    try:
        header = read_dicom(content, only=("SOPInstanceUID", "SeriesInstanceUID"))
    except DicomError as error:
        raise DicomError(f"an image of the PACS {error.message}", where=PACS) from None
    if text_of(header, "SOPInstanceUID") != image.instance_uid:
        raise ImageError("the PACS gives another image than it lists", where=PACS)
    if text_of(header, "SeriesInstanceUID") != series.series_uid:
        raise ImageError("the PACS gives an image of another series", where=PACS)
    return content


def store_proven(pacs: Pacs, content: bytes) -> str:
    """Store an object and read it back; its identifier in the PACS. It may be done twice.

    Raises what `Pacs.store` does, and HandoverError where it is not kept, or another object in its place.
    """
    identifier = repeated(lambda: pacs.store(content))
    try:
        back = repeated(lambda: pacs.file(identifier))
    except InputError:
        raise HandoverError(
            "the PACS has taken the object and does not keep it: look for a filter there", where=PACS
        ) from None
    if back != content and _meaning(read_dicom(back)) != _meaning(read_dicom(content, of_ours=True)):
        raise HandoverError("the PACS keeps another object of the same SOP Instance UID", where=PACS)
    return identifier


def _meaning(dataset: Dataset) -> str:
    """What an object says, whatever transfer syntax and group lengths a PACS has given it."""
    return dataset.to_json(suppress_invalid_tags=True)


def repeated(call: Callable[[], _Answer], sleep: Callable[[float], None] = time.sleep) -> _Answer:
    """What a call answers, which is repeated a few times while the PACS is away."""
    for failures in range(1, _TRIES):
        try:
            return call()
        except UnreachableError:
            sleep(_BACKOFF.seconds(failures))
    return call()


def md5_of(content: bytes) -> str:
    """MD5, in hexadecimal digits, as an Orthanc tells it."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def checked_identifier(identifier: str) -> str:
    """An identifier that may stand in an address.

    Raises:
        UnknownSeriesError: It is none of a PACS's.
    """
    plain = identifier.isascii() and identifier.replace("-", "").replace(".", "").isalnum()
    if not plain or len(identifier) > _LONGEST_IDENTIFIER or ".." in identifier:
        raise UnknownSeriesError("this is no identifier of the PACS", where=PACS)
    return identifier


def acquired_at(date: str, time: str) -> str:
    """When, in a form that sorts; empty where there is no date."""
    return f"{date}{time}" if date else ""
