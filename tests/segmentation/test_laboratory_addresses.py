"""The addresses by which the laboratory's programs ask: with a credential, and never without."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mqi_dagster.dicom import pacs as pacs_module
from mqi_dagster.operations import segmentation_request
from mqi_dagster.operations.instance import open_instance, write_instance
from mqi_dagster.operations.laboratory import chosen_host
from mqi_dagster.people.rights import Right, Role
from mqi_dagster.settings import parse_settings
from mqi_dagster.web.api import requests as waiting
from mqi_dagster.web.application import create_app
from tests.imaging.models.model_folders import card, write_card
from tests.segmentation.on_request_site import OnRequestSite, images
from tests.segmentation.pacs_stand_in import StandIn, pacs_stand_in
from tests.web.programs import make_program

BASE = "/api/mri/segmentation"


class Laboratory:
    """A program that asks as the documents of the laboratory say."""

    def __init__(self, client: TestClient, login: str, secret: str) -> None:
        self._client = client
        credentials = base64.b64encode(f"{login}:{secret}".encode()).decode()
        self.headers = {"authorization": f"Basic {credentials}"} if secret else {}

    def post(self, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """The status and content of an answer."""
        answer = self._client.post(f"{BASE}/{path}", json=body, headers=self.headers)
        return answer.status_code, answer.json()

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Likewise."""
        answer = self._client.get(f"{BASE}/{path}", headers=self.headers)
        return answer.status_code, answer.json()


@pytest.fixture
def pacs(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A stand-in of an Orthanc."""
    monkeypatch.setattr(pacs_module, "_BACKOFF", pacs_module.Backoff(0.001, 0.001))
    with pacs_stand_in() as shown:
        yield shown


@pytest.fixture
def site(
    tmp_path: Path,
    empty_instance: Path,
    pacs: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[OnRequestSite]:
    """A site with one model of one series, and one of four."""
    model = getattr(request, "param", None)
    folder = tmp_path / "site"
    folder.mkdir()
    shutil.copytree(empty_instance, folder / "dagster")
    settings = parse_settings({"site": {"timezone": "Asia/Seoul"}}, folder)
    write_instance(settings)
    with open_instance(settings) as instance:
        on_request = {"models": ["rules_ct", "four"], "model": model, "wait_seconds": 0.01}
        made = OnRequestSite(folder, pacs.url, {"on_request": on_request}, instance=instance)
        inputs = [{"role": role} for role in ("PRE", "FIRST", "SECOND", "THIRD")]
        command = {"argv": ["/bin/true", "{inputs}", "{output}"]}
        write_card(folder / "models" / "four", card("command", command, name="four", inputs=inputs))
        monkeypatch.setattr(segmentation_request, "services_of", lambda of: made.services)
        monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.01)
        yield made


@pytest.fixture
def client(site: OnRequestSite) -> Iterator[TestClient]:
    """The application."""
    with TestClient(create_app(site.site), base_url="http://127.0.0.1:8000") as made:
        yield made


@pytest.fixture
def laboratory(client: TestClient, site: OnRequestSite) -> Laboratory:
    """A program with the token of a service."""
    made: Any = site
    return Laboratory(client, "service", make_program(client, made, Role.SERVICE).token)


def phases(pacs: StandIn) -> list[str]:
    """Four series of one study, the last one first."""
    return [pacs.store(*images(20 + number, taken=f"10{3 - number:02d}00")[:1]) for number in range(4)]


def test_a_request_that_is_waited_for_answers_with_its_result(
    laboratory: Laboratory, site: OnRequestSite, pacs: StandIn
) -> None:
    series = pacs.store(*images())
    # A model is started by the main thread alone: it is done by when the program asks for the same.
    site.ask(series)
    status, told = laboratory.post(f"series/{series}/segment/", {"sequence_series_ids": [series]})
    assert (status, [one.error for one in site.services.outcomes]) == (200, [""]), told
    found = site.standing(told["request_id"]).result
    assert found is not None
    first = found.regions[0]
    assert told == {
        "series_id": series,
        "request_id": told["request_id"],
        "success": True,
        "tumor_detected": True,
        "tumor_volume_voxels": first.voxels,
        "tumor_volume_mm3": first.volume_mm3,
        "seg_instance_id": found.segmentation,
        "elapsed_time_seconds": found.elapsed_seconds,
        "regions": [one.model_dump() for one in found.regions],
        "error": None,
        "saved_to_orthanc": True,
        "processed_by": "server",
    }
    assert found.segmentation in pacs.objects

    status, standing = laboratory.get(f"status/{told['request_id']}/")
    assert (status, standing["success"], standing["status"]) == (200, True, "completed")
    assert standing["series_ids"] == [series] and standing["requested_by"] == "service"
    assert standing["result"]["tumor_volume_voxels"] == first.voxels
    assert standing["requested_at"] <= standing["started_at"] < standing["completed_at"]

    status, shown = laboratory.get(f"instances/{found.segmentation}/frames/")
    assert (status, shown["num_frames"]) == (200, len(shown["frames"]))
    drawn = [np.asarray(Image.open(BytesIO(base64.b64decode(one["data"])))) for one in shown["frames"]]
    assert sum(int((one > 0).sum()) for one in drawn) == sum(one.voxels for one in found.regions)
    status, refused = laboratory.get(f"instances/{next(iter(pacs.objects))}/frames/")
    assert (status, refused["success"]) == (404, False), "images are not given"


def test_what_takes_too_long_goes_on_and_its_status_can_be_asked_for(
    laboratory: Laboratory, site: OnRequestSite, pacs: StandIn
) -> None:
    site.services.only_queued = True
    four = phases(pacs)
    status, told = laboratory.post(f"series/{four[1]}/segment/", {"sequence_series_ids": four})
    assert (status, told["success"], told["status"]) == (504, False, "timeout")
    again = laboratory.post(f"series/{four[1]}/segment/", {"sequence_series_ids": four[::-1]})
    assert again[1]["request_id"] == told["request_id"] and len(site.runs()) == 1
    _, standing = laboratory.get(f"status/{told['request_id']}/")
    assert (standing["status"], standing["series_ids"][0]) == ("pending", four[1])
    assert "result" not in standing
    for query, count in (("", 1), ("?status=pending", 1), ("?status=completed", 0), ("?limit=1", 1)):
        status, listed = laboratory.get(f"requests/{query}")
        assert (status, listed["success"], listed["count"]) == (200, True, count)
    assert laboratory.get("requests/?status=pending")[1]["filter"] == "pending"
    assert laboratory.get("requests/")[1]["requests"][0]["has_result"] is False
    site.instance.report_run_canceled(site.runs()[0])
    _, standing = laboratory.get(f"status/{told['request_id']}/")
    assert (standing["status"], standing["result"]["success"]) == ("failed", False)
    assert standing["message"] == standing["result"]["error"] == "cancelled by an operator"


@pytest.mark.parametrize("site", ["four"], indirect=True)
def test_what_a_model_does_not_take_is_named(
    laboratory: Laboratory, site: OnRequestSite, pacs: StandIn
) -> None:
    site.services.only_queued = True
    four = phases(pacs)
    address = f"series/{four[0]}/segment/"
    for asked, said in (
        (four[:3], "the model four takes 4 series (PRE, FIRST, SECOND, THIRD), not 3"),
        ([*four[:3], four[0]], "one series is named twice"),
        (four[1:], "the series of the address is none of sequence_series_ids"),
    ):
        assert laboratory.post(address, {"sequence_series_ids": asked}) == (
            400,
            {"success": False, "error": said},
        )
    assert site.runs() == []


@pytest.mark.parametrize("name", ["*", "..%2f..%2fetc", "%2e%2e", "S234567ABC.rules_ct", "a" * 300])
def test_what_is_no_request_or_series_is_not_found(laboratory: Laboratory, pacs: StandIn, name: str) -> None:
    assert laboratory.get(f"status/{name}/")[0] == 404
    assert laboratory.get(f"instances/{name}/frames/")[0] == 404
    assert laboratory.post(f"series/{name}/segment/")[0] == 404
    assert not [one for one in pacs.asked if ".." in one or "*" in one]


def test_nothing_of_it_works_without_a_credential_or_with_anothers(
    client: TestClient, site: OnRequestSite, pacs: StandIn
) -> None:
    series = pacs.store(*images()[:1])
    made: Any = site
    token = make_program(client, made, Role.SERVICE).token
    looks = make_program(client, made, Role.VIEWER, scopes=(Right.LOOK,)).token
    pacs.asked.clear()
    for login, secret, status in (
        ("", "", 401),
        ("admin", "admin123", 401),
        ("service", "wrong", 401),
        ("viewer", token, 401),
        ("viewer", looks, 403),
    ):
        one = Laboratory(client, login, secret)
        for address in ("status/x/", "requests/", "health/", "instances/1/frames/"):
            assert one.get(address)[0] == status, (login, address)
        for address in ("segment", "request-local"):
            body = {"sequence_series_ids": [series]}
            assert one.post(f"series/{series}/{address}/", body)[0] == status, (login, address)
    assert pacs.asked == [] and site.runs() == []
    # A browser keeps such credentials: they count nowhere else.
    basic = Laboratory(client, "service", token).headers
    assert client.get("/api/v1/cases", headers=basic).status_code == 401


def test_a_token_may_come_as_a_bearers_too(client: TestClient, site: OnRequestSite) -> None:
    made: Any = site
    program = make_program(client, made, Role.SERVICE)
    told = program.get(f"{BASE}/health/")
    assert (told["success"], told["models"]) == (True, ["four", "rules_ct"])
    assert told["orthanc"]["connected"] is True


def test_the_laboratory_is_asked_where_somebody_says_so(site: OnRequestSite, laboratory: Laboratory) -> None:
    def host(asked: str = "", *, use_local: bool = False, force: bool = False) -> str | None:
        variables = {"USE_LOCAL_INFERENCE": asked}
        return chosen_host(site.site, use_local=use_local, force_server=force, environment=variables)

    assert host() is None and host("false") is None
    status, told = laboratory.post("series/1/segment/?use_local=true", {"sequence_series_ids": ["1"]})
    assert (status, told["success"]) == (400, False)
    assert told["error"] == "there is no laboratory to ask: on_request.laboratory names its host"
    login = {"host": "lab.invalid", "user": "mqi", "key_file": "key", "known_hosts": "known"}
    slurm = {"root": "/scratch/mqi", "model_command": ["/opt/mqi/run-model"]}
    cluster = {**login, "slurm": slurm}
    site.change({"hosts": {"lab": cluster}, "on_request": {"laboratory": "lab"}})
    assert host() is None
    assert host("true") == host(use_local=True) == "lab"
    assert host("true", use_local=True, force=True) == "local"


def test_the_interface_has_the_same_without_the_past(
    client: TestClient, site: OnRequestSite, pacs: StandIn
) -> None:
    made: Any = site
    program = make_program(client, made, Role.SERVICE)
    series = pacs.store(*images())
    site.services.only_queued = True
    answer = program.ask("POST", "image_sets", json={"series": [series], "model": "rules_ct"})
    assert answer.status_code == 202, answer.text
    place = answer.headers["location"]
    assert place == f"/api/v1/image_sets/{answer.json()['key']}/request"
    assert program.get(place)["state"] == "pending"
    assert program.get(f"{place}?wait=0.05")["state"] == "pending"
    site.instance.report_run_canceled(site.runs()[0])
    assert program.get(f"{place}?wait=60")["state"] == "failed"
    program.get("image_sets/S234567ABC.rules_ct/request", 404)
    program.post("image_sets", {"series": ["*"], "model": "rules_ct"}, 409)
    program.post("image_sets", {"series": [series], "model": "none"}, 409)
    program.post("image_sets", {"series": [], "model": "rules_ct"}, 422)
