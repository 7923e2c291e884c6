"""Images in, a label map out: the files of every model, read and verified.

Each image is a NIfTI file named by its role, ``T1.nii.gz``. The label map lies on the grid of the first image
of the card, holds the labels of the card and no others, and is not silently empty.
"""

from __future__ import annotations

import errno
import gzip
import itertools
import math
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
from numpy.typing import NDArray

from mqi_dagster.errors import Where
from mqi_dagster.files import sync_file, sync_folder
from mqi_dagster.imaging.models.card import Model, ModelCard
from mqi_dagster.imaging.models.model_errors import ModelError, ModelInputError

LABEL_MAP = "segmentation.nii.gz"
IMAGE_SUFFIX = ".nii.gz"
MOST_VOXELS = 1_000_000_000
_GZIP = b"\x1f\x8b"
_BLOCK = 1 << 20
_LARGEST_NUMBER = 1e6
_NIFTI = np.dtype(
    {
        "names": ["sizeof_hdr", "dim", "bitpix", "pixdim", "vox_offset", "qform", "sform", "magic"],
        "formats": ["i4", "8i2", "i2", "8f4", "f4", "6f4", "12f4", "S4"],
        "offsets": [0, 40, 72, 76, 108, 256, 280, 344],
        "itemsize": 348,
    }
)
"""Of the header of NIfTI-1 what the length of a file and the place of its voxels follow from."""
TOLERANCE_MM = 0.01
"""Between the corners of two grids: NIfTI keeps an affine in single precision."""

Labels = NDArray[np.uint16]
"""Shape (z, y, x) of the image, 0 for background."""


@dataclass(frozen=True, slots=True)
class RegionVolume:
    """How much of a region was found."""

    name: str
    label: int
    voxels: int
    volume_cm3: float
    plausible: bool
    """Whether the volume is within the limits of the card; what is not there at all is not."""


def input_files(card: ModelCard, folder: Path) -> dict[str, Path]:
    """The image of each role, in the card's order.

    Args:
        card: Names the roles.
        folder: Holds one file ``<role>.nii.gz`` for each, and nothing else of that ending.

    Raises:
        ModelInputError: One is missing, or there is one that the card does not name.
    """
    roles = [one.role for one in card.inputs]
    present = {path.name.removesuffix(IMAGE_SUFFIX) for path in folder.glob(f"*{IMAGE_SUFFIX}")}
    if missing := [role for role in roles if role not in present]:
        raise ModelInputError(f"model {card.name} needs an image for the role {missing[0]}")
    if extra := len(present - set(roles)):
        raise ModelInputError(f"model {card.name} was given {extra} images whose role its card does not name")
    return {role: folder / f"{role}{IMAGE_SUFFIX}" for role in roles}


def read_image(path: Path, role: str) -> sitk.Image:
    """One image of three dimensions, as single-precision numbers; NIfTI's reader takes NaN for 0.

    Raises:
        ModelInputError: It cannot be read, has another number of dimensions, is too large, or its axes are
            sheared.
        MemoryError: There is not enough memory for it.
    """
    where = Where(kind=f"image {role}")
    try:
        header = _header(path)
        # SimpleITK says of too little memory only that it could not read: numpy says MemoryError.
        np.empty(header.GetSize(), np.float32)
        image = sitk.ReadImage(path, sitk.sitkFloat32)
    except ValueError as error:
        raise ModelInputError(str(error), where=where) from None
    except RuntimeError:
        # What SimpleITK says names the path.
        raise ModelInputError("it is no NIfTI image, or damaged", where=where) from None
    return image


def read_label_map(path: Path, model: Model, like: sitk.Image) -> Labels:
    """What a model has left behind, verified.

    Args:
        path: A NIfTI file.
        model: Whose it is.
        like: The image whose grid it must have.

    Raises:
        ModelError: It is not there, cannot be read, lies on another grid, or is not valid; see
            :func:`verified`.
    """
    if not path.is_file():
        raise ModelError("it has left no label map", where=model.where)
    try:
        header = _header(path)
        _require_grid(_grid(header), _grid(like))
        values = sitk.GetArrayFromImage(sitk.ReadImage(path))
    except ValueError as error:
        raise _refused(str(error), model) from None
    except RuntimeError:
        raise _refused("it is no NIfTI image, or damaged", model) from None
    return verified(values, model)


def verified(values: NDArray[np.generic], model: Model) -> Labels:
    """A label map whose every value is a label of the card.

    Raises:
        ModelError: A value is no label of the card; or none is there, and the card does not say that this
            may be so.
    """
    if not np.issubdtype(values.dtype, np.integer) and not np.array_equal(values, np.rint(values)):
        raise _refused("it has values that are no whole numbers", model)
    low, high = values.min(), values.max()
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise _refused(f"it has the value {low if low < 0 else high}", model)
    labels = values.astype(np.uint16)
    present = np.flatnonzero(_counts(labels, int(high)))
    if unknown := sorted(set(present.tolist()) - {0} - model.card.labels):
        raise _refused(f"it has the label {unknown[0]}, which the card does not name", model)
    if not present.any() and not model.card.may_find_nothing:
        raise _refused("it is empty, and the card does not allow that", model)
    return labels


def _refused(reason: str, model: Model) -> ModelError:
    return ModelError(f"its label map cannot be used: {reason}", where=model.where)


def write_label_map(labels: Labels, like: sitk.Image, path: Path) -> None:
    """Write a label map on the grid of an image, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    small = int(labels.max()) <= np.iinfo(np.uint8).max
    image = sitk.GetImageFromArray(labels.astype(np.uint8) if small else labels)
    image.CopyInformation(like)
    write_image(image, path)


def write_image(image: sitk.Image, path: Path) -> None:
    """Write a NIfTI image whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix=".image-", dir=path.parent) as scratch:
        temporary = Path(scratch) / path.name
        try:
            sitk.WriteImage(image, temporary, useCompression=True)
            _header(temporary)
        except (RuntimeError, ValueError):
            # SimpleITK does not say why, or nothing at all: a full disk says it here.
            (Path(scratch) / "probe").write_bytes(bytes(_BLOCK))
            raise OSError(errno.EIO, "an image cannot be written") from None
        sync_file(temporary)
        temporary.replace(path)
    sync_folder(path.parent)


def region_volumes(card: ModelCard, labels: Labels, voxel_mm3: float) -> tuple[RegionVolume, ...]:
    """How much of each region a label map holds, in the card's order."""
    counts = _counts(labels, max(card.labels))
    volumes = []
    for region in card.regions:
        voxels = int(counts[list(region.labels)].sum())
        volume = voxels * voxel_mm3 / 1000
        low, high = region.volume_cm3
        volumes.append(RegionVolume(region.name, region.label, voxels, volume, low <= volume <= high))
    return tuple(volumes)


def _counts(labels: Labels, highest: int) -> NDArray[np.int64]:
    """Voxels of each label from 0 on; plane by plane, as counting makes eight bytes of each voxel."""
    counts = np.zeros(highest + 1, np.int64)
    for plane in labels:
        counts += np.bincount(plane.ravel(), minlength=highest + 1)
    return counts


def connected_pieces(mask: NDArray[np.bool_]) -> int:
    """How many pieces a mask consists of, joined by faces."""
    pieces = sitk.ConnectedComponentImageFilter()
    pieces.Execute(sitk.GetImageFromArray(mask.astype(np.uint8)))
    return int(pieces.GetObjectCount())


def voxel_mm3(image: sitk.Image) -> float:
    """Volume of one voxel."""
    return float(np.prod(image.GetSpacing()))


def _header(path: Path) -> sitk.ImageFileReader:
    """What SimpleITK reads of a file's header, once the file is known to be sound.

    Raises:
        ValueError: It is damaged, or no image of three dimensions with one value a voxel.
        RuntimeError: SimpleITK cannot read it.
    """
    _require_sound(path)
    # Its warnings go to the error stream, with the path.
    sitk.ProcessObject.GlobalWarningDisplayOff()
    reader = sitk.ImageFileReader()
    reader.SetFileName(path)
    reader.SetImageIO("NiftiImageIO")
    reader.ReadImageInformation()
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise ValueError("it has not three dimensions and one value a voxel")
    return reader


def _require_sound(path: Path) -> None:
    """Refuse what SimpleITK would never end reading, or fill with zeros: odd numbers, a file cut short."""
    with path.open("rb") as plain:
        compressed = plain.read(2) == _GZIP
    try:
        with gzip.open(path) if compressed else path.open("rb") as stream:
            start = stream.read(_NIFTI.itemsize)
            if len(start) < _NIFTI.itemsize:
                raise ValueError("it is no NIfTI image, or damaged")
            header = np.frombuffer(start, _NIFTI)[0]
            if header["sizeof_hdr"] != _NIFTI.itemsize:
                header = np.frombuffer(start, _NIFTI.newbyteorder())[0]
            length = _length(header)
            found = len(start)
            while found <= length and (block := stream.read(_BLOCK)):
                found += len(block)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise ValueError("it is damaged: what it is compressed to cannot be read") from None
    if found < length:
        raise ValueError("it is damaged: there are fewer bytes than its header says")


def _length(header: Any) -> int:
    """Bytes of a file with this header, from its start to the last voxel."""
    if header["sizeof_hdr"] != _NIFTI.itemsize or header["magic"] != b"n+1":
        raise ValueError("it is no NIfTI image, or damaged")
    sizes = [int(size) for size in header["dim"]]
    if sizes[0] != 3 or header["bitpix"] not in (8, 16, 32, 64):
        raise ValueError("it has not three dimensions and one value a voxel")
    voxels = math.prod(sizes[1:4])
    if min(sizes[1:4]) < 1 or voxels > MOST_VOXELS:
        raise ValueError(f"it has more than {MOST_VOXELS:,} voxels, or none")
    geometry = np.concatenate([header["pixdim"], header["qform"], header["sform"], [header["vox_offset"]]])
    if not (np.abs(geometry) < _LARGEST_NUMBER).all():
        raise ValueError("it is damaged: its header has numbers that no image has")
    return int(header["vox_offset"]) + voxels * int(header["bitpix"]) // 8


@dataclass(frozen=True, slots=True)
class _Grid:
    size: tuple[int, ...]
    corners: NDArray[np.float64]
    """Shape (8, 3): the centres of the corner voxels [mm]."""


def _grid(image: Any) -> _Grid:
    """Where an image, or one whose header alone was read, lies."""
    size, spacing = np.array(image.GetSize()), np.array(image.GetSpacing())
    directions = np.array(image.GetDirection()).reshape(3, 3)
    ends = np.array(list(itertools.product((0, 1), repeat=3))) * (size - 1)
    return _Grid(image.GetSize(), np.asarray(image.GetOrigin() + (ends * spacing) @ directions.T))


def _require_grid(found: _Grid, wanted: _Grid) -> None:
    if found.size != wanted.size:
        raise ValueError(f"it has {found.size} voxels, the image {wanted.size}")
    off = float(np.abs(found.corners - wanted.corners).max())
    if not off <= TOLERANCE_MM:
        raise ValueError(f"it lies {off:.3g} mm beside the image")
