"""A real Orthanc as the PACS, by REST and by DICOMweb: in no fault is anything half stored or twice."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses

from mqi_dagster.dicom.dciodvfy import complaints
from mqi_dagster.dicom.dicomweb import DicomWebPacs
from mqi_dagster.dicom.orthanc_pacs import OrthancPacs
from mqi_dagster.dicom.pacs import Pacs, fetch_series, repeated, store_proven
from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.errors import ConfigurationError, HandoverError, InputError, UnreachableError
from mqi_dagster.imaging.segmentation_object import segmentation_masks
from mqi_dagster.imaging.source_images import source_images
from mqi_dagster.operations import segmentation_request
from mqi_dagster.settings.on_request import DicomWeb
from tests.courses.made_objects import Made
from tests.dicom.orthanc_server import USER, Server, running_orthanc
from tests.segmentation.on_request_site import OnRequestSite, images

pytestmark = pytest.mark.slow

DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
WAYS = ["orthanc", "dicomweb"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An Orthanc with DICOMweb."""
    if not DICOMWEB.exists():
        pytest.skip("Debian's package orthanc-dicomweb is not installed: tests/system-packages")
    with running_orthanc(tmp_path_factory.mktemp("pacs") / "orthanc", Plugins=[str(DICOMWEB)]) as server:
        yield server


def settings_of(server: Server, way: str) -> dict[str, Any]:
    """The section that names it."""
    source = server.source
    url = source.url + ("/dicom-web" if way == "dicomweb" else "")
    return {way: {"url": url, "user": USER, "password_file": str(source.password_file)}}


def opened(server: Server, way: str) -> Pacs:
    """It as a PACS."""
    if way == "orthanc":
        return OrthancPacs(server.source)
    return DicomWebPacs(DicomWeb.model_validate(settings_of(server, way)[way]))


def site_of(
    server: Server, way: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **on_request: Any
) -> OnRequestSite:
    """A site with it as its PACS, whose services run in this process."""
    made = OnRequestSite(folder, "http://127.0.0.1:1", {"on_request": {"orthanc": None}})
    made.change({"on_request": {**settings_of(server, way), **on_request}})
    monkeypatch.setattr(segmentation_request, "services_of", lambda of: made.services)
    return made


@pytest.mark.parametrize("way", [pytest.param("orthanc", marks=pytest.mark.gate), "dicomweb"])
def test_the_segmentation_in_the_pacs_is_the_mask(
    server: Server, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(WAYS.index(way) + 100)
    sources = images(made=made)
    server.store(*sources)
    site = site_of(server, way, tmp_path / "site", monkeypatch, structured_report=True)
    pacs = opened(server, way)
    (series,) = pacs.find(made.patient_id or f"ID{made.number}")
    found = site.ask(series.identifier)

    assert [one.error for one in site.services.outcomes] == [""]
    assert found.result is not None and found.result.segmentation and found.result.report
    content = pacs.file(found.result.segmentation)
    for name, of_dicom in (("SEG", content), ("SR", pacs.file(found.result.report))):
        (tmp_path / name).write_bytes(of_dicom)
        assert complaints(tmp_path / name) == []
    masks = segmentation_masks(read_dicom(content), source_images([read_dicom(one) for one in sources]))
    labels = sitk.GetArrayFromImage(
        sitk.ReadImage(site.published("segmentation", found.key).path("segmentation.nii.gz"))
    )
    assert np.array_equal(masks["Bone"], labels == 4) and masks["Bone"].sum() > 2000
    assert np.array_equal(masks["External"], labels > 0)
    # All of it once more, by another installation: nothing is there twice.
    again = site_of(server, way, tmp_path / "again", monkeypatch, structured_report=True)
    assert again.ask(series.identifier).result is not None
    of_patient = pacs.find(made.patient_id or f"ID{made.number}")
    assert sorted((one.modality, one.images) for one in of_patient) == [("CT", 24), ("SEG", 1), ("SR", 1)]


@pytest.mark.parametrize("way", WAYS)
def test_series_are_found_fetched_and_stored(server: Server, way: str, tmp_path: Path) -> None:
    made = Made(110 + WAYS.index(way), name=f"Kim^Min-su {way}=김^민수", patient_id=f"ÄÖ {way}")
    utf8 = {"SpecificCharacterSet": "ISO_IR 192"}
    sources = images(made=made, **utf8)[:5]
    server.store(*sources)
    pacs = opened(server, way)
    assert pacs.version()
    for text in (f"min-su {way}", f"ÄÖ {way}"):
        (found,) = pacs.find(text, modality="CT")
        assert (found.images, found.description, found.study_description) == (5, "Thorax", "Planning")
        assert found.patient_name.startswith(f"Kim^Min-su {way}") and found.patient_id == f"ÄÖ {way}"
    assert pacs.find(f"min-su {way}", modality="MR") == []
    one = pacs.series(found.identifier)
    assert one is not None and one.acquired == "20240105101500"
    assert [path.read_bytes() for path in fetch_series(pacs, one, tmp_path / "new")] == sources
    assert pacs.preview(one)[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0")
    fresh = images(12, made=made, **utf8)[0]
    first = store_proven(pacs, fresh)
    assert store_proven(pacs, fresh) == first and pacs.file(first) == fresh
    with pytest.raises(HandoverError, match="another object of the same SOP Instance UID"):
        store_proven(pacs, images(12, made=made, **utf8, SeriesDescription="changed")[0])
    assert pacs.file(first) == fresh
    with pytest.raises(InputError, match="not in the PACS any more"):
        pacs.file(
            "1.2/3.4/5.6" if way == "dicomweb" else f"{'0' * 8}-{'0' * 8}-{'0' * 8}-{'0' * 8}-{'0' * 8}"
        )
    assert pacs.series("1.2.3.4") is None


@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_password_is_the_site_s_to_mend(server: Server, way: str, tmp_path: Path) -> None:
    pacs = opened(server, way)
    wrong = tmp_path / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("another")
    source = settings_of(server, way)[way] | {"password_file": str(wrong)}
    refused: Pacs = (
        OrthancPacs(server.source.model_copy(update={"password_file": wrong}))
        if way == "orthanc"
        else DicomWebPacs(DicomWeb.model_validate(source))
    )
    with pytest.raises(ConfigurationError, match=rf"refuses the user: on_request\.{way}\.user"):
        store_proven(refused, images(made=Made(120))[0])
    assert pacs.find("ID120") == []


@pytest.mark.parametrize("way", WAYS)
def test_what_a_filter_drops_without_a_word_is_noticed(tmp_path: Path, way: str) -> None:
    script = tmp_path / "filter.lua"
    script.write_text("function ReceivedInstanceFilter(dicom) return dicom.Modality ~= 'CT' end\n")
    options = {"LuaScripts": [str(script)], "Plugins": [str(DICOMWEB)]}
    with running_orthanc(tmp_path / "orthanc", **options) as server:
        pacs = opened(server, way)
        with pytest.raises(HandoverError, match="does not keep it: look for a filter there"):
            store_proven(pacs, images()[0])
        assert pacs.find("") == []


def test_a_full_disk_keeps_nothing_half(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a disk that is small")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], check=True)
    try:
        with running_orthanc(tmp_path / "orthanc", StorageDirectory=str(small)) as server:
            pacs = OrthancPacs(server.source)
            large = images(Rows=200, Columns=1000, PixelData=os.urandom(400_000))[0]
            with pytest.raises(UnreachableError, match="HTTP 500: Cannot write to file"):
                repeated(lambda: pacs.store(large), sleep=lambda seconds: None)
            assert pacs.find("") == []
            subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
            identifier = store_proven(pacs, large)
            assert pacs.file(identifier) == large
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def test_an_orthanc_that_dies_in_the_middle_of_an_upload_has_all_of_it_once_afterwards(
    tmp_path: Path,
) -> None:
    with running_orthanc(tmp_path / "orthanc", AuthenticationEnabled=False) as server:
        pacs = OrthancPacs(server.source)
        content = images(Rows=500, Columns=1000, PixelData=os.urandom(1_000_000))[0]
        with socket.create_connection(("127.0.0.1", server.port)) as line:
            head = f"POST /instances HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
            line.sendall(head.encode() + content[:500_000])
            assert server.process is not None
            server.process.kill()
            server.process.wait()
        tries: list[float] = []

        def starts_anew(seconds: float) -> None:
            tries.append(seconds)
            server.start()
            assert pacs.find("") == []

        identifier = repeated(lambda: pacs.store(content), sleep=starts_anew)
        assert len(tries) == 1
        assert store_proven(pacs, content) == identifier and pacs.file(identifier) == content
        assert [one.images for one in pacs.find("")] == [1]


def test_a_changed_image_under_the_same_uid_makes_the_image_set_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_orthanc(tmp_path / "orthanc", OverwriteInstances=True) as server:
        server.store(*images())
        site = site_of(server, "orthanc", tmp_path / "site", monkeypatch)
        site.services.only_queued = True
        (series,) = OrthancPacs(server.source).find("")
        first = site.ask(series.identifier)
        assert site.ask(series.identifier).run_id == first.run_id
        site.instance.report_run_canceled(site.runs()[0])
        server.store(images(RescaleIntercept=-1000)[3])
        changed = site.ask(series.identifier)
        assert changed.key == first.key and changed.run_id != first.run_id
        keys = [run.tags["dagster/run_key"] for run in site.runs()]
        assert len(set(keys)) == 2


def test_what_was_stored_is_promised_to_be_kept(tmp_path: Path) -> None:
    if shutil.which("Orthanc", path="/usr/sbin:/usr/bin") is None or shutil.which("unshare") is None:
        pytest.skip("Debian's package orthanc is not installed: tests/system-packages")
    # Its DICOM server binds every address: within a network of its own nobody reaches it.
    program = 'ip link set lo up && exec "$0" -m tests.segmentation.commitment_program "$1"'
    command = ["unshare", "--net", "--map-root-user", "sh", "-c", program, sys.executable, str(tmp_path)]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "kept": "committed",
        "two at once": "committed, committed",
        "status of what is filtered": "0x0000",
        "filtered": "handover: the PACS does not keep 1 of 2 objects: 0x0112",
        "unknown": "handover: the PACS does not keep 1 of 1 objects: 0x0112",
        "whom it does not know": "unreachable: the PACS refuses the request for storage commitment",
        "nobody": "unreachable: the PACS does not take the request for storage commitment",
    }
