"""Models on a course: what is found, what is reused, what is told of one that is not for it or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses

from mqi_dagster.assets.radiotherapy.structures import structures
from mqi_dagster.imaging.segmentation_files import Segmentation, SegmentationState, read_segmentations
from mqi_dagster.imaging.structure_files import read_structures
from tests.assets.radiotherapy import course_site
from tests.assets.radiotherapy.course_site import (
    AUTO,
    BODY_CM3,
    BONE_CM3,
    CUSTOM,
    CourseSite,
    write_body,
    write_course,
    write_program,
)
from tests.imaging.models.model_folders import card, weights, write_card
from tests.imaging.models.test_onnx_model import linear

MADE, FAILED, NOT = SegmentationState.MADE, SegmentationState.FAILED, SegmentationState.NOT_APPLICABLE
ANSWER = "answer()\n"
BONE = ([[0.0], [1.0]], [315.0, 0.0])
"""Channel 1 is greater than channel 0 above 315 HU: halfway from the body to its bone."""


def records(site: CourseSite, asset: str = "custom_segmentation") -> dict[str, Segmentation]:
    """What was made, by model."""
    found = read_segmentations(site.published(asset).folder).segmentations
    assert len({one.model for one in found}) == len(found)
    return {one.model: one for one in found}


@pytest.fixture
def site(tmp_path: Path) -> CourseSite:
    """A site with one course, whose models lie in ``models``."""
    write_course(tmp_path / "dicom")
    return CourseSite.of(tmp_path, custom_models={"root": "models"})


def onnx_card(folder: Path, content: bytes, **changes: Any) -> Path:
    """A model of one network of one input on a grid of 6 mm."""
    network = {"weights": "net.onnx", "spacing_mm": [6, 6, 6], "labels": [0, 1]}
    listed = [weights(folder, "net.onnx", content)]
    return write_card(
        folder, card("onnx", {"network": network}, **{"name": folder.name, "weights": listed, **changes})
    )


def test_rules_find_a_made_body_and_a_second_run_finds_the_result(site: CourseSite) -> None:
    assert site.run(AUTO).success
    (run,) = (one for one in site.instance.get_runs() if "mqi/phase" in one.tags)
    assert (run.tags["mqi/phase"], run.tags["mqi/progress"]) == ("segmented", "100 %")

    (made,) = records(site, "auto_segmentation").values()
    assert (made.model, made.version, made.state, made.device) == ("rules_ct", "1", MADE, "cpu")
    assert (made.family, made.steps, made.reason) == ("Rule-based", (), "")
    volumes = {region.name: region.volume_cm3 for region in made.regions}
    assert volumes["External"] == pytest.approx(BODY_CM3, rel=0.01)
    assert volumes["Bone"] == pytest.approx(BONE_CM3, rel=0.03)
    assert {region.name: region.includes for region in made.regions}["External"] == (2, 3, 4)
    labels = sitk.ReadImage(site.published("auto_segmentation").path(f"{made.folder}/segmentation.nii.gz"))
    bone = np.argwhere(sitk.GetArrayFromImage(labels) == 4).mean(axis=0)
    middle = labels.TransformContinuousIndexToPhysicalPoint([float(one) for one in bone[::-1]])
    # To the left and to the front, in DICOM's axes.
    assert middle == pytest.approx((40.5, -19.5, 34.5), abs=0.01)
    assert (site.starts, site.site.ledger.leases.all()) == (1, [])
    assert [one.outcome for one in site.site.ledger.attempts.history(site.key)] == ["succeeded"]

    assert site.run(AUTO).success
    assert site.starts == 1
    row = site.metadata("auto_segmentation")["segmentations"].records[0].data
    assert (row["model"], row["state"], row["device"]) == ("rules_ct", "made", "cpu")
    assert row["regions"].startswith("External 14") and row["seconds"] > 0


def test_a_folder_with_a_card_joins_and_only_what_is_new_is_run(site: CourseSite, tmp_path: Path) -> None:
    onnx_card(tmp_path / "models" / "network", linear(*BONE))
    write_program(tmp_path / "models", "program", ANSWER)
    write_program(tmp_path / "models", "other", ANSWER, modality="MR")

    assert site.run(CUSTOM).success

    found = records(site)
    assert {name: one.state for name, one in found.items()} == {
        "network": MADE,
        "program": MADE,
        "other": NOT,
    }
    assert found["other"].reason == "it is for MR, not for CT"
    assert found["program"].regions[0].volume_cm3 == pytest.approx(BODY_CM3, rel=0.01)
    assert found["network"].regions[0].volume_cm3 == pytest.approx(BONE_CM3, rel=0.1)
    assert found["network"].family == "Artificial Intelligence"
    before = site.published("custom_segmentation").content_digests()
    assert site.starts == 2

    write_program(tmp_path / "models", "second", ANSWER)
    assert site.run(CUSTOM).success
    assert site.starts == 3
    after = site.published("custom_segmentation").content_digests()
    (same,) = (name for name in before if name.endswith("/program/segmentation.nii.gz"))
    assert after[same] == before[same]
    assert records(site)["second"].state is MADE


def test_another_version_of_a_program_makes_the_segmentation_anew(site: CourseSite, tmp_path: Path) -> None:
    folder = write_program(tmp_path / "models", "program", ANSWER, may_find_nothing=True)
    sitk.WriteImage(sitk.ReadImage(folder / "answer.nii.gz") * 0, folder / "nothing.nii.gz")
    assert site.run(CUSTOM).success
    first = site.published("custom_segmentation").digest
    assert records(site)["program"].regions[0].voxels > 0

    script = folder / "script.py"
    script.write_text(script.read_text().replace("answer.nii.gz", "nothing.nii.gz"))
    assert site.run(CUSTOM).success

    assert site.starts == 2
    assert site.published("custom_segmentation").digest != first
    assert records(site)["program"].regions[0].voxels == 0


def test_what_a_program_says_of_its_version_counts_and_stands_with_the_result(
    site: CourseSite, tmp_path: Path
) -> None:
    asked = {"version_command": ["/bin/cat", "{model}/version"]}
    folder = write_program(tmp_path / "models", "program", ANSWER, section=asked)
    for version, starts in (("4.1", 1), ("4.1", 1), ("4.2", 2)):
        (folder / "version").write_text(f"{version}\n")
        assert site.run(CUSTOM).success
        assert site.starts == starts
        made = records(site)["program"]
        assert made.program.startswith(f"version {version}, sha256 ")
        file = site.published("custom_segmentation").path(f"{made.folder}/segmentation.json")
        assert json.loads(file.read_text())["program"]["version"] == version

    (folder / "version").unlink()
    assert site.run(CUSTOM).success
    found = records(site)["program"]
    assert (found.state, found.reason) == (FAILED, "its version_command ended with exit code 1")


def test_unsafe_and_missing_models_are_refused_by_name_and_others_are_run(
    site: CourseSite, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    onnx_card(models / "pickled", b"\x80\x04N.")
    changed = onnx_card(models / "changed", linear(*BONE))
    (changed / "net.onnx").write_bytes(linear([[0.0], [2.0]], [50.0, 0.0]))
    write_program(models, "online", ANSWER, network=True)
    write_program(models, "sound", ANSWER)
    names = ["pickled", "changed", "online", "sound", "absent"]
    site.change(custom_models={"root": "models", "models": names})

    assert site.run(CUSTOM).success

    found = records(site)
    assert {name: one.state for name, one in found.items()} == {**dict.fromkeys(names, FAILED), "sound": MADE}
    assert found["pickled"].reason.startswith("weights net.onnx are refused: its content is a pickle")
    assert "the card names" in found["changed"].reason
    assert found["online"].reason.startswith("model online asks for the network")
    assert found["absent"].reason.startswith("there is no model of this name")
    assert site.starts == 3

    # What failed is tried again, what was made is not made again.
    changed_back = onnx_card(models / "changed", linear(*BONE))
    assert changed_back == changed and site.run(CUSTOM).success
    assert records(site)["changed"].state is MADE
    assert site.starts == 5


def test_nothing_that_a_model_sees_or_leaves_names_the_patient(site: CourseSite, tmp_path: Path) -> None:
    look = (
        "seen = {'argv': sys.argv, 'environment': dict(os.environ)}\n"
        "folder = next(one for one in (pathlib.Path(given).parents) if (one / 'job.json').is_file())\n"
        "files = [one for one in folder.rglob('*') if one.is_file()]\n"
        "seen['files'] = [str(one.relative_to(folder)) for one in files]\n"
        "import gzip\n"
        "opened = [gzip.open(one) if one.name.endswith('.gz') else one.open('rb') for one in files]\n"
        "content = b''.join(one.read() for one in opened)\n"
        "seen['identified'] = [len(content) > 100, b'IDENTIFYING' in content, b'Doe' in content]\n"
        "print(json.dumps(seen))\n"
        "(here / 'seen.json').write_text(json.dumps(seen))\n"
    )
    write_program(tmp_path / "models", "looks", look + ANSWER)

    assert site.run(CUSTOM).success

    assert records(site)["looks"].state is MADE
    seen = json.loads((tmp_path / "models" / "looks" / "seen.json").read_text())
    assert {"job.json", "inputs/CT.nii.gz"} <= set(seen["files"])
    assert seen["identified"] == [True, False, False]
    assert seen["environment"]["OMP_NUM_THREADS"] == seen["environment"]["NUMBA_NUM_THREADS"]
    assert seen["environment"]["CUDA_VISIBLE_DEVICES"] == ""
    for kept in [*(tmp_path / "state").rglob("*"), *(tmp_path / "data").rglob("*custom*/**/*")]:
        if kept.is_file() and kept.name != "dicom_index.db":
            assert b"IDENTIFYING" not in kept.read_bytes(), kept.name
            assert b"Doe^Jane" not in kept.read_bytes(), kept.name
    assert list((tmp_path / "state" / "work").iterdir()) == []


def test_series_of_roles_are_told_apart_by_their_descriptions(tmp_path: Path) -> None:
    write_course(tmp_path / "dicom")
    write_body(tmp_path / "dicom", series=11, modality="MR", description="t2_tse tra", darker=5)
    write_body(tmp_path / "dicom", series=12, modality="MR", description="T1 MPRAGE")
    site = CourseSite.of(tmp_path, custom_models={"root": "models"})
    compare = (
        "import SimpleITK as sitk\n"
        "t1, t2 = sitk.ReadImage(given), sitk.ReadImage(words[0])\n"
        "sitk.WriteImage(sitk.Cast(t1 - t2 == 5, sitk.sitkUInt8), output)\n"
    )
    given = ("{input:T2}",)
    for name, series in (("both", ("T1.*", "T2.*")), ("silent", (None, None)), ("vague", (".*", "T2.*"))):
        roles = [{"role": role, "series": text} for role, text in zip(("CT", "T2"), series, strict=True)]
        write_program(tmp_path / "models", name, compare, *given, modality="MR", inputs=roles)

    assert site.run(CUSTOM).success

    found = records(site)
    assert {name: one.state for name, one in found.items()} == {"both": MADE, "silent": NOT, "vague": NOT}
    assert found["both"].regions[0].voxels == 24 * 60 * 80
    assert found["silent"].reason == "its card does not say which series is CT"
    assert found["vague"].reason == "2 series of the course are CT by the Series Description"


def test_images_of_one_series_in_two_frames_of_reference_are_two_series(tmp_path: Path) -> None:
    """A model is given each with its own values, and every later step knows which is which."""
    write_course(tmp_path / "dicom")
    write_body(tmp_path / "dicom", series=11, modality="MR")
    write_body(tmp_path / "dicom", series=11, modality="MR", frame=3, darker=20)
    course_site.MADE.at(tmp_path / "dicom").write(course_site.MADE.registration(course_site.MADE.uid(3)))
    site = CourseSite.of(tmp_path, custom_models={"root": "models"}, segmentation={"enabled": False})
    # The body has 30, or 10.
    above = (
        "import SimpleITK as sitk\n"
        "sitk.WriteImage(sitk.Cast(sitk.ReadImage(given) > 20, sitk.sitkUInt8), output)\n"
    )
    write_program(tmp_path / "models", "above", above, modality="MR")

    assert site.run(AUTO).success
    assert site.run(CUSTOM).success
    assert site.run(structures).success

    made = [
        one
        for one in read_segmentations(site.published("custom_segmentation").folder).segmentations
        if one.state is MADE
    ]
    bone, body = sorted(one.regions[0].volume_cm3 for one in made)
    assert (bone, body) == pytest.approx((BONE_CM3, BODY_CM3), rel=0.03)
    found = read_structures(site.published("structures").folder)
    volumes = {one.series: one.volume_cm3 for one in found.structures if one.made_by == "above"}
    assert volumes == {one.series: pytest.approx(one.regions[0].volume_cm3) for one in made}
    assert len(volumes) == 2 and found.planning not in volumes


def test_what_is_switched_off_publishes_an_empty_record_and_says_so(site: CourseSite) -> None:
    site.change(segmentation={"enabled": False}, custom_models={"enabled": False})

    assert site.run(AUTO).success
    assert site.run(CUSTOM).success

    assert records(site, "auto_segmentation") == records(site) == {}
    assert site.metadata("auto_segmentation")["models"].value == (
        "none: radiotherapy.segmentation.enabled is false"
    )
    assert site.starts == 0
