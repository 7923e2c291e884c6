"""The dose that our own proton chain computes on a real CT goes into the dose-volume tables of its course."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import yaml
from matplotlib.path import Path as Outline

from mqi_dagster.embedded_engine.install import Installation
from mqi_dagster.imaging.structure_files import StructureRecord, StructureSource
from mqi_dagster.imaging.structure_names import Naming
from tests.assets.course_site import Course
from tests.chain.chain import MACHINES, Chain, mcsquare_engine


def delivered(folder: Path, phantom: Path) -> list[Path]:
    """The phantom's plan as it is delivered, and the RT Doses that our proton chain makes of its beams."""
    machines = folder / "machines"
    machines.mkdir()
    machine = yaml.safe_load((MACHINES / "generic.yaml").read_text())
    machine["range_shifters"]["RS_5CM"] = {"thickness_mm": 50.0, "water_equivalent_thickness_mm": 57.0}
    (machines / "generic.yaml").write_text(yaml.safe_dump(machine))
    chain = Chain(folder / "proton", {"engine": mcsquare_engine(20000), "paths": {"machines": str(machines)}})
    (plan,) = phantom.glob("RN*")
    case = chain.deliver(plan=plan, max_layers=2, max_spots=40).folder
    (case / "CT").mkdir()
    for image in phantom.glob("CT*"):
        shutil.copy(image, case / "CT")
    chain.tick_sensors(rounds=3)
    assert [outcome.error for _, _, outcome in chain.runs if not outcome.success] == []
    return [*case.glob("RP*"), *sorted(chain.handover.rglob("rt_dose.dcm"))]


def mean_of_voxels(dose: pydicom.Dataset, structures: pydicom.Dataset, number: int) -> float:
    """Mean of the dose voxels whose centre is inside of the nearest contours, in ten lines of its own."""
    (item,) = (one for one in structures.ROIContourSequence if one.ReferencedROINumber == number)
    contours = [np.array(one.ContourData, float).reshape(-1, 3) for one in item.ContourSequence]
    heights = np.unique([contour[0, 2] for contour in contours])
    x0, y0, z0 = map(float, dose.ImagePositionPatient)
    x, y = np.meshgrid(x0 + 2.0 * np.arange(dose.Columns), y0 + 2.0 * np.arange(dose.Rows))
    points, values = np.column_stack([x.ravel(), y.ravel()]), list[float]()
    for frame, z in zip(dose.pixel_array, z0 + np.array(dose.GridFrameOffsetVector, float), strict=True):
        nearest = heights[np.abs(heights - z).argmin()]
        if abs(nearest - z) <= 0.75:
            polygons = [contour for contour in contours if contour[0, 2] == nearest]
            inside = (
                np.sum([Outline(one[:, :2]).contains_points(points) for one in polygons], axis=0) % 2 == 1
            )
            values.extend(frame.ravel()[inside] * float(dose.DoseGridScaling))
    return float(np.mean(values))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_our_dose_in_the_head_phantom_has_figures(
    mcsquare: Installation, shared: Path, tmp_path: Path
) -> None:
    with tarfile.open(shared / "cases" / "head_phantom" / "head_phantom.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    phantom = tmp_path / "head_phantom"
    plan, *doses = delivered(tmp_path, phantom)
    (set_path,) = phantom.glob("RS*")
    drawn = pydicom.dcmread(set_path)
    series_uid = str(pydicom.dcmread(next(phantom.glob("CT*")), stop_before_pixels=True).SeriesInstanceUID)
    files = [*phantom.glob("CT*"), set_path, plan, *doses]
    course = Course(tmp_path / "course", (path.read_bytes() for path in files), series_uid)
    course.give_structures(
        [
            StructureRecord(
                id=name, series="", name=name, original_name=name, naming=Naming.UNKNOWN,
                source=StructureSource.CLINICAL, made_by="drawn", structure_set_uid=drawn.SOPInstanceUID,
                roi_number=number, volume_cm3=volume_cm3, voxels=1, centre_mm=None,
            )
            for number, name, volume_cm3 in ((1, "BODY", 6870.0), (9, "BrainStem", 33.9), (10, "CTV", 121.2))
        ]
    )  # fmt: skip
    content, metrics = course.measured()
    # A delivery is one session of each beam: no rule makes a total of them, and none is made.
    assert {(one.rule.value, one.dose_type, one.summed) for one in content.doses} == {
        ("ambiguous_no_sum", "PHYSICAL", False)
    }
    assert {one.prescription_source for one in content.doses} == {
        "the dose is not that of a whole plan (DoseSummationType BEAM_SESSION)"
    }
    assert [one.label.split(" (")[0] for one in content.doses] == [
        f"Brain_fin2, beam {number}" for number in sorted((1, 2, 3), key=lambda n: str(doses_uid(doses, n)))
    ]
    assert content.not_used == ()
    measured = {
        (used.dose_uids[0], row["ROI_Name"]): row
        for used in content.doses
        for row in metrics.filter(dose_id=used.dose_id).iter_rows(named=True)
    }
    assert len(measured) == 9
    for path in doses:
        dose = pydicom.dcmread(path)
        for number, name, volume_cm3 in ((9, "BrainStem", 33.889), (10, "CTV", 121.2)):
            row = measured[dose.SOPInstanceUID, name]
            assert row["dose_metric_status"] == "measured"
            assert row["Volume (cm³)"] == pytest.approx(volume_cm3, rel=1e-3)
            # In millionths of the hottest voxel, as some structures get hardly any dose.
            hottest = float(dose.pixel_array.max()) * float(dose.DoseGridScaling)
            expected = mean_of_voxels(dose, drawn, number)
            assert row["DmeanGy"] == pytest.approx(expected, rel=0.03, abs=0.002 * hottest)
        # A noisy dose: what is hottest in the brain stem is in the body, too.
        inner = max(measured[dose.SOPInstanceUID, name]["DmaxGy"] for name in ("BrainStem", "CTV"))
        assert measured[dose.SOPInstanceUID, "BODY"]["DmaxGy"] >= inner
    assert max(row["DmeanGy"] or 0.0 for row in measured.values()) > 0.001


def doses_uid(doses: list[Path], beam: int) -> str:
    """SOP Instance UID of the dose of a beam."""
    (found,) = (path for path in doses if path.parent.name.endswith(f"b{beam:02d}"))
    return str(pydicom.dcmread(found, stop_before_pixels=True).SOPInstanceUID)
