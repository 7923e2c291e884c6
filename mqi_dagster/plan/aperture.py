"""Block and multileaf collimator as CSV files in centimetres, as the interpreter of gantry G1 writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mqi_dagster.errors import InfrastructureError, PlanError, Where
from mqi_dagster.files import write_whole
from mqi_dagster.plan.model import Block, MultileafCollimator, PlanBeam

HOME_MM = -90.0
"""Leaves at or beyond this stand in their home position."""
MM_PER_CM = 10.0
"""DICOM gives block data, thickness and leaves in millimetres (docs/physics.md 8)."""


def export_aperture(beam: PlanBeam, folder: Path) -> list[Path]:
    """Write every block of a beam, and its multileaf collimator where a leaf has left its home position.

    ``<beam>_aperture.csv`` for a single block, ``<beam>_aperture_<block number>.csv`` for each of several,
    ``<beam>_mlc.csv`` for the collimator; ``<beam>`` is the BeamName in lower case, with every character
    outside ``[a-z0-9_-]`` replaced by ``_``.

    Args:
        beam: The beam.
        folder: An existing folder.

    Returns:
        The files written; none where the beam has neither.

    Raises:
        PlanError: The collimator's leaves are not all of the same width, which the file cannot say.
        InfrastructureError: A file cannot be written.
    """
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", beam.name).lower()
    label = " ".join(beam.name.split())
    contents: dict[str, str] = {}
    for block in beam.blocks:
        suffix = "" if len(beam.blocks) == 1 else f"_{block.number}"
        contents[f"{stem}_aperture{suffix}.csv"] = _block_text(block, label)
    if beam.mlc is not None and _any_leaf_out(beam.mlc):
        contents[f"{stem}_mlc.csv"] = _mlc_text(beam.mlc, label, beam.number)
    return [_write(folder / name, text) for name, text in contents.items()]


def _any_leaf_out(mlc: MultileafCollimator) -> bool:
    return any((layer.left_mm > HOME_MM).any() or (layer.right_mm > HOME_MM).any() for layer in mlc.layers)


def _cm(value_mm: float) -> str:
    return f"{value_mm / MM_PER_CM:.10g}"


def _lines(comments: Sequence[tuple[str, str]], header: str, rows: Sequence[str]) -> str:
    return "\n".join([*(f"# {key}={value}" for key, value in comments), header, *rows]) + "\n"


def _block_text(block: Block, beam_name: str) -> str:
    comments = [
        ("beam_name", beam_name),
        ("device_type", "aperture"),
        ("thickness_cm", _cm(block.thickness_mm)),
        ("material", " ".join(block.material.split())),
        ("coordinate_system", "DICOM_IEC"),
    ]
    return _lines(comments, "x_coord_cm,y_coord_cm", [f"{_cm(x)},{_cm(y)}" for x, y in block.outline_mm])


def _mlc_text(mlc: MultileafCollimator, beam_name: str, number: int) -> str:
    widths_mm = mlc.boundaries_mm[1:] - mlc.boundaries_mm[:-1]
    if abs(widths_mm - widths_mm[0]).max() > 1e-3:
        raise PlanError(
            "the leaves of the multileaf collimator differ in width, which its CSV cannot express",
            where=Where(kind="aperture", beam=str(number)),
        )
    comments = [
        ("beam_name", beam_name),
        ("device_type", "mlc"),
        ("num_leaves", str(len(widths_mm))),
        ("leaf_width_cm", _cm(widths_mm[0])),
        ("coordinate_system", "DICOM_IEC"),
    ]
    rows = [
        f"{layer.energy_mev:.10g},{leaf},{_cm(left)},{_cm(right)}"
        for layer in mlc.layers
        for leaf, (left, right) in enumerate(zip(layer.left_mm, layer.right_mm, strict=True), start=1)
    ]
    return _lines(comments, "layer_energy_mev,leaf_index,left_pos_cm,right_pos_cm", rows)


def _write(path: Path, text: str) -> Path:
    try:
        write_whole(path, text.encode("utf-8"))
    except OSError as error:
        raise InfrastructureError(
            f"the aperture cannot be written: {error.strerror}", where=Where(kind="aperture")
        ) from None
    return path
