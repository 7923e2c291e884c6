"""What guessing, fixing and replaying costs whoever tries it, and tells them nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from mqi_dagster.errors import InfrastructureError, SignInError
from mqi_dagster.ledger.audit import Outcome
from mqi_dagster.operations.people import actor_of, change_user, require_account, set_password
from mqi_dagster.people import passwords
from mqi_dagster.people.rights import Role
from mqi_dagster.people.tries import SignInTries, lock_of
from mqi_dagster.settings.web import Web
from mqi_dagster.web.access import Doorkeeper
from mqi_dagster.web.application import create_app
from tests.web.conftest import OWNER, PASSWORD, Browser
from tests.worklist.seeded import Seeded

Add = Callable[..., None]
FAILED = "P000000001.fx0001"
NOW = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)


def attempt(browser: Browser, name: str, password: str = "wrong", **headers: str) -> httpx.Response:
    return browser.client.post("/login", data={"name": name, "password": password}, headers=headers)


def trouble(answer: httpx.Response) -> str:
    found = re.search(r'role="alert">(.*?)</p>', answer.text)
    return re.sub(r"\d\d:\d\d", "HH:MM", found[1]) if found else ""


@contextmanager
def visited(seeded: Seeded, base: str = "https://mqi.example.org", **web: Any) -> Iterator[Browser]:
    """A browser at the pages of the site with other settings of `web`."""
    seeded.site.settings = seeded.site.settings.model_copy(update={"web": Web(**web)})
    with TestClient(create_app(seeded.site), base_url=base, follow_redirects=False) as client:
        yield Browser(client)


def test_names_without_an_account_disabled_ones_and_known_ones_are_refused_alike(
    browser: Browser, account: Add, seeded: Seeded, monkeypatch: pytest.MonkeyPatch
) -> None:
    account("anna", Role.VIEWER)
    account("gone", Role.VIEWER)
    change_user(seeded.site, OWNER, "gone", disabled=True)
    hashed: list[str | None] = []
    real = passwords.matches

    def counted(stored: str | None, password: str) -> bool:
        hashed.append(stored)
        return real(stored, password)

    monkeypatch.setattr(passwords, "matches", counted)
    said = {name: [trouble(attempt(browser, name)) for _ in range(7)] for name in ("anna", "gone", "eve")}
    assert said["anna"] == said["gone"] == said["eve"]
    assert said["eve"][0] == "name or password is wrong" and "locked until" in said["eve"][6]
    # Each try takes one hash until the name is locked, whoever it belongs to.
    assert len(hashed) == 15 and len([one for one in hashed if one is None]) == 10
    assert trouble(attempt(browser, "gone", PASSWORD)) == said["gone"][6]


def test_an_address_that_guesses_is_slowed_down_and_the_right_password_waits_with_it(
    browser: Browser, account: Add, seeded: Seeded
) -> None:
    account("anna", Role.VIEWER)
    began = datetime.now(UTC)
    seeded.site.ledger.database.clock = lambda: began
    for number in range(30):
        assert attempt(browser, f"somebody{number}").status_code == 401
    answer = attempt(browser, "anna", PASSWORD)
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 10
    assert "too many failed tries from this address" in answer.text
    refused = [row for row in seeded.site.ledger.audit.newest(100) if row.outcome is Outcome.REFUSED]
    assert len(refused) == 30, "what is not even tried fills no disk"
    assert {row.actor for row in refused} == {"nobody"}
    assert '"from": "testclient"' in refused[0].details
    seeded.site.ledger.database.clock = lambda: began + timedelta(seconds=11)
    browser.sign_in("anna")


def test_a_password_in_the_field_of_the_name_is_written_down_nowhere(
    browser: Browser, seeded: Seeded
) -> None:
    attempt(browser, "my Secret Password 17")
    row = seeded.site.ledger.audit.newest(1)[0]
    assert (row.actor, row.subject) == ("nobody", "nobody")
    assert "Secret" not in str(row) and "secret" not in str(row)


def test_tries_made_at_the_same_moment_pass_no_lock(browser: Browser, account: Add, seeded: Seeded) -> None:
    account("anna", Role.VIEWER)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: attempt(browser, "anna", f"guess {number}"), range(16)))
    found = seeded.site.ledger.accounts.get("anna")
    assert found is not None and found.failures == 5
    assert {answer.status_code for answer in answers} <= {401, 429}


def test_the_present_password_cannot_be_guessed_many_at_a_time_by_whoever_has_the_browser(
    account: Add, seeded: Seeded
) -> None:
    account("anna", Role.VIEWER)
    anna = actor_of(require_account(seeded.site, "anna"), "pages")

    def guess(number: int) -> str:
        with pytest.raises(SignInError) as refused:
            set_password(seeded.site, anna, "anna", "staple gun wallpaper", present=f"guess {number}")
        return refused.value.message

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(guess, range(16)))
    assert said.count("name or password is wrong") == 5
    assert require_account(seeded.site, "anna").failures == 5
    with pytest.raises(SignInError, match="locked until"):
        set_password(seeded.site, anna, "anna", "staple gun wallpaper", present=PASSWORD)


def test_while_the_ledger_is_away_only_those_who_are_signed_in_still_look(
    browser: Browser, account: Add, seeded: Seeded, monkeypatch: pytest.MonkeyPatch
) -> None:
    account("anna", Role.PHYSICIST)
    door: Doorkeeper = browser.client.app.state.doorkeeper  # type: ignore[attr-defined]
    sessions, away = seeded.site.ledger.sessions, pytest.MonkeyPatch()

    def refuse(*arguments: object, **options: object) -> None:
        raise InfrastructureError("the ledger is away")

    browser.sign_in("anna")
    csrf = browser.csrf()
    with away.context() as patch:
        patch.setattr(sessions, "find", refuse)
        page = browser.get("/")
        assert "P000000001.fx0001" in page and "/patients" not in page, "rights are checked anew"
        assert browser.client.post(f"/case/{FAILED}/retake", data={"csrf": csrf}).status_code == 403
        # Whoever has been away for longer than the idle time is out, as with the ledger.
        ((key, known),) = door._known.items()
        assert known.session is not None
        before = known.session.seen_at - timedelta(minutes=31)
        door._known[key] = replace(known, session=replace(known.session, seen_at=before))
        browser.get("/", 503)
    browser.get("/")
    stolen = dict(browser.client.cookies)
    browser.post("/logout")
    browser.client.cookies.update(stolen)
    with away.context() as patch:
        patch.setattr(sessions, "find", refuse)
        browser.get("/", 503)


def test_locks_grow_and_what_is_remembered_of_strangers_is_bounded() -> None:
    locks = [lock.total_seconds() if (lock := lock_of(count)) else 0 for count in range(1, 14)]
    assert locks == [0, 0, 0, 0, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert lock_of(10_000) == timedelta(hours=1)
    tries = SignInTries()
    for number in range(10_050):
        tries.failed(f"10.0.{number // 250}.{number % 250}", NOW)
        tries.unknown(f"name{number}", NOW)
    assert (len(tries._addresses), len(tries._names)) == (10_000, 10_000)


def test_behind_a_proxy_the_address_is_the_one_that_the_proxy_has_seen(seeded: Seeded, account: Add) -> None:
    account("anna", Role.VIEWER)
    began = datetime.now(UTC)
    seeded.site.ledger.database.clock = lambda: began
    with visited(seeded, behind_proxy=True, origins=("https://mqi.example.org",)) as browser:
        for number in range(30):
            attempt(browser, f"somebody{number}", **{"x-forwarded-for": f"10.0.0.{number}, 192.0.2.7"})
        assert attempt(browser, "anna", PASSWORD, **{"x-forwarded-for": "192.0.2.7"}).status_code == 429
        assert attempt(browser, "anna", PASSWORD, **{"x-forwarded-for": "192.0.2.8"}).status_code == 303
    with visited(seeded, "http://127.0.0.1:8000") as browser:
        for number in range(30):
            attempt(browser, f"somebody{number}", **{"x-forwarded-for": f"10.0.0.{number}"})
        assert attempt(browser, "anna", PASSWORD).status_code == 429, "nobody names an address but a proxy"


@pytest.mark.parametrize(
    ("base", "web", "name", "path"),
    [
        (
            "https://mqi.example.org",
            {"behind_proxy": True, "origins": ("https://mqi.example.org",)},
            "__Host-mqi",
            "/",
        ),
        (
            "https://mqi.example.org",
            {"behind_proxy": True, "origins": ("https://mqi.example.org",), "prefix": "/mqi"},
            "__Secure-mqi",
            "/mqi",
        ),
        ("http://127.0.0.1:8000", {}, "mqi-8000", "/"),
    ],
    ids=["TLS", "below a prefix", "this machine"],
)
def test_a_session_is_a_cookie_that_no_script_and_no_other_site_has(
    seeded: Seeded, account: Add, base: str, web: dict[str, Any], name: str, path: str
) -> None:
    account("anna", Role.VIEWER)
    with visited(seeded, base, **web) as browser:
        answer = browser.client.post("/login", data={"name": "anna", "password": PASSWORD})
        cookie = SimpleCookie(answer.headers["set-cookie"])[name]
        assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "lax", path)
        assert bool(cookie["secure"]) is base.startswith("https")
        assert cookie["max-age"] == str(12 * 3600)
        assert cookie["domain"] == ""
        assert len(cookie.value) == 43
        hsts = answer.headers.get("strict-transport-security")
        assert hsts == ("max-age=31536000" if base.startswith("https") else None)
        assert seeded.site.ledger.sessions.find(cookie.value, timedelta(1), timedelta(1)) is None


def test_a_session_that_somebody_else_has_begun_or_invented_is_not_gone_on_with(
    browser: Browser, account: Add, seeded: Seeded
) -> None:
    account("anna", Role.VIEWER)
    account("eve", Role.VIEWER)
    browser.client.cookies.set("mqi-8000", "invented-by-eve", domain="127.0.0.1", path="/")
    browser.get("/", 303)
    browser.sign_in("eve")
    of_eve = browser.client.cookies["mqi-8000"]
    assert of_eve != "invented-by-eve"
    browser.sign_in("anna")
    assert browser.client.cookies["mqi-8000"] != of_eve
    browser.client.cookies.clear()
    browser.client.cookies.set("mqi-8000", of_eve)
    browser.get("/", 303)


def test_a_session_in_use_ends_after_half_a_day_and_ended_ones_are_removed(
    browser: Browser, account: Add, seeded: Seeded
) -> None:
    account("anna", Role.VIEWER)
    browser.sign_in("anna")
    ledger = seeded.site.ledger
    began = datetime.now(UTC)
    for minutes in range(20, 12 * 60, 20):
        ledger.database.clock = lambda minutes=minutes: began + timedelta(minutes=minutes)  # type: ignore[misc]
        browser.get("/")
    ledger.database.clock = lambda: began + timedelta(hours=12, minutes=1)
    browser.get("/", 303)
    browser.sign_in("anna")
    assert ledger.sessions.remove_ended(timedelta(minutes=30), timedelta(hours=12)) == 0
    assert len(ledger.sessions.of("anna", timedelta(days=9), timedelta(days=9))) == 1
