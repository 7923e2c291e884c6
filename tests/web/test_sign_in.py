"""Who gets in, and how long."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from mqi_dagster.operations.people import change_user, make_link
from mqi_dagster.people.rights import Role
from tests.web.conftest import OWNER, PASSWORD, Browser
from tests.worklist.seeded import Seeded

Add = Callable[..., None]


def test_nobody_sees_anything_without_signing_in(browser: Browser) -> None:
    answer = browser.client.get("/", headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/")
    assert browser.client.get("/").status_code == 401
    assert browser.client.get("/stream/worklist").status_code == 401


def test_the_worklist_shows_where_cases_stand_and_why(browser: Browser, account: Add) -> None:
    account("anna", Role.VIEWER)
    browser.sign_in("anna")
    page = browser.get("/")
    assert "P000000001.fx0001" in page
    assert "delivery 1 is &lt;b&gt;not&lt;/b&gt; whole" in page
    assert "it grows still" in page


def test_a_wrong_password_is_refused_and_six_lock_the_account(browser: Browser, account: Add) -> None:
    account("anna", Role.VIEWER)
    for _ in range(5):
        answer = browser.client.post("/login", data={"name": "anna", "password": "wrong"})
        assert answer.status_code == 401
        assert "name or password is wrong" in answer.text
    answer = browser.client.post("/login", data={"name": "anna", "password": PASSWORD})
    assert answer.status_code == 401
    assert "locked until" in answer.text


def test_an_unused_session_is_over_after_half_an_hour(browser: Browser, account: Add, seeded: Seeded) -> None:
    account("anna", Role.VIEWER)
    browser.sign_in("anna")
    seeded.site.ledger.database.clock = lambda: datetime.now(UTC) + timedelta(minutes=29)
    browser.get("/")
    seeded.site.ledger.database.clock = lambda: datetime.now(UTC) + timedelta(minutes=58)
    browser.get("/")
    seeded.site.ledger.database.clock = lambda: datetime.now(UTC) + timedelta(minutes=89)
    browser.get("/", 303)


def test_a_link_signs_in_once_and_a_disabled_account_is_out_at_once(
    browser: Browser, account: Add, seeded: Seeded
) -> None:
    account("anna", Role.VIEWER)
    code = make_link(seeded.site, OWNER, "anna")
    for _ in range(2):
        assert "Sign in as anna" in browser.get(f"/login/link?code={code}"), "looking uses nothing up"
    assert browser.client.post("/login/link", data={"code": code}).status_code == 303
    browser.get("/")
    assert "was used, or has expired" in browser.get(f"/login/link?code={code}", 401)
    assert browser.client.post("/login/link", data={"code": code}).status_code == 401
    change_user(seeded.site, OWNER, "anna", disabled=True)
    browser.get("/", 303)


def test_signing_out_ends_the_session_for_a_stolen_cookie_too(browser: Browser, account: Add) -> None:
    account("anna", Role.VIEWER)
    browser.sign_in("anna")
    stolen = dict(browser.client.cookies)
    browser.post("/logout")
    browser.client.cookies.update(stolen)
    browser.get("/", 303)


@pytest.mark.parametrize("form", [{}, {"csrf": "invented"}])
def test_a_form_without_the_sessions_word_changes_nothing(
    browser: Browser, account: Add, form: dict[str, str]
) -> None:
    account("anna", Role.VIEWER)
    browser.sign_in("anna")
    assert browser.client.post("/logout", data=form).status_code == 403
    browser.get("/")
