"""An image set over the time: images that are wrong are named, and results go when they are old."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mqi_dagster.lifecycle.image_set import read_source
from mqi_dagster.lifecycle.retention import tidied
from mqi_dagster.operations.segmentation_request import RequestState
from tests.courses.made_objects import Made
from tests.imaging.models.model_folders import card, write_card
from tests.segmentation.on_request_site import PATIENT, OnRequestSite, images
from tests.segmentation.pacs_stand_in import StandIn


def doubled() -> list[bytes]:
    """Two images in one place."""
    made = images()
    return [*made, *images(SOPInstanceUID="1.2.3.4", InstanceNumber=99)[:1]]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: images()[:9] + images()[10:], "the images are not evenly spaced: 3 mm, but 6 mm"),
        (doubled, "1 of 25 images lie where another one lies"),
        (lambda: images(ImageOrientationPatient=None), "has no ImageOrientationPatient"),
        (lambda: images(FrameOfReferenceUID=None), "the images name no frame of reference"),
        (lambda: images()[:1], "there is one image alone, which has no thickness"),
    ],
    ids=["missing", "doubled", "orientation", "frame", "alone"],
)
def test_images_without_a_whole_regular_grid_are_refused_by_name(
    site: OnRequestSite, pacs: StandIn, made: Callable[[], list[bytes]], words: str
) -> None:
    found = site.ask(pacs.store(*made()))
    assert found.state is RequestState.FAILED
    assert words in found.reason, found.reason
    assert found.next_step == (
        "complete or correct the series in the PACS, then ask for it again, or ask with others"
    )
    assert site.starts == 0
    assert {one.tags["Modality"] for one in pacs.objects.values()} == {"CT"}, "nothing was stored"


def two_roles(site: OnRequestSite, **asked: object) -> None:
    inputs = [{"role": "PRE", **asked}, {"role": "POST"}]
    argv = ["/bin/true", "{inputs}", "{output}"]
    write_card(site.folder / "models" / "two", card("command", {"argv": argv}, name="two", inputs=inputs))


def test_series_on_different_grids_are_refused(site: OnRequestSite, pacs: StandIn) -> None:
    two_roles(site)
    first = pacs.store(*images(20, taken="100000"))
    second = pacs.store(*images(21, taken="100100", PixelSpacing=[2.5, 2.5]))
    found = site.ask(second, first, model="two")
    assert found.state is RequestState.FAILED
    assert "the images of POST do not lie on the grid of PRE" in found.reason


def test_what_a_card_excludes_is_a_check_that_stops_the_run(site: OnRequestSite, pacs: StandIn) -> None:
    two_roles(site, contrast=True, plane="coronal", spacing_mm=[0.5, 2.0])
    first = pacs.store(*images(20, taken="100000"))
    found = site.ask(first, pacs.store(*images(21, taken="100100")), model="two")
    assert found.state is RequestState.FAILED and site.starts == 0
    (outcome,) = site.services.outcomes
    assert outcome.checks["image_set.suitable"] is False
    for words in ("names no contrast agent", "are axial, not coronal", "not within 0.5 to 2 mm"):
        assert words in found.reason, found.reason


def test_a_series_of_two_patients_is_no_image_set(site: OnRequestSite, pacs: StandIn) -> None:
    two_roles(site)
    first = pacs.store(*images(20, taken="100000"))
    other = pacs.store(*images(20, made=Made(8, patient_id="OTHER"), taken="100100"))
    with pytest.raises(Exception, match="the series are not all of one study of one patient"):
        site.ask(first, other, model="two")


def test_old_results_go_and_are_made_anew_when_asked_for(site: OnRequestSite, pacs: StandIn) -> None:
    site.change({"retention": {"case_days": 30}})
    series = pacs.store(*images())
    first = site.ask(series)
    assert first.state is RequestState.COMPLETED

    def removed(days: float) -> list[str]:
        problems: list[str] = []
        now = datetime.now(UTC) + timedelta(days=days)
        gone = [thing.name for thing, gone in tidied(site.instance, site.site, now, problems) if gone]
        assert problems == []
        return gone

    assert removed(29) == []
    assert removed(31) == [first.key]
    assert not (site.site.settings.paths.data / "image_sets" / first.key).exists()
    again = site.ask(series)
    assert again.key == first.key and again.state is RequestState.COMPLETED
    assert site.starts == 2
    assert again.result is not None and first.result is not None
    assert again.result.regions == first.result.regions


def test_nothing_of_a_request_names_the_patient(site: OnRequestSite, pacs: StandIn, tmp_path: Path) -> None:
    series = pacs.store(*images())
    key = site.ask(series).key
    names = [path.name for path in site.folder.rglob("*") if path.is_file()]
    assert not [name for name in names if PATIENT.patient_id in name or "Doe" in name]
    events = "".join(str(site.instance.all_logs(run.run_id)) + str(run.tags) for run in site.runs())
    for word in (PATIENT.patient_id, "Doe", series, "1.2.826"):
        assert word not in events and word not in key
    source = site.folder / "state" / "image_sets" / f"{key}.json"
    assert read_source(site.site, key).series == (series,)
    assert source.stat().st_mode & 0o077 == 0
