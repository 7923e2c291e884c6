"""Where a scan ends inside the body: by side, and on the way of every beam."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mqi_dagster.delivery.manifest import ScanEnd
from mqi_dagster.delivery.scan_ends import CoarseSlice, coarse_slice, range_in_water_mm, scan_ends
from mqi_dagster.delivery.validation import build_manifest
from mqi_dagster.dicom.ct_images import CtImage
from mqi_dagster.machine import Machine, Machines
from mqi_dagster.plan.model import PlanBeam, PlanLayer, PlanRangeShifter, ScanMode
from mqi_dagster.settings import built_in_profiles
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest
from tests.delivery.delivery_cases import surveyed

Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
SCAN: Box = ((-100.0, 100.0), (-100.0, 100.0), (-60.0, 60.0))
"""Lower and upper edge in x, y, z [mm]; voxels of 2 x 2 x 3 mm."""


def scan_of(body: Box, scan: Box = SCAN) -> list[CoarseSlice]:
    """A block of water in air, as images in no order."""
    steps = (2.0, 2.0, 3.0)
    axes = [np.arange(low + s / 2, high, s) for (low, high), s in zip(scan, steps, strict=True)]
    within = [(axis > low) & (axis < high) for axis, (low, high) in zip(axes, body, strict=True)]
    slices = []
    for z, in_z in zip(axes[2], within[2], strict=True):
        plane = np.where(in_z & within[1][:, None] & within[0][None, :], 0.0, -1000.0).astype(np.float32)
        image = CtImage(
            instance_uid=str(z),
            series_uid="1",
            patient_id="",
            frame_of_reference_uid="",
            patient_position="HFS",
            position_mm=(float(axes[0][0]), float(axes[1][0]), float(z)),
            orientation=(1, 0, 0, 0, 1, 0),
            spacing_mm=(2.0, 2.0),
            rows=plane.shape[0],
            columns=plane.shape[1],
            highest_hu=0.0,
        )
        slices.append(coarse_slice(image, plane))
    return slices[1::2] + slices[::2]


def beam_of(
    gantry: float = 0.0,
    couch: float = 0.0,
    energy_mev: float = 100.0,
    isocenter: tuple[float, float, float] = (0.0, 0.0, 0.0),
    shifters: tuple[PlanRangeShifter, ...] = (),
) -> PlanBeam:
    """Four spots within 10 mm of the isocentre."""
    spots = np.array([[-10.0, -10.0], [10.0, -10.0], [10.0, 10.0], [-10.0, 10.0]], np.float32)
    layer = PlanLayer(1, 0, energy_mev, 4.0, spots, np.ones(4))
    return PlanBeam(
        number=2,
        name="B",
        description="",
        machine_name="GENERIC",
        gantry_angle_deg=gantry,
        couch_angle_deg=couch,
        isocenter_mm=isocenter,
        snout_position_mm=300.0,
        meterset_mu=4.0,
        range_shifters=shifters,
        blocks=(),
        mlc=None,
        layers=(layer,),
        scan_mode=ScanMode.LINE,
    )


@pytest.fixture(scope="module")
def generic(machines: Machines) -> Machine:
    return machines.named("GENERIC")


INSIDE: Box = ((-80.0, 80.0), (-80.0, 80.0), (-40.0, 40.0))
LARGER: Box = ((-200.0, 200.0), (-200.0, 200.0), (-200.0, 200.0))


def of_beam(ends: tuple[ScanEnd, ...]) -> list[str]:
    return [end.text for end in ends if end.beam == 2]


def test_a_body_with_air_around_it_is_whole(generic: Machine) -> None:
    assert scan_ends(scan_of(INSIDE), [beam_of()], generic) == ()


@pytest.mark.parametrize(
    ("axis", "end", "side"),
    [(0, 0, "right"), (0, 1, "left"), (1, 0, "front"), (1, 1, "back"), (2, 0, "feet"), (2, 1, "head")],
)
def test_each_side_is_named_with_how_much_of_it_is_body(axis: int, end: int, side: str) -> None:
    body = [list(pair) for pair in INSIDE]
    body[axis][end] = SCAN[axis][end] * 2
    a, b = (INSIDE[other] for other in range(3) if other != axis)
    (found,) = scan_ends(scan_of((tuple(body[0]), tuple(body[1]), tuple(body[2]))), [], None)  # type: ignore[arg-type]
    assert found.beam is None
    said = re.search(r"at the (\w+): (\d+) % of that side, (\d+) cm2", found.text)
    assert said is not None
    assert said[1] == side
    assert float(said[3]) == pytest.approx((a[1] - a[0]) * (b[1] - b[0]) / 100.0, rel=0.06)


@pytest.mark.parametrize(
    ("gantry", "couch", "side"),
    [
        (0, 0, "front"),
        (90, 0, "left"),
        (180, 0, "back"),
        (270, 0, "right"),
        (90, 90, "feet"),
        (270, 90, "head"),
    ],
)
def test_a_beam_that_enters_inside_the_body_is_named_with_the_side(
    gantry: float, couch: float, side: str, generic: Machine
) -> None:
    # 50 MeV stop after 22 mm, so nothing leaves on the other side.
    ends = scan_ends(scan_of(LARGER), [beam_of(gantry, couch, 50.0)], generic)
    (text,) = of_beam(ends)
    assert text.startswith(f"100 % of its spots enter the scan inside the body, at the {side}:")


def test_protons_that_leave_the_scan_in_the_body_have_the_rest_of_their_range_left(generic: Machine) -> None:
    # 40 mm of air, then 160 mm of water to the end of the scan at the back.
    body: Box = ((-80.0, 80.0), (-60.0, 200.0), (-40.0, 40.0))
    assert range_in_water_mm(180.0) == pytest.approx(216.0, abs=1.5)  # PSTAR: 216.4 mm
    (text,) = of_beam(scan_ends(scan_of(body), [beam_of(energy_mev=180.0)], generic))
    said = re.fullmatch(
        r"100 % of its spots leave the scan inside the body, at the back,"
        r" with up to (\d+) mm of water of their range left",
        text,
    )
    assert said is not None
    assert float(said[1]) == pytest.approx(216.0 - 160.0, abs=4.0)
    assert of_beam(scan_ends(scan_of(body), [beam_of(energy_mev=140.0)], generic)) == []
    # 60 mm of a range shifter leave none of it.
    shifter = PlanRangeShifter(1, "RS_3CM", None, 34.3)
    behind = [beam_of(energy_mev=180.0, shifters=(shifter, shifter))]
    assert of_beam(scan_ends(scan_of(body), behind, generic)) == []


def test_protons_that_pass_through_the_body_into_air_are_no_end_of_the_scan(generic: Machine) -> None:
    assert scan_ends(scan_of(INSIDE), [beam_of(energy_mev=220.0)], generic) == ()


@pytest.mark.parametrize("x_mm", [300.0, 1e12])
def test_a_beam_beside_the_scan_is_named_however_far(generic: Machine, x_mm: float) -> None:
    beside = beam_of(isocenter=(x_mm, 0.0, 0.0))
    ends = scan_ends(scan_of(INSIDE), [beside], generic)
    assert of_beam(ends) == ["100 % of its spots pass beside the scan"]


@pytest.mark.parametrize(("margin_mm", "cut"), [(20.0, False), (0.0, True)])
def test_the_ends_of_a_cases_scan_stand_in_its_manifest_and_among_its_notes(
    margin_mm: float, cut: bool, tmp_path: Path, machines: Machines
) -> None:
    plan = BuiltInPlan(beams=1, layers=1, spots=9, layer_seconds=0.02, energies_mev=(150.0,))
    request = DeliveryRequest(
        plan=plan, ct="water", ct_voxel_mm=5.0, ct_cube_mm=120.0, ct_margin_mm=margin_mm
    )
    survey = surveyed(simulate_delivery(request, machines.named("GENERIC"), tmp_path).folder)
    manifest = build_manifest(survey, survey.fractions[0], "P1.fx0001", 1, machines)
    about = [note for note in manifest.notes if "the scan" in note]
    assert about == [f"CT: {end}" for end in manifest.scan_ends]
    if not cut:
        assert manifest.scan_ends == ()
        return
    # A cube of water to the edges of every side: 24 x 24 voxels of 5 mm, 115 mm between their centres.
    assert about[0] == (
        "CT: the scan ends inside the body (or the couch) at the right: 100 % of that side, 132 cm2;"
        " what lies beyond is simulated as air"
    )
    assert len([end for end in manifest.scan_ends if end.beam is None]) == 6
    (entering, leaving) = (end.text for end in manifest.scan_ends if end.beam == 2)
    assert "100 % of its spots enter the scan inside the body" in entering
    # 156 mm of range in 118 mm of water.
    said = re.search(r"with up to (\d+) mm of water", leaving)
    assert said is not None
    assert float(said[1]) == pytest.approx(38.0, abs=5.0)
    # An engine that simulates in water asks nothing of a scan.
    in_water = built_in_profiles()["moqui"]
    manifest = build_manifest(survey, survey.fractions[0], "P1.fx0001", 1, machines, in_water)
    assert manifest.scan_ends == ()
