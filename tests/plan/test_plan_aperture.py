"""Blocks and leaves in centimetres."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from mqi_dagster.errors import InfrastructureError, PlanError
from mqi_dagster.plan.aperture import export_aperture
from mqi_dagster.plan.model import Block, PlanBeam
from mqi_dagster.plan.reading import read_ion_plan

BLOCK = """\
# beam_name=2G000:TX
# device_type=aperture
# thickness_cm=6.5
# material=BRASS
# coordinate_system=DICOM_IEC
x_coord_cm,y_coord_cm
-3.55,1
2,3
-0.5,0.025
"""

LEAVES = """\
# beam_name=2G000:TX
# device_type=mlc
# num_leaves=2
# leaf_width_cm=0.5
# coordinate_system=DICOM_IEC
layer_energy_mev,leaf_index,left_pos_cm,right_pos_cm
120,1,-1.25,1
120,2,-9,2.05
"""


@pytest.fixture
def collimated(mosaiq: Dataset, saved: Callable[..., Path]) -> PlanBeam:
    """A G1 beam with one block and a multileaf collimator of two pairs, read from DICOM."""
    beam = mosaiq.IonBeamSequence[1]
    block, device, position = Dataset(), Dataset(), Dataset()
    block.BlockNumber, block.BlockThickness, block.MaterialID = 1, 65, "BRASS"
    block.BlockNumberOfPoints, block.BlockData = 3, [-35.5, 10, 20, 30, -5, 0.25]
    beam.IonBlockSequence, beam.NumberOfBlocks = Sequence([block]), 1
    device.RTBeamLimitingDeviceType, device.NumberOfLeafJawPairs = "MLCX", 2
    device.LeafPositionBoundaries = [-5, 0, 5]
    beam.IonBeamLimitingDeviceSequence = Sequence([device])
    position.RTBeamLimitingDeviceType, position.LeafJawPositions = "MLCX", [-12.5, -90, 10, 20.5]
    beam.IonControlPointSequence[0].BeamLimitingDevicePositionSequence = Sequence([position])
    return read_ion_plan(saved(mosaiq)).beam(3)


def test_millimetres_become_centimetres(collimated: PlanBeam, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    written = export_aperture(collimated, folder)
    assert [path.name for path in written] == ["2g000_tx_aperture.csv", "2g000_tx_mlc.csv"]
    assert written[0].read_text() == BLOCK
    assert written[1].read_text() == LEAVES
    assert sorted(path.name for path in folder.iterdir()) == ["2g000_tx_aperture.csv", "2g000_tx_mlc.csv"]


def test_every_block_has_its_file(collimated: PlanBeam, tmp_path: Path) -> None:
    second = Block(7, 30.0, "CERROBEND", np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 123.4]]))
    written = export_aperture(replace(collimated, blocks=(*collimated.blocks, second), mlc=None), tmp_path)
    assert [path.name for path in written] == ["2g000_tx_aperture_1.csv", "2g000_tx_aperture_7.csv"]
    assert written[0].read_text() == BLOCK
    assert written[1].read_text().splitlines()[2:4] == ["# thickness_cm=3", "# material=CERROBEND"]
    assert written[1].read_text().splitlines()[-1] == "0.1,12.34"


def test_leaves_at_home_are_not_written(collimated: PlanBeam, tmp_path: Path) -> None:
    assert collimated.mlc is not None
    layer = collimated.mlc.layers[0]
    home = replace(layer, left_mm=np.array([-90.0, -90.0]), right_mm=np.array([-90.0, -95.0]))
    beam = replace(collimated, blocks=(), mlc=replace(collimated.mlc, layers=(home,)))
    assert export_aperture(beam, tmp_path) == []
    out = replace(home, left_mm=np.array([-95.0, -89.9]))
    beam = replace(beam, mlc=replace(collimated.mlc, layers=(home, out)))
    (written,) = export_aperture(beam, tmp_path)
    assert written.read_text().splitlines()[-1] == "120,2,-8.99,-9.5"
    out = replace(home, right_mm=np.array([-89.9, -95.0]))
    beam = replace(beam, mlc=replace(collimated.mlc, layers=(home, out)))
    (written,) = export_aperture(beam, tmp_path)
    assert written.read_text().splitlines()[-2:] == ["120,1,-9,-8.99", "120,2,-9,-9.5"]


def test_leaves_follow_their_layer(mosaiq: Dataset, saved: Callable[..., Path]) -> None:
    beam = mosaiq.IonBeamSequence[2]
    device = Dataset()
    device.RTBeamLimitingDeviceType, device.NumberOfLeafJawPairs = "MLCY", 1
    device.LeafPositionBoundaries = [-5, 5]
    beam.IonBeamLimitingDeviceSequence = Sequence([device])
    for index, leaves in ((0, [-1, 1]), (4, [-3, 3])):
        jaws, position = Dataset(), Dataset()
        jaws.RTBeamLimitingDeviceType, jaws.LeafJawPositions = "ASYMX", [-99, 99]
        position.RTBeamLimitingDeviceType, position.LeafJawPositions = "MLCY", leaves
        beam.IonControlPointSequence[index].BeamLimitingDevicePositionSequence = Sequence([jaws, position])
    mlc = read_ion_plan(saved(mosaiq)).beam(2).mlc
    assert mlc is not None
    assert [(layer.left_mm[0], layer.right_mm[0]) for layer in mlc.layers] == [(-1, 1), (-1, 1), (-3, 3)]


def test_what_the_file_cannot_say_is_refused(collimated: PlanBeam, tmp_path: Path) -> None:
    assert collimated.mlc is not None
    uneven = replace(collimated.mlc, boundaries_mm=np.array([-5.0, 0.0, 10.0]))
    with pytest.raises(PlanError, match=r"beam 3, aperture: the leaves.*differ in width"):
        export_aperture(replace(collimated, mlc=uneven), tmp_path)
    assert not list(tmp_path.glob("*.csv"))


def test_an_aperture_that_cannot_be_written_is_an_error(collimated: PlanBeam, tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="aperture cannot be written: No such file") as caught:
        export_aperture(collimated, tmp_path / "absent")
    assert str(tmp_path) not in str(caught.value)


def test_a_beam_without_either_writes_nothing(
    mosaiq: Dataset, saved: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    assert export_aperture(read_ion_plan(saved(mosaiq)).beam(2), folder) == []
    assert list(folder.iterdir()) == []
