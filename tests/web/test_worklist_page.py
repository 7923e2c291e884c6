"""The worklist: what it shows to whom, its addresses, and what it says where there is nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.ledger.audit import Action
from mqi_dagster.operations.instance import write_instance
from mqi_dagster.people.rights import Role
from tests.chain.chain import ONE_BEAM
from tests.waiting import wait_for
from tests.web.conftest import Browser
from tests.web.real_sites import as_, chain_on_disk, pages_of
from tests.worklist.seeded import Seeded

Add = Callable[..., None]
FAILED, NEW = "P000000001.fx0001", "P000000002.fx0001"


@pytest.fixture
def vera(browser: Browser, account: Add) -> Browser:
    """A viewer's browser."""
    account("vera", Role.VIEWER)
    browser.sign_in("vera")
    return browser


def keys_in(page: str) -> list[str]:
    return re.findall(r'<tr id="row-([^"]+)"', page)


def once(browser: Browser, path: str, shows: Callable[[str], bool]) -> str:
    """A page when it has been brought up to date."""
    return wait_for(lambda: page if shows(page := browser.get(path)) else "", f"{path} shows it")


def tabs_in(page: str) -> dict[str, int]:
    return {name: int(count) for name, count in re.findall(r'id="tab-(\w+)".*?class="count">(\d+)<', page)}


def test_what_needs_a_person_is_on_top_with_its_reason_and_what_to_do(vera: Browser) -> None:
    page = vera.get("/")
    assert keys_in(page) == [FAILED, NEW]
    assert tabs_in(page) == {"all": 2, "person": 1, "work": 0, "waiting": 1, "concluded": 0}
    assert "delivery 1 is &lt;b&gt;not&lt;/b&gt; whole" in page
    assert "→ correct the files in the inbox: the case is taken in anew by itself" in page
    assert f'href="/case/{FAILED}"' in page
    assert re.search(r'<time datetime="\d{4}-[^"]+" data-age>', page)


def test_an_address_keeps_what_was_chosen(vera: Browser, seeded: Seeded) -> None:
    seeded.concluded([f"PQ{number:07d}.fx0001" for number in range(3)], machine="G2", plan="LIVER 5")
    seeded.site.ledger.database.clock = lambda: datetime.now(UTC)

    def when_read(path: str, keys: list[str]) -> str:
        return once(vera, path, lambda page: keys_in(page) == keys)

    done = ["PQ0000000.fx0001", "PQ0000001.fx0001", "PQ0000002.fx0001"]
    page = when_read("/?state=concluded&sort=case&order=down", done[::-1])
    assert 'aria-sort="descending"><a href="/?state=concluded&amp;sort=case">' in page
    assert 'data-stream="/stream/worklist?state=concluded&amp;sort=case&amp;order=down&amp;page=1"' in page
    assert '<input type="hidden" name="state" value="concluded">' in page
    page = when_read("/?machine=G2&q=liver", done)
    assert "<option selected>G2</option>" in page
    assert 'name="q" value="liver"' in page
    assert 'href="/?q=liver&amp;state=waiting&amp;machine=G2"' in page
    assert "3 of 3 beams" in page and "Field 1, Field 2, Field 3" in page and "LIVER 5" in page


@pytest.mark.parametrize(
    "query",
    [
        "state=none",
        "kind=../x",
        "sort=x&order=y",
        "page=-3",
        "since=zz",
        "page=99999999999",
        "q=%00",
        "since=0",
    ],
)
def test_what_an_address_does_not_understand_it_leaves_out(vera: Browser, query: str) -> None:
    assert vera.client.get(f"/?{query}").status_code == 200


def test_what_somebody_searches_for_does_nothing_in_the_page(vera: Browser) -> None:
    page = vera.get("/?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&machine=%3Cb%3E")
    assert "<script>alert" not in page and "<b>" not in page
    assert "None of the 2 cases, courses and image sets fits these filters." in page


def test_control_characters_and_html_in_a_row_are_shown_and_do_nothing(vera: Browser, seeded: Seeded) -> None:
    seeded.arrive("P000000003.fx0001", ready=False, reason="\x1b[31m<img src=x>\u202e`mqi <b>`")
    seeded.site.ledger.database.clock = lambda: datetime.now(UTC)
    seeded.concluded(["PQ0000001.fx0001"], plan="<script>alert(1)</script>", machine='"><b>')
    page = once(vera, "/", lambda page: "P000000003" in page and "alert(1)" in page)
    assert "\x1b" not in page and "\u202e" not in page
    assert "\\x1b[31m&lt;img src=x&gt;\\u202e<code>mqi &lt;b&gt;</code>" in page
    assert "<script>alert" not in page


def test_a_list_has_pages_with_links(vera: Browser, seeded: Seeded) -> None:
    seeded.arrivals([f"PZ{number:03d}.fx0001" for number in range(110)], asked=False)
    seeded.site.ledger.database.clock = lambda: datetime.now(UTC)
    page = once(vera, "/?state=waiting&sort=case&page=2", lambda page: tabs_in(page)["waiting"] == 111)
    assert "51–100 of 111" in page
    assert len(keys_in(page)) == 50
    assert 'rel="prev" href="/?state=waiting&amp;sort=case&amp;page=1"' in page
    assert 'rel="next" href="/?state=waiting&amp;sort=case&amp;page=3"' in page


def test_a_case_in_work_that_an_alarm_is_about_needs_a_person(vera: Browser, seeded: Seeded) -> None:
    seeded.site.ledger.alarms.raise_(AlarmKind.BEAM_STUCK, f"{NEW}__b01", "an engine stands still")
    page = once(vera, "/", lambda page: tabs_in(page)["person"] == 2)
    assert tabs_in(page)["waiting"] == 0


def test_a_site_without_a_case_says_how_one_comes(empty_instance: Path, tmp_path: Path) -> None:
    shutil.copytree(empty_instance, tmp_path / "dagster")
    site = Seeded(tmp_path, None).site
    write_instance(site.settings)
    with pages_of(site) as client:
        page = as_(client, "vera").get("/")
    assert "No case has arrived yet." in page
    assert "paths.inbox" in page and "<code>mqi simulate-delivery</code>" in page
    assert str(site.inbox) not in page


# Whose they are


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, empty_instance: Path) -> Iterator[TestClient]:
    """A site with a case of Jane Roe and one of John Doe, which was refused."""
    with chain_on_disk(tmp_path_factory.mktemp("whose"), empty_instance) as chain:
        chain.deliver(plan=ONE_BEAM, patient_id="4711", patient_name="Roe^Jane")
        chain.deliver(
            "truncated:beam=2,layer=2", plan=ONE_BEAM, seed=2, patient_id="4712", patient_name="Doe^John"
        )
        chain.tick("case_arrivals")
        with pages_of(chain.site) as client:
            client.app.state.site = chain.site
            yield client


def test_only_whoever_may_is_shown_whose_they_are_and_the_audit_has_it(pages: TestClient) -> None:
    site = pages.app.state.site
    plain = as_(pages, "vera").get("/")
    assert len(keys_in(plain)) == 2
    assert not re.search("Roe|Doe|4711|4712|/patients", plain)
    before = [row for row in site.ledger.audit.newest(50) if row.action is Action.IDENTITY_READ]
    assert before == []
    page = as_(pages, "anna").get("/")
    assert re.search(r"Roe, Jane<div[^>]*>4711<", page) and re.search(r"Doe, John<div[^>]*>4712<", page)
    as_(pages, "anna").get("/")
    told = [
        (row.actor, row.subject) for row in site.ledger.audit.newest(50) if row.action is Action.IDENTITY_READ
    ]
    assert sorted(told) == sorted(("anna", key) for key in keys_in(page))


@pytest.mark.parametrize(
    ("words", "found"),
    [("4711", "Roe"), ("roe jane", "Roe"), ("ane", "Roe"), ("doe, john", "Doe"), ("471", None)],
)
def test_a_patient_is_found_by_id_or_name_and_no_address_has_them(
    pages: TestClient, words: str, found: str | None
) -> None:
    anna = as_(pages, "anna")
    answer = anna.client.post("/patients", data={"csrf": anna.csrf(), "patient": words})
    assert answer.status_code == 303
    address = answer.headers["location"]
    assert re.fullmatch(r"/\?keys=([A-Z0-9]+\.fx0001)?", address)
    page = anna.get(address)
    if found is None:
        assert "No case, course or image set of this patient was found." in page
    else:
        assert len(keys_in(page)) == 1 and found in page
    newest = pages.app.state.site.ledger.audit.newest(20, subject="patient search")
    assert newest[0].details == f'{{"found": "{int(found is not None)}"}}'


def test_whoever_may_not_see_patients_may_not_search_them(pages: TestClient) -> None:
    vera = as_(pages, "vera")
    vera.post("/patients", 403, patient="4711")
    anna = as_(pages, "anna")
    assert anna.client.post("/patients", data={"patient": "4711"}).status_code == 403
    anna.post("/patients", 409, patient=" 4 ")


def test_an_inventory_says_machine_plan_and_beams(pages: TestClient) -> None:
    page = as_(pages, "vera").get("/?q=synthetic")
    assert len(keys_in(page)) == 1
    assert "SYNTHETIC" in page and 'data-name="Machine">GENERIC<' in page


def test_days_count_back_from_now(vera: Browser, seeded: Seeded) -> None:
    seeded.now = datetime.now(UTC) - timedelta(days=3)
    seeded.arrive("P000000009.fx0001")
    seeded.site.ledger.database.clock = lambda: datetime.now(UTC)
    once(vera, "/", lambda page: "P000000009" in page)
    assert keys_in(vera.get("/?since=1")) == [FAILED, NEW]
    assert "P000000009.fx0001" in keys_in(vera.get("/?since=7"))
