"""A series of the PACS is asked for, and its segmentation stands there, proven."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from io import BytesIO

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.imaging.segmentation_object import segmentation_masks
from mqi_dagster.imaging.source_images import source_images
from mqi_dagster.operations.segmentation_request import RequestState, requests
from mqi_dagster.worklist import Worklist
from tests.assets.radiotherapy.course_site import BODY_CM3, BONE_CM3
from tests.segmentation.on_request_site import OnRequestSite, images
from tests.segmentation.pacs_stand_in import StandIn


def of_modality(pacs: StandIn, modality: str) -> list[pydicom.Dataset]:
    """Objects of the PACS."""
    found = [one.content for one in pacs.objects.values() if one.tags["Modality"] == modality]
    return [pydicom.dcmread(BytesIO(content)) for content in found]


def numbers(items: Iterable[pydicom.Dataset]) -> Iterator[tuple[float, str, str]]:
    """Every measured value of a structured report, with its unit."""
    for item in items:
        for value in item.get("MeasuredValueSequence", ()):
            unit = value.MeasurementUnitsCodeSequence[0]
            yield float(value.NumericValue), unit.CodeValue, unit.CodingSchemeDesignator
        yield from numbers(item.get("ContentSequence", ()))


def test_what_is_asked_for_is_segmented_stored_and_measured(site: OnRequestSite, pacs: StandIn) -> None:
    site.change({"on_request": {"structured_report": True}})
    sources = images()
    series = pacs.store(*sources)
    found = site.ask(series)

    assert [one.error for one in site.services.outcomes] == [""]
    assert site.services.outcomes[0].checks == {
        "image_set.suitable": True,
        "segmentation.geometry": True,
        # The made body has no lung.
        "segmentation.plausible": False,
        "segmentation_stored.conformant": True,
        "segmentation_stored.round_trip": True,
    }
    assert (found.state, found.requested_by, found.series) == (RequestState.COMPLETED, "doctor", (series,))
    assert found.started_at is not None and found.completed_at is not None and found.result is not None
    assert found.requested_at <= found.started_at < found.completed_at
    volumes = {one.name: one.volume_mm3 for one in found.result.regions}
    assert volumes["Bone"] == pytest.approx(BONE_CM3 * 1000, rel=0.03)
    assert volumes["External"] == pytest.approx(BODY_CM3 * 1000, rel=0.01)
    assert volumes["Lung"] == 0
    voxels = {one.name: one.voxels for one in found.result.regions}
    assert volumes["Bone"] == pytest.approx(voxels["Bone"] * 27)

    (seg,) = of_modality(pacs, "SEG")
    assert pacs.objects[found.result.segmentation or ""].tags["SOPInstanceUID"] == seg.SOPInstanceUID
    assert [one.SegmentLabel for one in seg.SegmentSequence] == ["External", "Bone"]
    algorithm = seg.SegmentSequence[1].SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("rules_ct", "1")
    masks = segmentation_masks(seg, source_images([read_dicom(one) for one in sources]))
    labels = sitk.GetArrayFromImage(
        sitk.ReadImage(site.published("segmentation", found.key).path("segmentation.nii.gz"))
    )
    # The files of NIfTI and DICOM have the same order of planes here.
    assert np.array_equal(masks["Bone"], labels == 4)

    (report,) = of_modality(pacs, "SR")
    measured = list(numbers(report.ContentSequence))
    assert measured == [
        (pytest.approx(volumes["External"]), "mm3", "UCUM"),
        (pytest.approx(volumes["Bone"]), "mm3", "UCUM"),
    ]
    referred = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    uids = {one.ReferencedSOPInstanceUID for series in referred for one in series.ReferencedSOPSequence}
    assert seg.SOPInstanceUID in uids and len(uids) == 25
    assert pacs.objects[found.result.report or ""].tags["Modality"] == "SR"


def test_the_same_again_is_found_and_stored_once(site: OnRequestSite, pacs: StandIn) -> None:
    series = pacs.store(*images())
    first = site.ask(series)
    assert first.result is not None
    before = {name: one.content for name, one in pacs.objects.items()}
    assert site.ask(series).run_id == first.run_id
    assert (len(site.runs()), site.starts) == (1, 1)
    # Run once more by a person, all of it is found.
    assert site.run(first.key).success
    assert site.starts == 1
    # Made anew by another installation: the same object, under the same UID.
    again = OnRequestSite(site.folder.parent / "again", pacs.url)
    again.instance.add_dynamic_partitions("image_set", [first.key])
    (again.folder / "state").mkdir(exist_ok=True)
    shutil.copytree(site.folder / "state" / "image_sets", again.folder / "state" / "image_sets")
    assert again.run(first.key).success
    assert again.starts == 1
    assert {name: one.content for name, one in pacs.objects.items()} == before


def test_nothing_that_is_kept_or_told_names_the_patient(
    site: OnRequestSite, pacs: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    series = pacs.store(*images())
    with caplog.at_level("INFO"):
        found = site.ask(series)
    assert found.state is RequestState.COMPLETED
    secrets = [b"IDENTIFYING", b"Doe^Jane", b"1.2.826.0.1.3680043.8.498.7", series.encode()]
    told = [site.folder / "state" / "image_sets"]
    for path in (one for one in site.folder.rglob("*") if one.is_file()):
        of_dicom = path.suffix == ".dcm" or path.name == "receipt.json" or path.parent in told
        assert of_dicom or not any(secret in path.read_bytes() for secret in secrets), path
        if path.parent in told:
            assert path.stat().st_mode & 0o077 == 0
    events = "".join(entry.to_json() for run in site.runs() for entry in site.instance.all_logs(run.run_id))
    lines = "".join(line.getMessage() for line in caplog.records)
    assert [secret for secret in secrets if secret.decode() in events + lines] == []


def test_it_stands_in_the_worklist_and_in_the_list_of_requests(site: OnRequestSite, pacs: StandIn) -> None:
    site.services.only_queued = True
    first = site.ask(pacs.store(*images()))
    assert first.state is RequestState.PENDING
    work = Worklist(site.instance, site.site, PIPELINES, site.site.ledger)
    (row,) = work.snapshot().cases
    assert (row.case, row.state.value, row.stage.value) == (first.key, "in work", "queued")
    second = site.ask(pacs.store(*images(11)))
    listed = [one.key for one in requests(site.site, site.instance)]
    assert listed == [second.key, first.key]
    for states, wanted in (
        ([RequestState.PENDING], [second.key, first.key]),
        ([RequestState.PROCESSING], []),
        ([RequestState.COMPLETED, RequestState.PENDING], [second.key, first.key]),
    ):
        assert [one.key for one in requests(site.site, site.instance, states)] == wanted
    site.instance.report_run_canceled(site.runs()[0])
    assert [one.key for one in requests(site.site, site.instance, [RequestState.FAILED])] == [first.key]
    assert [one.key for one in requests(site.site, site.instance, [RequestState.PENDING])] == [second.key]
