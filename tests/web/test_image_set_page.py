"""The page of an image set: what was asked for and found, with checks and pictures, for whom may see it."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mqi_dagster.ledger.audit import Action
from mqi_dagster.operations import segmentation_request
from mqi_dagster.operations.instance import open_instance, write_instance
from mqi_dagster.operations.people import add_user
from mqi_dagster.people.rights import Role
from mqi_dagster.settings import parse_settings
from tests.segmentation.on_request_site import OnRequestSite, images
from tests.segmentation.pacs_stand_in import pacs_stand_in
from tests.web.conftest import OWNER, PASSWORD
from tests.web.real_sites import as_, pages_of

IDENTITY = ("IDENTIFYING-0815", "Doe")


@dataclass(frozen=True)
class ImageSets:
    """The pages of a site, and its image sets."""

    site: OnRequestSite
    client: TestClient
    done: str
    queued: str


@pytest.fixture(scope="module")
def image_sets(tmp_path_factory: pytest.TempPathFactory, empty_instance: Path) -> Iterator[ImageSets]:
    """One that is segmented, and one that waits in the queue."""
    folder = tmp_path_factory.mktemp("image_sets") / "site"
    folder.mkdir()
    shutil.copytree(empty_instance, folder / "dagster")
    settings = parse_settings({"site": {"timezone": "Asia/Seoul"}}, folder)
    write_instance(settings)
    with (
        pacs_stand_in() as pacs,
        open_instance(settings) as instance,
        pytest.MonkeyPatch.context() as patch,
    ):
        site = OnRequestSite(folder, pacs.url, instance=instance)
        patch.setattr(segmentation_request, "services_of", lambda of: site.services)
        done = site.ask(pacs.store(*images())).key
        assert [one.error for one in site.services.outcomes] == [""]
        site.services.only_queued = True
        queued = site.ask(pacs.store(*images(11))).key
        add_user(site.site, OWNER, "paula", [Role.APPROVER], password=PASSWORD)
        with pages_of(site.site) as client:
            yield ImageSets(site, client, done, queued)


def text_of(page: str) -> str:
    """What a reader sees."""
    return html.unescape(" ".join(re.sub(r"<[^>]+>", " ", page).split()))


def test_what_was_found_stands_there_in_mm3_and_voxels_with_checks_and_receipt(image_sets: ImageSets) -> None:
    page = as_(image_sets.client, "vera").get(f"/image-set/{image_sets.done}")
    text = text_of(page)
    found = image_sets.site.standing(image_sets.done).result
    assert found is not None
    bone = next(one for one in found.regions if one.name == "Bone")
    assert f"Bone {bone.volume_mm3:,.0f} {bone.voxels:,}" in text
    assert bone.volume_mm3 == pytest.approx(27 * bone.voxels)
    assert "Lung not found" in text
    assert "Model: rules_ct 1 · asked for by doctor" in text
    assert "24 images, 3 × 3 × 3 mm, axial" in text
    assert "Stored in the PACS, read back and compared: SEG.dcm" in text
    verdicts = re.findall(r'<tr id="check-([^"]+)"><td><span class="state verdict-(\w+)">', page)
    assert verdicts[0] == ("segmentation-plausible", "warning")
    assert {name for name, verdict in verdicts if verdict == "pass"} == {
        "image_set-suitable",
        "segmentation-geometry",
        "segmentation_stored-conformant",
        "segmentation_stored-round_trip",
    }
    assert f"/assets/segmentation?view=partitions&amp;partition={image_sets.done}" in page
    assert re.search(r'<tr id="attempt-\d+">.*succeeded', page)


def test_the_identifier_in_the_pacs_is_for_whom_may_ask(image_sets: ImageSets) -> None:
    found = image_sets.site.standing(image_sets.done).result
    assert found is not None and found.segmentation
    path = f"/image-set/{image_sets.done}"
    assert found.segmentation not in as_(image_sets.client, "vera").get(path)
    assert found.segmentation in as_(image_sets.client, "ed").get(path)


@pytest.mark.parametrize("name", ["vera", "ed"])
def test_without_the_right_nothing_says_whose_it_is(image_sets: ImageSets, name: str) -> None:
    browser = as_(image_sets.client, name)
    for key in (image_sets.done, image_sets.queued):
        assert not [one for one in IDENTITY if one in browser.get(f"/image-set/{key}")]
    browser.get(f"/image-set/{image_sets.done}/SEG.dcm", 403)


def test_whose_it_is_and_the_segmentation_are_for_whom_may_see_it(image_sets: ImageSets) -> None:
    browser = as_(image_sets.client, "anna")
    page = browser.get(f"/image-set/{image_sets.done}")
    assert "Doe, Jane Patient ID IDENTIFYING-0815" in text_of(page)
    assert f'href="/image-set/{image_sets.done}/SEG.dcm" download' in page
    answer = image_sets.client.get(f"/image-set/{image_sets.done}/SEG.dcm")
    assert f"{image_sets.done}.SEG.dcm" in answer.headers["content-disposition"]
    assert pydicom.dcmread(BytesIO(answer.content)).Modality == "SEG"
    audit = image_sets.site.site.ledger.audit.newest(20, subject=image_sets.done, actor="anna")
    assert Action.IDENTITY_READ in {row.action for row in audit}


def test_slices_of_three_planes_show_the_regions_in_their_colours(image_sets: ImageSets) -> None:
    page = as_(image_sets.client, "vera").get(f"/image-set/{image_sets.done}")
    shown = [html.unescape(one) for one in re.findall(r'src="(/image-set/[^"]+slice\.png[^"]+)"', page)]
    assert [re.findall(r"plane=(\w+)", one)[0] for one in shown] == ["axial", "coronal", "sagittal"]
    for one in shown:
        drawn = Image.open(BytesIO(image_sets.client.get(one).content)).convert("RGB")
        plain = Image.open(BytesIO(image_sets.client.get(f"{one}&regions=nothing").content)).convert("RGB")
        coloured = np.asarray(drawn).astype(int)
        assert coloured.std(axis=2).max() > 20
        assert np.array_equal(np.asarray(plain)[..., 0], np.asarray(plain)[..., 2])
        assert drawn.size == plain.size and max(drawn.size) == 512


def test_one_that_is_queued_has_a_page_and_can_be_cancelled(image_sets: ImageSets) -> None:
    page = as_(image_sets.client, "ed").get(f"/image-set/{image_sets.queued}")
    assert "queued" in page and f'action="/image-set/{image_sets.queued}/cancel"' in page
    assert "/retake" not in page
    assert "/cancel" not in as_(image_sets.client, "vera").get(f"/image-set/{image_sets.queued}")


def test_the_worklist_leads_to_it(image_sets: ImageSets) -> None:
    browser = as_(image_sets.client, "vera")
    for path in ("/", "/?kind=image_set"):
        assert f'href="/image-set/{image_sets.done}"' in browser.get(path)


def test_a_result_is_accepted_or_rejected_with_a_reason(image_sets: ImageSets) -> None:
    path = f"/image-set/{image_sets.done}/review"
    as_(image_sets.client, "anna").get(path)
    browser = as_(image_sets.client, "paula")
    seen = re.search(r'name="seen" value="([^"]+)"', browser.get(path))
    assert seen
    fields = {"seen": seen[1], "password": PASSWORD}
    browser.post(path, 409, verdict="rejected", reason="", **fields)
    browser.post(path, verdict="rejected", reason="the lung is missing", **fields)
    page = browser.get(f"/image-set/{image_sets.done}")
    assert "rejected" in page and "the lung is missing" in page


def test_real_places_are_for_those_who_may_see_them(image_sets: ImageSets) -> None:
    store = str(image_sets.site.folder)
    assert store not in as_(image_sets.client, "vera").get(f"/image-set/{image_sets.done}")
    assert store in as_(image_sets.client, "ed").get(f"/image-set/{image_sets.done}/files")


@pytest.mark.parametrize(
    "path",
    [
        "/image-set/S234567ABC.rules_ct",
        "/image-set/..%2F..%2Fetc%2Fpasswd",
        "/image-set/*",
        "/image-set/{key}/slice.png?at=99999",
        "/image-set/{key}/slice.png?window=none",
        "/image-set/{queued}/SEG.dcm",
        "/image-set/{queued}/slice.png",
        "/stream/image-set/S234567ABC.rules_ct",
        "/course/{key}",
        "/case/{key}",
    ],
)
def test_what_is_not_there_is_not_found(image_sets: ImageSets, path: str) -> None:
    as_(image_sets.client, "anna")
    asked = path.replace("{key}", image_sets.done).replace("{queued}", image_sets.queued)
    assert image_sets.client.get(asked).status_code == 404
