"""The spots of a control point: the standard scan spot map, or MOSAIQ's private one (docs/formats.md 11)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from mqi_dagster.plan.elements import integer, numbers, refuse
from mqi_dagster.plan.model import Floats

CREATOR = "IMPAC"
GROUP = 0x300B
COUNT = 0x92
POSITIONS = 0x94
WEIGHTS = 0x96
VERSION_AND_MAP = (0x90, COUNT, POSITIONS, WEIGHTS, 0x98, 0x9A)
"""Offsets in IMPAC's block: version, number of spots, positions, weights, spot size, paintings."""

AGREEMENT = 1e-3
"""Largest difference between a standard and a private map that says the same [mm, meterset weight]."""


@dataclass(frozen=True, slots=True)
class SpotMap:
    """Spots of one control point."""

    positions_mm: Floats
    """Shape (n, 2)."""
    weights: Floats
    """Shape (n,): meterset weights, of which only the ratios count."""


def private_block(dataset: Dataset) -> dict[int, bytes]:
    """The elements of IMPAC's blocks in group 300B as little-endian bytes, by offset in the block.

    The block is the one its private creator reserves, whichever number that has.
    """
    found: dict[int, bytes] = {}
    for block in range(0x10, 0x100):
        creator = dataset.get((GROUP, block))
        if creator is None or _little_endian(creator.value).strip(b" \0") != CREATOR.encode():
            continue
        for offset in VERSION_AND_MAP:
            element = dataset.get((GROUP, block << 8 | offset))
            if element is not None and element.value is not None:
                found.setdefault(offset, _little_endian(element.value))
    return found


def decode_floats(raw: bytes) -> Floats:
    """Float32 little-endian bytes as numbers (docs/physics.md 1); the caller has checked the length."""
    return np.frombuffer(raw, dtype="<f4").astype(np.float64)


def encode_floats(values: Floats) -> bytes:
    """Numbers as the float32 little-endian bytes of the private map."""
    return np.asarray(values, dtype="<f4").tobytes()


def _little_endian(value: object) -> bytes:
    """A private element's bytes, whatever representation it was given when it was stored."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str | int):
        plain = str(value).encode()
        return plain + b" " * (len(plain) % 2)
    several: list[Any] = list(value) if isinstance(value, Iterable) else [value]
    return encode_floats(np.array([float(item) for item in several], dtype=np.float64))


def read_spot_map(control_point: Dataset, beam: int, layer: int) -> SpotMap | None:
    """The spots of a control point, or None where it has no map.

    Args:
        control_point: Item of the Ion Control Point Sequence.
        beam: BeamNumber, for the error.
        layer: Number of the layer, for the error.

    Raises:
        PlanError: A map's length contradicts its count, a value is not finite, or the two maps differ.
    """
    standard = _standard_map(control_point, beam, layer)
    private = _private_map(control_point, beam, layer)
    if standard is None or private is None:
        return private if standard is None else standard
    if len(standard.weights) != len(private.weights):
        refuse("the standard and the private spot map have different numbers of spots", beam, layer)
    apart = max(
        np.abs(standard.positions_mm - private.positions_mm).max(initial=0.0),
        np.abs(standard.weights - private.weights).max(initial=0.0),
    )
    if apart > AGREEMENT:
        refuse("the standard and the private spot map differ", beam, layer)
    return standard


def _standard_map(control_point: Dataset, beam: int, layer: int) -> SpotMap | None:
    positions = numbers(control_point, "ScanSpotPositionMap", beam, layer)
    weights = numbers(control_point, "ScanSpotMetersetWeights", beam, layer)
    if not len(positions) and not len(weights):
        return None
    count = integer(control_point, "NumberOfScanSpotPositions", beam)
    if len(positions) != 2 * count or len(weights) != count:
        refuse(
            f"the spot map says {count} spots, but holds {len(positions)} coordinates"
            f" and {len(weights)} weights",
            beam,
            layer,
        )
    return SpotMap(positions.reshape(-1, 2), weights)


def _private_map(control_point: Dataset, beam: int, layer: int) -> SpotMap | None:
    block = private_block(control_point)
    positions, weights = block.get(POSITIONS), block.get(WEIGHTS)
    if positions is None and weights is None:
        return None
    if positions is None or weights is None or COUNT not in block:
        refuse("the private spot map lacks its count, its positions or its weights", beam, layer)
    digits = block[COUNT].strip(b" \0")
    if not digits.isdigit():
        refuse("the private spot map's count is not a number", beam, layer)
    count = int(digits)
    if len(positions) != 8 * count or len(weights) != 4 * count:
        refuse(
            f"the private spot map says {count} spots, but holds {len(positions)} bytes of positions"
            f" (not {8 * count}) and {len(weights)} bytes of weights (not {4 * count})",
            beam,
            layer,
        )
    spots = SpotMap(decode_floats(positions).reshape(-1, 2), decode_floats(weights))
    if not (np.isfinite(spots.positions_mm).all() and np.isfinite(spots.weights).all()):
        refuse("the private spot map holds a number that is not finite", beam, layer)
    return spots
