"""Series are fetched whole or not at all, and what is stored is kept as it was sent: each lie is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqi_dagster.dicom.orthanc_pacs import OrthancPacs
from mqi_dagster.dicom.pacs import PacsSeries, fetch_series, repeated, store_proven
from mqi_dagster.errors import (
    ConfigurationError,
    DicomError,
    HandoverError,
    ImageError,
    InfrastructureError,
    InputError,
    MqiError,
    UnreachableError,
)
from mqi_dagster.settings.radiotherapy import OrthancSource
from tests.courses.made_objects import Made
from tests.segmentation.on_request_site import images
from tests.segmentation.pacs_stand_in import StandIn


@pytest.fixture
def orthanc(pacs: StandIn, monkeypatch: pytest.MonkeyPatch) -> OrthancPacs:
    """The stand-in, asked without waiting between two tries."""
    monkeypatch.setattr(repeated, "__defaults__", (lambda seconds: None,))
    return OrthancPacs(OrthancSource(url=pacs.url))


def listed(orthanc: OrthancPacs, series: str) -> PacsSeries:
    found = orthanc.series(series)
    assert found is not None
    return found


def one_of(pacs: StandIn) -> str:
    return next(iter(pacs.objects))


def test_every_image_comes_as_it_is_there(orthanc: OrthancPacs, pacs: StandIn, tmp_path: Path) -> None:
    sources = images()[:5]
    found = listed(orthanc, pacs.store(*sources))
    told: list[tuple[int, int]] = []
    pacs.fails["GET /instances/.*/file"] = [503, 429, 500]
    files = fetch_series(orthanc, found, tmp_path / "new", told=lambda *count: told.append(count))
    assert [path.read_bytes() for path in files] == sources
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (b"nonsense", UnreachableError, "another MD5 than the PACS tells"),
        (images()[0][:-2], UnreachableError, "another MD5"),
    ],
    ids=["nonsense", "cut short"],
)
def test_another_content_than_is_told_is_noticed(
    orthanc: OrthancPacs,
    pacs: StandIn,
    tmp_path: Path,
    given: bytes,
    error: type[MqiError],
    words: str,
) -> None:
    found = listed(orthanc, pacs.store(images()[0]))
    pacs.given[one_of(pacs)] = given
    with pytest.raises(error, match=words):
        fetch_series(orthanc, found, tmp_path / "new")


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (images()[1], ImageError, "another image than it lists"),
        (images(11, SOPInstanceUID=Made(7).uid(10, 1))[0], ImageError, "an image of another series"),
        (b"nonsense", DicomError, "an image of the PACS "),
    ],
    ids=["another image", "another series", "damaged"],
)
def test_what_was_exchanged_in_the_pacs_is_noticed(
    orthanc: OrthancPacs,
    pacs: StandIn,
    tmp_path: Path,
    content: bytes,
    error: type[MqiError],
    words: str,
) -> None:
    found = listed(orthanc, pacs.store(images()[0]))
    pacs.objects[one_of(pacs)].content = content
    with pytest.raises(error, match=words):
        fetch_series(orthanc, found, tmp_path / "new")


def test_a_series_that_grows_is_fetched_once_more(
    orthanc: OrthancPacs, pacs: StandIn, tmp_path: Path
) -> None:
    whole = images()
    found = listed(orthanc, pacs.store(*whole[:3]))
    pacs.before = lambda asked: None if "/file" not in asked else _grow(pacs, whole[3])
    with pytest.raises(InfrastructureError, match="the series has changed while it was fetched"):
        fetch_series(orthanc, found, tmp_path / "first")
    assert len(fetch_series(orthanc, found, tmp_path / "second")) == 4


def _grow(pacs: StandIn, content: bytes) -> None:
    pacs.store(content)


def test_what_is_gone_is_told(orthanc: OrthancPacs, pacs: StandIn, tmp_path: Path) -> None:
    found = listed(orthanc, pacs.store(*images()[:2]))
    pacs.fails["GET /instances/.*/file"] = [404]
    with pytest.raises(InputError, match="not in the PACS any more"):
        fetch_series(orthanc, found, tmp_path / "first")
    pacs.objects.clear()
    with pytest.raises(InputError, match="has no image in the PACS"):
        fetch_series(orthanc, found, tmp_path / "second")


def test_what_is_stored_is_read_back_and_may_be_stored_again(orthanc: OrthancPacs, pacs: StandIn) -> None:
    content = images()[0]
    pacs.fails["POST /instances"] = [503, 507, 500]
    identifier = store_proven(orthanc, content)
    assert store_proven(orthanc, content) == identifier
    assert [one.content for one in pacs.objects.values()] == [content]


def test_what_is_not_kept_is_noticed(orthanc: OrthancPacs, pacs: StandIn) -> None:
    content = images()[0]
    pacs.filtered = True
    with pytest.raises(HandoverError, match="does not keep it: look for a filter there"):
        store_proven(orthanc, content)
    pacs.filtered = False
    pacs.store(images(SeriesDescription="of somebody else")[0])
    with pytest.raises(HandoverError, match="another object of the same SOP Instance UID"):
        store_proven(orthanc, content)
    pacs.fails["POST /instances"] = [400]
    with pytest.raises(HandoverError, match="refuses the object with HTTP 400"):
        store_proven(orthanc, content)
    pacs.fails["POST /instances"] = [507] * 4
    with pytest.raises(UnreachableError, match="it has no room left"):
        store_proven(orthanc, content)


def test_who_it_does_not_let_in_is_told_where_to_look(orthanc: OrthancPacs, pacs: StandIn) -> None:
    pacs.fails["GET .*"] = [401]
    with pytest.raises(ConfigurationError, match=r"refuses the user: on_request\.orthanc\.user"):
        orthanc.version()
    assert orthanc.version() == "Orthanc 1.11.0"


def test_series_are_found_the_newest_study_first(orthanc: OrthancPacs, pacs: StandIn) -> None:
    pacs.store(images()[0], *images(11, made=Made(8), StudyDate="20260105")[:1])
    pacs.store(*images(12, made=Made(9, name="Kim^Minsu"), modality="MR", StudyDate="20250105")[:2])
    assert [one.patient_id for one in orthanc.find("")] == ["ID008", "ID009", "IDENTIFYING-0815"]
    (found,) = orthanc.find("minsu")
    assert (found.modality, found.images, found.acquired) == ("MR", 2, "20250105")
    assert [one.patient_id for one in orthanc.find("plan", modality="MR")] == ["ID009"]
    assert len(orthanc.find("", limit=1)) == 1
    assert orthanc.preview(found) == b"\x89PNG"
