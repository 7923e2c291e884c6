"""One's own account, the accounts of others, and the audit, as pages."""

from __future__ import annotations

import csv
import hashlib
import html
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from starlette.testclient import TestClient

from mqi_dagster.operations.people import add_user, bearer, make_link, make_token
from mqi_dagster.people.rights import Right, Role
from tests.web.conftest import OWNER, PASSWORD, Browser
from tests.worklist.seeded import Seeded

Add = Callable[..., None]
OTHER = "staple gun wallpaper"


def secret_in(page: str) -> str:
    """What a page shows to be copied."""
    found = re.search(r'class="secret" readonly value="([^"]+)"', page)
    return html.unescape(found[1]) if found else ""


def told(page: str) -> str:
    """What a page tells of the form before it."""
    found = re.search(r'id="told">\s*<p>(.*?)</p>', page, re.DOTALL)
    return html.unescape(found[1]) if found else ""


def another(browser: Browser) -> Browser:
    """Another browser at the same pages."""
    client = TestClient(browser.client.app, base_url="http://127.0.0.1:8000", follow_redirects=False)
    return Browser(client)


def test_another_password_signs_out_every_other_browser_and_gives_this_one_a_new_session(
    browser: Browser, account: Add
) -> None:
    account("anna", Role.VIEWER)
    elsewhere = another(browser)
    elsewhere.sign_in("anna")
    browser.sign_in("anna")
    before = dict(browser.client.cookies)
    assert "anna" in browser.get("/account")
    for present, new, again, said in (
        ("wrong", OTHER, OTHER, "name or password is wrong"),
        (PASSWORD, OTHER, "another one entirely", "The two new passwords differ."),
        (PASSWORD, "short", "short", "a password has from 12 to 200 characters"),
        (PASSWORD, "anna1234password", "anna1234password", "guessed easily"),
    ):
        browser.post("/account/password", present=present, new=new, again=again)
        assert said in told(browser.get("/account"))
        assert dict(browser.client.cookies) == before
    browser.post("/account/password", present=PASSWORD, new=OTHER, again=OTHER)
    assert "every other browser was signed out" in told(browser.get("/account"))
    assert told(browser.get("/account")) == "", "it is told once"
    assert dict(browser.client.cookies) != before
    elsewhere.get("/", 303)
    elsewhere.client.cookies.update(before)
    elsewhere.get("/", 303)
    elsewhere.client.cookies.clear()
    elsewhere.sign_in("anna", OTHER)


def test_whoever_came_by_a_link_sets_a_password_without_a_present_one(browser: Browser, account: Add) -> None:
    account("boss", Role.ADMIN)
    browser.sign_in("boss")
    browser.post("/people", name="Bert", full_name="Bert Brandt", role="physicist")
    page = browser.get("/people")
    link = secret_in(page)
    assert "The account bert is added" in told(page) and "Bert Brandt" in page
    assert secret_in(browser.get("/people")) == ""
    bert = another(browser)
    code = link.partition("?code=")[2]
    assert bert.client.post("/login/link", data={"code": code}).status_code == 303
    assert "You have no password yet" in bert.get("/")
    bert.post("/account/password", new=OTHER, again=OTHER)
    assert "You have no password yet" not in bert.get("/")
    bert.sign_in("bert", OTHER)


def test_whoever_forgot_a_password_sets_another_one_by_a_link_of_late(
    browser: Browser, account: Add, seeded: Seeded
) -> None:
    account("anna", Role.PHYSICIST)
    for minutes, status in ((16, "is wrong"), (14, "The password is set")):
        anna = another(browser)
        link = make_link(seeded.site, OWNER, "anna")
        assert anna.client.post("/login/link", data={"code": link}).status_code == 303
        now = datetime.now(UTC) + timedelta(minutes=minutes)
        seeded.site.ledger.database.clock = lambda now=now: now
        page = anna.get("/account")
        assert ('name="present"' in page) is (minutes > 15)
        anna.post("/account/password", new=OTHER, again=OTHER)
        assert status in told(anna.get("/account")), minutes
        seeded.site.ledger.database.clock = lambda: datetime.now(UTC)
    another(browser).sign_in("anna", OTHER)
    anna = another(browser)
    anna.sign_in("anna", OTHER)
    anna.post("/account/password", new=PASSWORD, again=PASSWORD)
    assert "The password is set" not in told(anna.get("/account")), "of a session by password"


def test_a_token_is_shown_once_and_worthless_when_revoked_or_expired(
    browser: Browser, account: Add, seeded: Seeded
) -> None:
    account("anna", Role.PHYSICIST)
    browser.sign_in("anna")
    browser.post("/account/tokens", purpose="nightly <b>table</b>", days="30", scope="look")
    page = browser.get("/account")
    secret = secret_in(page)
    assert "nightly &lt;b&gt;table&lt;/b&gt;" in page
    assert secret.startswith("mqi_") and secret not in browser.get("/account")
    program = another(browser).client
    headers = {"authorization": f"Bearer {secret}"}
    assert program.get("/", headers=headers).status_code == 200
    stored = (seeded.site.settings.paths.state / "ledger.sqlite").read_bytes()
    assert secret.encode() not in stored
    assert hashlib.sha256(secret.encode()).hexdigest() in str(seeded.site.ledger.tokens.all())
    token = seeded.site.ledger.tokens.all()[0].id
    browser.post(f"/account/tokens/{token}/revoke")
    assert "revoked" in browser.get("/account")
    assert program.get("/", headers=headers).status_code == 401
    browser.post("/account/tokens", purpose="short", days="1", scope="look")
    short = secret_in(browser.get("/account"))
    assert bearer(seeded.site, short) is not None
    seeded.site.ledger.database.clock = lambda: datetime.now(UTC) + timedelta(days=1, seconds=1)
    assert bearer(seeded.site, short) is None
    assert program.get("/", headers={"authorization": f"Bearer {short}"}).status_code == 401


def test_what_a_token_cannot_be_made_for_is_told(browser: Browser, account: Add) -> None:
    account("anna", Role.VIEWER)
    browser.sign_in("anna")
    for fields, said in (
        ({"purpose": "x", "days": "367", "scope": "look"}, "valid for 1 to 366 days"),
        ({"purpose": "x", "days": "0", "scope": "look"}, "valid for 1 to 366 days"),
        ({"purpose": " ", "days": "9", "scope": "look"}, "what the token is for"),
        ({"purpose": "x", "days": "9"}, "a token needs a scope"),
        ({"purpose": "x", "days": "9", "scope": "everything"}, "a scope is one of"),
    ):
        browser.post("/account/tokens", **fields)
        assert said in told(browser.get("/account"))
    browser.post("/account/tokens", purpose="more than I may", days="9", scope="people")
    secret = secret_in(browser.get("/account"))
    program = another(browser).client
    assert program.get("/people", headers={"authorization": f"Bearer {secret}"}).status_code == 403


def test_a_token_gives_itself_nothing_that_its_scopes_do_not(
    browser: Browser, account: Add, seeded: Seeded
) -> None:
    add_user(seeded.site, OWNER, "boss", [Role.ADMIN])
    made = make_token(seeded.site, OWNER, "boss", "x", {Right.LOOK, Right.PEOPLE}, timedelta(days=1))
    headers = {"authorization": f"Bearer {made.secret}"}
    for path, data in (
        ("/account/password", {"new": OTHER, "again": OTHER}),
        ("/account/tokens", {"purpose": "more", "scope": "audit"}),
        ("/people/boss/link", {}),
    ):
        assert browser.client.post(path, data=data, headers=headers).status_code == 403, path
    boss = seeded.site.ledger.accounts.get("boss")
    assert boss is not None and boss.password is None
    assert len(seeded.site.ledger.tokens.all()) == 1


def test_the_language_that_is_chosen_holds_in_every_browser(browser: Browser, account: Add) -> None:
    account("anna", Role.VIEWER)
    browser.sign_in("anna")
    browser.post("/account/language", language="ko")
    assert '<html lang="ko">' in browser.get("/account")
    elsewhere = another(browser)
    assert '<html lang="en">' in elsewhere.get("/login")
    elsewhere.sign_in("anna")
    assert '<html lang="ko">' in elsewhere.get("/account")
    browser.post("/account/language", language="")
    assert '<html lang="en">' in browser.get("/account")
    browser.post("/account/language", language="xx")
    assert '<html lang="en">' in browser.get("/account")


def test_an_admin_changes_disables_and_signs_out_others_and_not_themselves(
    browser: Browser, account: Add, seeded: Seeded
) -> None:
    account("boss", Role.ADMIN)
    account("anna", Role.VIEWER)
    browser.sign_in("boss")
    anna = another(browser)
    anna.sign_in("anna")
    anna.get("/people", 403)
    assert anna.client.post("/people/boss/disable", data={"csrf": anna.csrf()}).status_code == 403
    anna.post("/account/tokens", purpose="hers", days="9", scope="look")
    browser.post("/people/anna", full_name="Anna Arnold", role="approver")
    page = browser.get("/people/anna")
    assert told(page) == "The account is changed." and "Anna Arnold" in page
    assert "accept or reject results" in anna.get("/account")
    browser.post("/people/anna", full_name="Anna")
    assert "an account needs a role" in told(browser.get("/people/anna"))
    browser.post("/people/boss", full_name="Boss", role="viewer")
    assert "nobody takes the administration from themselves" in told(browser.get("/people/boss"))
    token = seeded.site.ledger.tokens.all("anna")[0].id
    browser.post(f"/people/anna/tokens/{token}/revoke")
    assert told(browser.get("/people/anna")) == "The token is revoked."
    browser.post("/people/anna/sign-out")
    anna.get("/", 303)
    browser.post("/people/anna/disable")
    assert "disabled" in browser.get("/people")
    assert anna.client.post("/login", data={"name": "anna", "password": PASSWORD}).status_code == 401
    browser.post("/people/anna/enable")
    anna.sign_in("anna")
    assert browser.client.post("/people/anna/promote", data={"csrf": browser.csrf()}).status_code == 404
    browser.get("/people/nobody-here", 404)
    names = {(row.actor, row.action.value) for row in seeded.site.ledger.audit.every()}
    done = {"user_changed", "token_revoked", "signed_out"}
    assert {("boss", name) for name in done} <= names


def test_the_audit_is_filtered_paged_and_its_reading_is_in_it(
    browser: Browser, account: Add, seeded: Seeded
) -> None:
    account("boss", Role.ADMIN)
    account("anna", Role.VIEWER)
    anna = another(browser)
    anna.sign_in("anna")
    for path in ("/audit", "/audit/export"):
        anna.get(path, 403)
    browser.sign_in("boss")
    audit = seeded.site.ledger.audit
    for number in range(120):
        audit.add("robot", "command", audit.newest(1)[0].action, f"P000000001.fx0001__b{number:02d}")
    page = browser.get("/audit")
    assert [row.actor for row in audit.newest(1)] == ["boss"]
    assert page.count('<tr id="row-') == 100
    older = re.search(r'href="(/audit\?before=\d+)" rel="next"', page)
    assert older
    assert "user added" in browser.get(older[1])
    assert browser.get("/audit?actor=anna").count('<tr id="row-') == 1
    assert browser.get("/audit?action=user_added").count('<tr id="row-') == 4
    assert browser.get("/audit?subject=P000000001.fx0001__b07").count('<tr id="row-') == 1
    assert browser.get("/audit?subject=P000000001.fx0001&actor=robot").count('<tr id="row-') == 100
    assert "No row fits." in browser.get("/audit?last=2020-01-01")
    assert "No row fits." not in browser.get("/audit?first=2020-01-01")
    assert "a day is written as 2026-01-31" in browser.get("/audit?first=yesterday")
    assert "an action is one of" in browser.get("/audit?action=nothing")
    browser.get("/audit/export?first=yesterday", 404)
    reads = [row for row in audit.every() if row.action.value == "audit_read"]
    assert len(reads) == 1, "once an hour"


def test_the_audit_is_exported_whole_and_harmless(browser: Browser, account: Add, seeded: Seeded) -> None:
    account("boss", Role.ADMIN)
    audit = seeded.site.ledger.audit
    audit.add("=cmd|' /C calc'!A0", "command", audit.newest(1)[0].action, "x")
    browser.sign_in("boss")
    rows = [json.loads(line) for line in browser.get("/audit/export").splitlines()]
    assert [row["number"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[-1]["action"] == "audit_read" and '"exported": "jsonl"' in rows[-1]["details"]
    previous = "0" * 64
    for row in rows:
        content = [row[name] for name in ("number", "at", "actor", "via", "action", "subject", "outcome")]
        content += [row["details"], row["previous"]]
        assert row["previous"] == previous
        previous = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        assert row["hash"] == previous
    answer = browser.client.get("/audit/export?format=csv&subject=x")
    assert answer.headers["content-disposition"] == 'attachment; filename="audit.csv"'
    table = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["actor"] for row in table] == ["'=cmd|' /C calc'!A0"]


def test_verifying_shows_what_to_note_and_finds_what_was_rewritten(
    browser: Browser, account: Add, seeded: Seeded
) -> None:
    account("boss", Role.ADMIN)
    browser.sign_in("boss")
    browser.post("/audit/verify")
    page = browser.get("/audit")
    number, noted = int(told(page).rpartition("Row ")[2].split(",")[0]), secret_in(page)
    assert "The audit is whole" in told(page)
    assert seeded.site.ledger.audit.newest(1, before=number + 1)[0].hash == noted
    browser.post("/audit/verify", number=str(number), hash=f" {noted.upper()} ")
    assert "The audit is whole" in told(browser.get("/audit"))
    for fields, said in (
        ({"number": str(number), "hash": "0" * 64}, f"row {number} of the audit is not the one"),
        ({"number": "99999", "hash": noted}, "the audit ends before row 99999"),
        ({"number": "1"}, "by its number and its hash"),
        ({"number": "one", "hash": noted}, "number"),
    ):
        browser.post("/audit/verify", **fields)
        assert said in told(browser.get("/audit"))
    with seeded.site.ledger.database.write() as connection:
        connection.execute(text("DROP TRIGGER mqi_audit_no_update"))
        connection.execute(text("UPDATE mqi_audit SET actor = 'eve' WHERE number = 1"))
    browser.post("/audit/verify")
    assert "row 1 of the audit was changed" in told(browser.get("/audit"))
    assert OWNER.name not in {row.actor for row in seeded.site.ledger.audit.newest(1)}
