"""The page of a case: what was delivered, what came of it, and nothing for those who may not see it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mqi_dagster.ledger.audit import Action
from mqi_dagster.operations.people import add_user
from mqi_dagster.people.rights import Role
from tests.chain.chain import ONE_BEAM, PLAN, Chain, faulty_engine, quick_engine
from tests.web.conftest import OWNER, PASSWORD
from tests.web.real_sites import as_, chain_on_disk, pages_of
from tests.web.test_languages import english
from tests.web.test_routes import ROUTES, STREAMS, VALUES

IDENTITY = ("ZQ-4711", "Findmich", "Petra", "1947-08-13", "19470813")
BEAM_NAME = "<i>1&'\""
"""As somebody may type it; 16 characters at most."""


@dataclass(frozen=True)
class Cases:
    """The pages of a site, and its cases."""

    chain: Chain
    client: TestClient
    done: str
    failed: str
    refused: str

    @property
    def every(self) -> tuple[str, str, str]:
        """The keys of all cases."""
        return self.done, self.failed, self.refused


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, empty_instance: Path) -> Iterator[Cases]:
    """A case that is concluded, one whose engine crashes, and one that was refused."""
    folder = tmp_path_factory.mktemp("cases")
    with chain_on_disk(folder, empty_instance, {"engine": quick_engine()}) as chain:
        person = {"patient_name": "Findmich^Petra", "patient_birth_date": "19470813"}
        folder_of = chain.deliver(plan=PLAN, patient_id="ZQ-4711", **person).folder
        (plan,) = folder_of.glob("RP*.dcm")
        dataset = pydicom.dcmread(plan)
        dataset.IonBeamSequence[-1].BeamName = BEAM_NAME
        dataset.save_as(plan)
        chain.tick_sensors(rounds=3)
        done = chain.runs_of("conclusion")[0]
        (folder / "mode").write_text("crash-text")
        chain.change({"engine": faulty_engine(folder / "mode")})
        chain.deliver(plan=ONE_BEAM, seed=2, patient_id="ZQ-4712", **person)
        chain.deliver("truncated:beam=2,layer=2", seed=3, patient_id="ZQ-4713", **person)
        chain.tick("case_arrivals")
        chain.tick("beams_to_simulate")
        intakes = {key: outcome.success for job, key, outcome in chain.runs if job == "intake"}
        failed = next(key for key, success in intakes.items() if success and key != done)
        refused = next(key for key, success in intakes.items() if not success)
        with pages_of(chain.site) as client:
            yield Cases(chain, client, done, failed, refused)


def addresses(page: str, what: str) -> list[str]:
    """The addresses of a page that begin with this."""
    return [found.replace("&amp;", "&") for found in re.findall(rf'(?:src|href)="({what}[^"]*)"', page)]


def text_of(page: str) -> str:
    """What a reader sees."""
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_the_beams_stand_there_with_their_figures(cases: Cases) -> None:
    page = as_(cases.client, "vera").get(f"/case/{cases.done}")
    summary = {beam["beam"]: beam for beam in cases.chain.summary(cases.done)["beams"]}
    for number, beam in summary.items():
        (row,) = re.findall(rf'<tr id="row-{number}">(.*?)</tr>', page, re.DOTALL)
        cells = text_of(row)
        low, high = beam["energies_mev"]
        assert f"{low:.1f} – {high:.1f}" in cells
        assert f"{beam['planned_mu']:.2f}"[:5] in cells and "0.988" in cells
        assert f"{beam['rt_dose']['uncertainty_percent']:.1f}" in cells
        assert f"{beam['rt_dose']['r80_mm']:.1f}" in cells
        assert "complete" in cells
    assert "as planned" in text_of(page)
    assert (
        "http://127.0.0.1:3000/assets/rt_dose?view=partitions&amp;partition=" + f"{cases.done}__b02" in page
    )


def test_a_name_that_somebody_has_typed_is_text_and_no_markup(cases: Cases) -> None:
    page = as_(cases.client, "vera").get(f"/case/{cases.done}")
    assert "<i>1" not in page
    assert "&lt;i&gt;1&amp;&#39;&#34;" in page


def test_a_korean_page_of_a_case_has_no_english_but_names(cases: Cases) -> None:
    names = set(
        re.findall("[A-Za-z]{2,}", f"{cases.done} {cases.chain.site.settings.site.name} GENERIC TX vera")
    )
    names |= {"Frame", "of", "Reference", "JavaScript", "Gy", "systemd"}
    for result in ("interpreted csvs", "tps file", "raw dose", "rt dose", "handed over"):
        names |= set(result.split())
    browser = as_(cases.client, "vera")
    answer = browser.client.get(
        f"/case/{cases.done}", headers={"accept": "text/html", "accept-language": "ko"}
    )
    assert "전달 MU" in answer.text and "계획대로" in answer.text
    assert english(answer.text) - names == set()


def test_every_picture_of_the_page_is_one(cases: Cases) -> None:
    browser = as_(cases.client, "vera")
    found = addresses(browser.get(f"/case/{cases.done}"), f"/case/{cases.done}/beam/")
    pictures = [one for one in found if ".png" in one]
    names = {one.split("?")[0].rpartition("/")[2] for one in pictures}
    assert names == {
        "spot-map.png", "layer-MU.png", "layer-positions.png", "depth-dose.png", "lateral-profiles.png",
        "slice.png",
    }  # fmt: skip
    for one in pictures:
        answer = cases.client.get(one)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        assert min(Image.open(BytesIO(answer.content)).size) > 150


def test_a_dose_in_water_says_so(cases: Cases) -> None:
    page = text_of(as_(cases.client, "vera").get(f"/case/{cases.done}"))
    assert "has a Frame of Reference of its own and is never laid over a patient" in page
    assert "Its maximum is" in page


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("plane=coronal&at=3&window=bone&dose=isodoses", 200),
        ("plane=sagittal&at=0&window=lung&dose=nothing", 200),
        ("plane=axial&at=99999", 404),
        ("plane=axial&window=other", 404),
        ("plane=axial&at=-1", 422),
        ("plane=axial&at=1000000000000000000000", 422),
        ("plane=oblique", 422),
        ("dose=%3Cscript%3E", 422),
    ],
)
def test_a_slice_is_one_that_there_is(cases: Cases, query: str, status: int) -> None:
    as_(cases.client, "vera")
    assert cases.client.get(f"/case/{cases.done}/beam/2/slice.png?{query}").status_code == status


def test_why_an_engine_failed_stands_there_with_its_attempt_and_log(cases: Cases) -> None:
    browser = as_(cases.client, "vera")
    page = browser.get(f"/case/{cases.failed}")
    assert "the engine crashed" in page and "std::bad_alloc" in page
    assert "What to do:" in page
    (log,) = addresses(page, f"/case/{cases.failed}/beam/2/log.txt")
    answer = cases.client.get(log)
    assert answer.headers["content-type"].startswith("text/plain")
    assert "attempt 1" in answer.text and "what():  std::bad_alloc" in answer.text
    assert cases.client.get(log.replace("attempt=", "attempt=9")).status_code == 404


def test_a_case_that_was_refused_has_a_page_with_what_stands_in_the_inbox(cases: Cases) -> None:
    page = as_(cases.client, "vera").get(f"/case/{cases.refused}")
    assert "no whole number of 16-byte rows" in page
    assert "None is known before the case is taken in." in page
    assert len(re.findall(r'<td data-name="Irradiated"><time', page)) == 2


def test_whose_it_is_stands_there_for_whom_may_see_it_and_in_the_audit(cases: Cases) -> None:
    for case, patient in zip(cases.every, ("ZQ-4711", "ZQ-4712", "ZQ-4713"), strict=True):
        page = text_of(as_(cases.client, "anna").get(f"/case/{case}"))
        assert f"Findmich, Petra Patient ID {patient} Birth date 1947-08-13" in page
        (row,) = cases.chain.site.ledger.audit.newest(10, subject=case, actor="anna")
        assert row.action is Action.IDENTITY_READ


@pytest.mark.parametrize("name", ["vera", "ed"])
def test_without_the_right_nothing_says_whose_it_is(cases: Cases, name: str) -> None:
    browser = as_(cases.client, name)
    for case in cases.every:
        page = browser.get(f"/case/{case}")
        told = [page, *(cases.client.get(one).text for one in addresses(page, "/case/") if "log" in one)]
        assert not [one for one in IDENTITY for text in told if one in text]
        assert cases.chain.site.ledger.audit.newest(10, subject=case, actor=name) == []


@pytest.mark.parametrize(
    "name", ["vera", *(pytest.param(one, marks=pytest.mark.slow) for one in ("ed", "boss", "robot"))]
)
def test_no_route_tells_whose_it_is_to_whoever_may_not_know(
    cases: Cases, name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    site = cases.chain.site
    for login, role in (("boss", Role.ADMIN), ("robot", Role.SERVICE)):
        if site.ledger.accounts.get(login) is None:
            add_user(site, OWNER, login, [role], password=PASSWORD)
    as_(cases.client, name)
    asked = [route.removeprefix("GET ") for route in ROUTES if route.startswith("GET")]
    told: list[str] = []
    with caplog.at_level(logging.DEBUG):
        for path in (one for one in asked if not f"GET {one}".startswith(STREAMS)):
            for case in cases.every:
                key = f"{case}__b02" if "beams/{key}" in path else case
                address = path.format_map({**VALUES, "key": key, "number": "2", "name": "spot-map"})
                answer = cases.client.get(address, headers={"accept": "text/html"})
                told += [answer.text, str(answer.headers), str(answer.url)]
    told += [caplog.text, *capfd.readouterr()]
    assert len(told) > 300
    assert not [(one, text[:200]) for one in IDENTITY for text in told if one in text]
    rows = site.ledger.audit.newest(200, actor=name)
    assert not [row for row in rows if row.action is Action.IDENTITY_READ]
    assert not [one for one in IDENTITY for row in site.ledger.audit.every() if one in str(row)]


def test_real_places_are_for_those_who_may_see_them_and_in_the_audit(cases: Cases) -> None:
    page = as_(cases.client, "vera").get(f"/case/{cases.done}")
    inbox = str(cases.chain.inbox)
    assert inbox not in page and "/files" not in page
    browser = as_(cases.client, "vera")
    browser.get(f"/case/{cases.done}/files", 403)
    browser = as_(cases.client, "ed")
    assert f'href="/case/{cases.done}/files"' in browser.get(f"/case/{cases.done}")
    files = browser.get(f"/case/{cases.done}/files")
    assert f"{inbox}/" in files and str(cases.chain.data) in files
    (row,) = cases.chain.site.ledger.audit.newest(10, subject=cases.done, actor="ed")
    assert row.action is Action.PLACES_READ


@pytest.mark.parametrize(
    "path",
    [
        "/case/P000000009.fx0001",
        "/case/{key}/beam/3/log.txt?attempt=1",
        "/case/..%2F..%2Fetc%2Fpasswd",
        "/case/{key}%00",
        "/case/{key}__b02",
        "/case/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "/stream/case/P000000009.fx0001",
        "/case/{key}/beam/77/slice.png",
        "/case/{key}/beam/77/log.txt",
        "/case/{key}/beam/2/picture/..%2F..%2Fmqi.yaml.png",
        "/case/{key}/beam/2/picture/other.png",
        "/case/P000000009.fx0001/files",
        "/course/{key}",
    ],
)
def test_what_is_not_there_is_not_found(cases: Cases, path: str) -> None:
    as_(cases.client, "anna")
    answer = cases.client.get(path.replace("{key}", cases.done))
    assert answer.status_code == 404
    assert "root:" not in answer.text and "<script>alert" not in answer.text


def test_the_page_is_read_once_until_its_row_changes(cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = as_(cases.client, "vera")
    first = browser.get(f"/case/{cases.done}")

    def refuse(*arguments: object) -> None:
        raise AssertionError("it was read once more")

    monkeypatch.setattr("mqi_dagster.web.reports.report_of", refuse)
    assert browser.get(f"/case/{cases.done}") == first
