"""External, Lung, Air, Bone and Couch of a CT by thresholds and morphology: rules, and nothing more.

They know no anatomy: contrast medium above the threshold is bone, a lung full of fluid is none. The card of
the model says so, and its thresholds are the card's.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
from numpy.typing import NDArray
from scipy import ndimage

from mqi_dagster.imaging.models.card import RULED_REGIONS, Model, RulesRuntime
from mqi_dagster.imaging.models.label_map import read_image, verified, voxel_mm3
from mqi_dagster.imaging.models.model_errors import ModelCardError
from mqi_dagster.imaging.models.running import Outcome, RunOptions

_MOST_ON_FRAME = 0.45
"""Part of its outline that the edge of the image may cut from a lung: half of an ellipse has 0.39 there."""


def run_rules(model: Model, images: Mapping[str, Path], options: RunOptions) -> Outcome:
    """Segment a CT by the rules of a card.

    Args:
        model: Its card has the thresholds.
        images: One CT in HU.
        options: The rules run on the processor, whatever device is asked for.

    Raises:
        ModelInputError: The image cannot be read.
        ModelError: Nothing is found.
    """
    rules = model.card.rules
    if rules is None:
        raise ModelCardError("its runtime is not rules", where=model.where)
    role, path = next(iter(images.items()))
    image = read_image(path, role)
    masks = ruled_masks(image, rules)
    labels = np.zeros(image.GetSize()[::-1], np.uint16)
    wanted = {region.name: region.label for region in model.card.regions}
    # The body first: what is found within it takes its voxels.
    for name in RULED_REGIONS:
        if name in wanted:
            labels[sitk.GetArrayViewFromImage(masks[name]) > 0] = wanted[name]
    remarks = [f"{options.device} was asked for, and rules run on the processor"] * (options.device != "cpu")
    if options.in_pieces:
        remarks.append("pieces were asked for, and rules have none")
    return Outcome(
        labels=verified(labels, model),
        image=image,
        device_used="cpu",
        provider="SimpleITK",
        versions={name: version(name) for name in ("SimpleITK", "scipy")},
        remarks=tuple(remarks),
    )


def ruled_masks(image: sitk.Image, rules: RulesRuntime) -> dict[str, sitk.Image]:
    """The mask of each region, on the grid of the image; External holds Lung, Air and Bone, too.

    Args:
        image: A CT in HU, in any orientation.
        rules: The thresholds.
    """
    axial = sitk.DICOMOrient(image, "LPS")
    external = _external(axial, rules)
    lungs = _lungs(axial, external, rules)
    # SimpleITK's ~ turns every bit of a byte: & 1 leaves the one that counts.
    masks = {
        "External": external,
        "Lung": lungs,
        "Air": _at_least(external & (axial < rules.air_hu) & ~lungs & 1, rules.smallest_air_cm3),
        "Bone": _at_least(external & (axial > rules.bone_hu), rules.smallest_bone_cm3),
        "Couch": _couch(axial, external, rules),
    }
    turned = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    back = {name: sitk.DICOMOrient(mask, turned) for name, mask in masks.items()}
    for mask in back.values():
        mask.CopyInformation(image)
    return back


def _external(image: sitk.Image, rules: RulesRuntime) -> sitk.Image:
    """The largest piece once thin bridges are cut, with what it encloses in each axial plane.

    What the edge of a small field of view opens is enclosed, too, where it has the density of a lung.
    """
    radius = _radius(image, rules.opening_mm)
    solid = image > rules.external_hu
    body = sitk.BinaryDilate(_largest(sitk.BinaryErode(solid, radius)), radius) & solid
    planes = zip(sitk.GetArrayFromImage(body), sitk.GetArrayViewFromImage(image), strict=True)
    external = sitk.GetImageFromArray(np.stack([_with_inside(*plane, rules) for plane in planes]))
    external.CopyInformation(image)
    return external


def _with_inside(body: NDArray[np.uint8], hu: NDArray[np.float32], rules: RulesRuntime) -> NDArray[np.uint8]:
    """A plane of the body with what it encloses, or encloses but for a cut that leaves most of a lung."""
    rest, _ = ndimage.label(body == 0)
    frame = np.ones(rest.shape, bool)
    frame[1:-1, 1:-1] = False
    inside = np.ones(rest.shape, bool)
    for label in np.unique(rest[frame & (rest > 0)]):
        piece = rest == label
        outline = piece & ~ndimage.binary_erosion(piece)
        on_frame = (outline & frame).sum() / outline.sum()
        is_lung = rules.cut_lung_hu < float(np.median(hu[piece])) < rules.air_hu
        if not is_lung or on_frame > _MOST_ON_FRAME:
            inside[piece] = False
    return inside.astype(np.uint8)


def _lungs(image: sitk.Image, external: sitk.Image, rules: RulesRuntime) -> sitk.Image:
    """Large pieces of the density of lung, with the vessels in them.

    The opening takes away what is as thin as the edge between an airway, or gas in the bowel, and its wall.
    """
    tissue = external & (image < rules.air_hu) & (image > rules.lung_hu)
    radius = _radius(image, rules.opening_mm / 2)
    opened = sitk.BinaryDilate(sitk.BinaryErode(tissue, radius), radius) & tissue
    large = _at_least(opened, rules.smallest_lung_cm3)
    closed = sitk.BinaryMorphologicalClosing(large, _radius(image, rules.closing_mm), sitk.sitkBall)
    lungs: sitk.Image = closed & external
    return lungs


def _couch(image: sitk.Image, external: sitk.Image, rules: RulesRuntime) -> sitk.Image:
    """What is denser than air outside the body, apart from its blurred edge, with what it encloses."""
    near = sitk.BinaryDilate(external, _radius(image, rules.opening_mm))
    return _at_least(_filled(image > rules.couch_hu) & ~near & 1, rules.smallest_couch_cm3)


def _filled(mask: sitk.Image) -> sitk.Image:
    """A mask with the holes of each axial plane."""
    planes = [ndimage.binary_fill_holes(plane) for plane in sitk.GetArrayViewFromImage(mask)]
    filled = sitk.GetImageFromArray(np.stack(planes).astype(np.uint8))
    filled.CopyInformation(mask)
    return filled


def _at_least(mask: sitk.Image, volume_cm3: float) -> sitk.Image:
    """The pieces of a mask that have this volume or more."""
    smallest = int(np.ceil(volume_cm3 * 1000 / voxel_mm3(mask)))
    pieces: sitk.Image = sitk.RelabelComponent(sitk.ConnectedComponent(mask), smallest) > 0
    return pieces


def _largest(mask: sitk.Image) -> sitk.Image:
    largest: sitk.Image = sitk.RelabelComponent(sitk.ConnectedComponent(mask)) == 1
    return largest


def _radius(image: sitk.Image, radius_mm: float) -> list[int]:
    """The radius in voxels along each axis, one at least."""
    return [max(1, round(radius_mm / spacing)) for spacing in image.GetSpacing()]
