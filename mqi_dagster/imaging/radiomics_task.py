"""A region whose features another process computes: a folder with a task, into which the result is written.

``region.npz`` holds the voxels (NumPy's format, nothing pickled), ``task.json`` the rest and their digest,
``result.json`` what came out and the digest of the task. Every file is written whole.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from pydantic import ValidationError

from mqi_dagster.errors import InputError, Where
from mqi_dagster.files import sha256_file, whole_file, write_whole
from mqi_dagster.imaging.radiomics import RadiomicsResult, Region, Vector, Voxels, region_features
from mqi_dagster.imaging.radiomics_profile import RadiomicsProfile, columns
from mqi_dagster.settings.section import Section

REGION, TASK, RESULT = "region.npz", "task.json", "result.json"
_MOST_BYTES = 1_000_000
"""Of a JSON file; a result with every column has 40,000."""


class _Task(Section):
    region_sha256: str
    spacing_mm: Vector
    offset: Voxels
    image_shape: Voxels
    profile: RadiomicsProfile


class _Result(Section):
    task_sha256: str
    result: RadiomicsResult


def write_task(folder: Path, region: Region, profile: RadiomicsProfile) -> None:
    """Write a task into an existing folder.

    Raises:
        OSError: It cannot be written.
    """
    with whole_file(folder / REGION) as stream:
        np.savez(stream, image=region.image, mask=region.mask)
    task = _Task(
        region_sha256=sha256_file(folder / REGION),
        spacing_mm=region.spacing_mm,
        offset=region.offset,
        image_shape=region.image_shape,
        profile=profile,
    )
    write_whole(folder / TASK, task.model_dump_json().encode())


def run_region(folder: Path | str) -> None:
    """Compute the features of a task, and leave the result beside it, written whole and read back.

    Args:
        folder: The folder of the task; nothing else is read or written.

    Raises:
        InputError: The task is incomplete, or not what was written.
        OSError: The result cannot be written.
    """
    folder = Path(folder)
    content, task = _read_task(folder)
    result = _Result(
        task_sha256=hashlib.sha256(content).hexdigest(),
        result=region_features(_read_region(folder, task), task.profile),
    )
    write_whole(folder / RESULT, result.model_dump_json().encode())
    read_result(folder)


def read_result(folder: Path) -> RadiomicsResult:
    """The result of a task.

    Raises:
        InputError: There is none, it is of another task, or it is not whole.
    """
    where = Where(kind="radiomics result")
    content, task = _read_task(folder)
    try:
        read = _Result.model_validate_json(_bounded(folder / RESULT, where))
    except ValidationError as error:
        raise InputError("the file does not hold a result", where=where) from error
    if read.task_sha256 != hashlib.sha256(content).hexdigest():
        raise InputError("it is of another task", where=where)
    wanted = [column.tag for column in columns(task.profile.aggregations)]
    found = [*read.result.features, *read.result.not_computed]
    if sorted(found) != sorted(wanted):
        raise InputError("its columns are not those of the task's profile", where=where)
    return read.result


def _read_task(folder: Path) -> tuple[bytes, _Task]:
    where = Where(kind="radiomics task")
    content = _bounded(folder / TASK, where)
    try:
        return content, _Task.model_validate_json(content)
    except ValidationError as error:
        raise InputError("the file does not hold a task", where=where) from error


def _read_region(folder: Path, task: _Task) -> Region:
    where = Where(kind="radiomics region")
    try:
        if sha256_file(folder / REGION) != task.region_sha256:
            raise InputError("the voxels are not those that were written", where=where)
        with np.load(folder / REGION, allow_pickle=False) as arrays:
            return Region(arrays["image"], arrays["mask"], task.spacing_mm, task.offset, task.image_shape)
    except OSError as error:
        raise InputError(f"the voxels cannot be read: {error.strerror}", where=where) from error
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError("the file does not hold an image and a mask", where=where) from error


def _bounded(path: Path, where: Where) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"the file cannot be read: {error.strerror}", where=where) from error
    if len(content) > _MOST_BYTES:
        raise InputError(f"the file is larger than {_MOST_BYTES:,} bytes", where=where)
    return content
