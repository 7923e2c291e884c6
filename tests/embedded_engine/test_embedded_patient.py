"""Beams in a patient's CT, with the real MCsquare."""

from __future__ import annotations

from math import cos, radians, sin
from pathlib import Path

import numpy as np
import pytest

from mqi_dagster.embedded_engine.command import run
from mqi_dagster.embedded_engine.install import Installation
from mqi_dagster.hu_table import HuCurves
from mqi_dagster.machine import Machine
from tests.embedded_engine.embedded_depth import r80, read_raw
from tests.embedded_engine.embedded_job import TYPICAL, Beam, Ct, write_job

CSDA_MM = 91.38  # PSTAR, 110 MeV
ISOCENTER = (23.7, -41.3, 8.9)
SPOT = (12.0, -8.0)
# The water, as lower and upper edges [mm], is not centred on anything.
WATER = np.array([[-70.0, 80.0], [-130.0, 40.0], [-60.0, 66.0]])
BONE = np.array([[30.0, 50.0], [-120.0, -104.0], [-12.0, 12.0]])


def scan() -> Ct:
    """2 x 2 x 3 mm voxels of air, with a block of water that holds a plate of bone (1000 HU)."""
    first, spacing, shape = (-119.0, -159.0, -88.5), (2.0, 2.0, 3.0), (60, 120, 120)
    axes = [first[a] + spacing[a] * np.arange(shape[2 - a]) for a in range(3)]
    values = np.full(shape, -1000, np.int16)
    for box, hounsfield in ((WATER, 0), (BONE, 1000)):
        inside = [(axes[a] > box[a, 0]) & (axes[a] < box[a, 1]) for a in range(3)]
        values[np.ix_(inside[2], inside[1], inside[0])] = hounsfield
    return Ct(values, first, spacing)


def to_dicom(point: tuple[float, float, float], gantry: float, couch: float) -> np.ndarray:
    """A point or direction of the IEC gantry system in DICOM axes (HFS), IEC 61217, written out by hand."""
    x, y, z = point
    g, c = radians(gantry), radians(couch)
    x, z = x * cos(g) + z * sin(g), -x * sin(g) + z * cos(g)  # gantry: clockwise seen from the foot end
    x, y = x * cos(c) + y * sin(c), -x * sin(c) + y * cos(c)  # the table turned counter-clockwise from above
    return np.array([x, -z, y])


def test_solid_water_of_1_02_stops_as_water_where_the_table_says_so(
    mcsquare: Installation, generic: Machine, tmp_path: Path
) -> None:
    """A phantom of 20 HU, 200 mm deep, its surface at y = -100 mm."""
    values = np.full((30, 60, 30), -1000, np.int16)
    values[:, 10:, :] = 20
    ct = Ct(values, (-58.0, -138.0, -58.0), (4.0, 4.0, 4.0))
    density = {"hu": [-1000, 0, 20, 3000], "value": [0.0012, 1.0, 1.02, 2.7]}
    power = {"hu": [-1000, 0, 20, 3000], "value": [0.001, 1.0, 1.0, 2.4]}
    found = []
    for name, changes in (("dense", {}), ("solid", {"stopping_power": power})):
        content = TYPICAL.model_dump() | {"density_g_cm3": density} | changes
        table = HuCurves.model_validate(content)
        beam = Beam({110.0: [(0.0, 0.0, 1000)]})
        run(write_job(tmp_path / name, beam, generic, ct, histories=9600, hu_table=table))
        dose, edge, _ = read_raw(tmp_path / name / "Dose" / "1G000_1_Dose.mhd")
        depth = edge[1] + 2.0 * (np.arange(dose.shape[1]) + 0.5) + 100.0
        found.append(r80(depth, dose.sum(axis=(0, 2))))
    assert found[1] == pytest.approx(CSDA_MM, abs=0.5)
    assert found[0] == pytest.approx(CSDA_MM / 1.02, abs=0.5)


@pytest.mark.parametrize(
    ("gantry", "couch", "entry_axis", "entry_side", "through_bone"),
    [
        (0, 0, 1, 0, True),  # from the front: lowest y
        (90, 0, 0, 1, False),  # from the patient's left: highest x
        (180, 0, 1, 1, False),  # from the back
        (270, 0, 0, 0, False),  # from the patient's right
        (90, 90, 2, 0, False),  # the feet point to the gantry's 90 degrees
        (0, 90, 1, 0, False),
    ],
)
def test_the_beam_enters_and_stops_where_its_angles_say(
    gantry: float,
    couch: float,
    entry_axis: int,
    entry_side: int,
    through_bone: bool,
    mcsquare: Installation,
    generic: Machine,
    tmp_path: Path,
) -> None:
    beam = Beam({110.0: [(*SPOT, 1000)]}, gantry=gantry, couch=couch, isocenter=ISOCENTER)
    run(write_job(tmp_path, beam, generic, scan(), histories=6400))
    dose, edge, spacing = read_raw(tmp_path / "Dose" / "1G000_1_Dose.mhd")
    assert not (tmp_path / "Dose" / "1G000_2_Dose.raw").exists()
    # 20 mm of air on every side of the water, in whole voxels from the scan's edge at (-120, -160, -90).
    assert edge.tolist() == [-90.0, -150.0, -80.0]
    assert dose.shape == (83, 105, 95)
    assert dose[:, :10].max() == dose[:, -10:].max() == dose[..., :10].max() == 0.0  # air carries none
    assert spacing.tolist() == [2.0, 2.0, 2.0]
    axes = [edge[a] + 2.0 * (np.arange(dose.shape[2 - a]) + 0.5) for a in range(3)]

    # The test's own ray: from the virtual sources (2000 and 2560 mm) through the spot.
    start = np.array(ISOCENTER) + to_dicom((*SPOT, 0.0), gantry, couch)
    way = to_dicom((SPOT[0] / 2000.0, SPOT[1] / 2560.0, -1.0), gantry, couch)
    assert way[entry_axis] == pytest.approx(1.0 - 2.0 * entry_side)
    surface = WATER[entry_axis, entry_side]

    others = tuple(2 - a for a in range(3) if a != entry_axis)
    along = dose.sum(axis=others)
    forward = slice(None, None, -1 if entry_side else 1)
    depth = np.abs(axes[entry_axis] - surface) * np.where(
        (axes[entry_axis] - surface) * way[entry_axis] > 0, 1.0, -1.0
    )
    water = depth > 0
    assert along[~water].sum() == 0.0
    stop = r80(depth[forward], along[forward])
    if through_bone:
        # 16 mm of bone of 1.55 g/cm3 stop about as much as 23 mm of water.
        assert stop == pytest.approx(CSDA_MM - 7.0, abs=1.5)
    else:
        assert stop == pytest.approx(CSDA_MM, abs=1.0)

    for axis in (a for a in range(3) if a != entry_axis):
        shallow = np.moveaxis(dose, 2 - entry_axis, 0)[np.abs(depth - 40.0) < 20.0].sum(axis=0)
        rest = [a for a in (2, 1, 0) if a != 2 - entry_axis]
        profile = shallow.sum(axis=0 if rest.index(2 - axis) == 0 else 1)
        centre = (profile * axes[axis]).sum() / profile.sum()
        at = start + way * ((surface + 40.0 * way[entry_axis]) - start[entry_axis]) / way[entry_axis]
        assert centre == pytest.approx(at[axis], abs=0.5)
