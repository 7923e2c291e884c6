"""Requests that no page of ours makes: no route fails at them, repeats them as markup, or obeys them."""

from __future__ import annotations

import re
from datetime import timedelta
from urllib.parse import quote, urljoin, urlsplit

import httpx
import pytest

from mqi_dagster.ledger.audit import Action
from mqi_dagster.operations.people import add_user, make_link, make_token
from mqi_dagster.people.rights import Right, Role
from mqi_dagster.web import access
from mqi_dagster.web.live import Live
from tests.web.conftest import OWNER, PASSWORD, Browser
from tests.web.test_people_pages import another, secret_in
from tests.web.test_routes import PUBLIC, ROUTES, STREAMS, VALUES
from tests.worklist.seeded import Seeded

FAILED = "P000000001.fx0001"
FORGED = {
    "markup": "\r\nSet-Cookie: a=b\x1b[2J\u202e<script>alert(1)</script>\"'><b>{{ 7 * 7 }}%s%(x)s' OR 1=1 --",
    "NUL": "a\x00b",
    "huge": "9" * 30,
}
"""What people who mean harm, and clumsy programs, put in the place of any value."""
MORE_FORGED = {
    "path": "../../../etc/passwd",
    "negative": "-1",
    "infinite": "1e999",
    "long": "é" * 220,
    "beam": f"{FAILED}__b{'9' * 25}",
}
FIELDS = (
    "name", "password", "next", "code", "state", "iss", "full_name", "role", "purpose", "days", "scope",
    "present", "new", "again", "language", "number", "hash", "patient", "priority", "verdict", "seen", "kind",
    "reason", "q", "machine", "since", "keys", "sort", "order", "page", "looked", "actor", "subject",
    "action", "first", "last", "before", "format", "plane", "at", "window", "dose", "attempt", "done",
)  # fmt: skip
"""Every field and parameter of the pages."""
PAGES = [route for route in ROUTES if "/api/" not in route and not route.startswith(STREAMS)]
HTML = {"accept": "text/html"}


def path_of(route: str, **values: str) -> str:
    """The address of a route, with other values than those of the table in some places."""
    known = {**VALUES, "key": FAILED, **values}
    return route.partition(" ")[2].format_map({name: quote(value, safe="") for name, value in known.items()})


@pytest.fixture
def boss(browser: Browser, seeded: Seeded, monkeypatch: pytest.MonkeyPatch) -> Browser:
    """A browser of somebody who may do everything."""
    monkeypatch.setattr(access, "PATIENCE_SECONDS", 600.0)
    add_user(seeded.site, OWNER, "boss", list(Role), password=PASSWORD)
    browser.sign_in("boss")
    browser.get("/")
    return browser


@pytest.mark.parametrize(
    "text",
    [
        *(pytest.param(text, id=name) for name, text in FORGED.items()),
        *(pytest.param(text, id=name, marks=pytest.mark.slow) for name, text in MORE_FORGED.items()),
    ],
)
def test_no_page_fails_or_repeats_as_markup_what_stands_in_the_place_of_values(
    boss: Browser, text: str
) -> None:
    cookies, fields = dict(boss.client.cookies), {**dict.fromkeys(FIELDS, text), "csrf": boss.csrf()}
    for route in PAGES:
        if route in ("POST /logout", "POST /account/sessions"):
            continue
        method = route.partition(" ")[0]
        sent = {"params" if method == "GET" else "data": fields}
        forged = dict.fromkeys(re.findall(r"{(\w+)}", route), text)
        for path in {path_of(route), path_of(route, **forged)}:
            answer = boss.client.request(method, path, headers=HTML, **sent)  # type: ignore[arg-type]
            assert answer.status_code < 500 or answer.status_code == 503, (route, answer.text)
            assert not re.search("<script>alert|<b>|root:|49%s", answer.text), route
            assert not answer.headers.get("set-cookie", "").startswith("a="), route
        boss.client.cookies.clear()
        boss.client.cookies.update(cookies)


def test_no_form_is_taken_without_the_word_of_its_own_session(boss: Browser, seeded: Seeded) -> None:
    elsewhere = another(boss)
    elsewhere.sign_in("boss")
    foreign, before = elsewhere.csrf(), seeded.site.ledger.audit.newest(1)[0].number
    forms = [route for route in PAGES if route.startswith("POST") and ROUTES[route] != PUBLIC]
    assert len(forms) > 20
    for route in forms:
        for csrf in ({}, {"csrf": ""}, {"csrf": foreign}):
            answer = boss.client.post(path_of(route), data={**dict.fromkeys(FIELDS, "1"), **csrf})
            assert (route, answer.status_code) == (route, 403)
            assert "this form is not of this session" in answer.text
        # What a form of another site can send beside forms.
        answer = boss.client.post(path_of(route), content="csrf=1", headers={"content-type": "text/plain"})
        assert (route, answer.status_code) == (route, 403)
    assert seeded.site.ledger.audit.newest(1)[0].number == before, "nothing was begun"


LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
FOREIGN: tuple[dict[str, str], ...] = (
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:9000"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    LINK,
    {"host": "evil.example"},
    {"host": "127.0.0.1:8000@evil.example"},
)


def test_a_page_of_another_site_signs_nobody_in_or_out(boss: Browser) -> None:
    csrf, form = boss.csrf(), {"name": "boss", "password": PASSWORD}
    for headers in FOREIGN:
        assert boss.client.post("/login", data=form, headers=headers).status_code == 403, headers
        assert boss.client.post("/logout", data={"csrf": csrf}, headers=headers).status_code == 403, headers
    picture = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    assert boss.client.get("/login/proxy", headers=picture).status_code == 403
    own = {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
    assert boss.client.post("/login", data=form, headers=own).status_code == 303


TARGETS = (
    "https://evil.example/", "//evil.example/", "/\\evil.example/", "\\\\evil.example", "/\t/evil.example",
    "", "/\r\nLocation: https://evil.example", "javascript:alert(1)", "///evil.example", "/\x00/evil.example",
    "http:evil.example", "evil.example", " //evil.example",
)  # fmt: skip


def test_signing_in_leads_to_no_other_site(browser: Browser, seeded: Seeded) -> None:
    add_user(seeded.site, OWNER, "anna", [Role.VIEWER])
    for target in TARGETS:
        code = make_link(seeded.site, OWNER, "anna")
        for page in (f"/login?next={quote(target)}", f"/login/link?code={code}&next={quote(target)}"):
            assert "evil" not in browser.get(page), target
        answer = browser.client.post("/login/link", data={"code": code, "next": target})
        assert answer.status_code == 303
        goes = urlsplit(urljoin("http://127.0.0.1:8000/login", answer.headers["location"].replace("\\", "/")))
        assert (goes.netloc, goes.path) == ("127.0.0.1:8000", "/"), target


def test_no_answer_is_kept_framed_or_guessed_at(boss: Browser) -> None:
    for route in ROUTES:
        if not route.startswith("GET") or route.startswith(STREAMS) or route == "GET /healthz":
            continue
        for headers in (HTML, {}):
            answer = boss.client.get(path_of(route), headers=headers)
            kept = answer.headers["cache-control"]
            assert kept in ("no-store", "private, no-cache"), route
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            policy = answer.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in policy and "unsafe" not in policy
            assert answer.headers["referrer-policy"] == "same-origin"
            assert "server" not in answer.headers


def test_a_secret_that_is_shown_once_is_shown_to_no_program_of_the_account(
    boss: Browser, seeded: Seeded
) -> None:
    reads = make_token(seeded.site, OWNER, "boss", "reads", {Right.LOOK}, timedelta(days=1)).secret
    program = another(boss).client
    boss.post("/account/tokens", purpose="more", days="9", scope="people")
    page = program.get("/account", headers={"authorization": f"Bearer {reads}", **HTML})
    assert page.status_code == 200 and secret_in(page.text) == ""
    assert secret_in(boss.get("/account")).startswith("mqi_")


def test_a_full_name_that_reads_otherwise_than_it_is_written_is_none(boss: Browser, seeded: Seeded) -> None:
    for name in ("Dr. \u202eeve", "two\nlines", "\x1b[2J"):
        boss.post("/people", name="kim", full_name=name, role="approver")
        assert "a full name is one line" in boss.get("/people")
    assert seeded.site.ledger.accounts.get("kim") is None
    assert Action.USER_ADDED not in {row.action for row in seeded.site.ledger.audit.newest(9, actor="boss")}
    # Also one that stands in the ledger already, in a text that is translated.
    seeded.site.ledger.accounts.add("lee", "Dr. \u202e<b>\x1b", ["viewer"], None)
    page = boss.get(f"/login/link?code={make_link(seeded.site, OWNER, 'lee')}")
    assert "Sign in as Dr. \\u202e&lt;b&gt;\\x1b" in page


def test_an_account_has_so_many_live_pages_and_no_more(boss: Browser) -> None:
    live: Live = boss.client.app.state.live  # type: ignore[attr-defined]
    live.open["boss"] = 200
    for path in ("/stream/board", "/stream/worklist", f"/stream/case/{FAILED}", "/api/v1/events"):
        answer = boss.client.get(path)
        assert (answer.status_code, answer.json()["type"]) == (429, "urn:mqi:error:too-many-tries"), path


def test_what_was_made_for_others_is_shown_to_nobody_with_less_rights(boss: Browser, seeded: Seeded) -> None:
    add_user(seeded.site, OWNER, "vera", [Role.VIEWER], password=PASSWORD)
    vera = another(boss)
    vera.sign_in("vera")
    for path in (f"/case/{FAILED}", "/board", "/"):
        whole = boss.get(path)
        assert vera.csrf() not in whole and boss.csrf() not in vera.get(path)
        assert set(re.findall(r'action="([^"]*)"', vera.get(path))) - {"/"} == {"/logout"}, path
    assert f'action="/case/{FAILED}/retry"' in boss.get(f"/case/{FAILED}")


def test_bodies_that_are_too_large_or_too_deep_are_refused(boss: Browser) -> None:
    big = boss.client.post("/login", data={"name": "boss", "password": "x" * (1 << 20)})
    assert big.status_code == 413
    csrf = boss.csrf()
    page: httpx.Response = boss.client.post("/patients", data={"patient": "x" * (1 << 20), "csrf": csrf})
    assert page.status_code == 413
    deep = boss.client.post(
        f"/api/v1/cases/{FAILED}/priority",
        content="[" * 200_000,
        headers={"content-type": "application/json", "x-csrf-token": csrf},
    )
    assert deep.status_code in (400, 422)
    many = boss.client.post("/patients", data={**{f"f{number}": "" for number in range(2000)}, "csrf": csrf})
    assert many.status_code in (400, 413, 422)
