"""Who is let in because somebody else has asked who they are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from joserfc.jwk import OctKey, RSAKey
from starlette.testclient import TestClient

from mqi_dagster.errors import InfrastructureError
from mqi_dagster.ledger.audit import Outcome
from mqi_dagster.operations import single_sign_on
from mqi_dagster.operations.people import change_user
from mqi_dagster.people.rights import Role
from mqi_dagster.settings.web import OpenIdConnect, ProxyLogin, Web
from mqi_dagster.web.application import create_app
from tests.waiting import wait_for
from tests.web.conftest import OWNER, Browser
from tests.web.provider import CLIENT, SECRET, Provider
from tests.worklist.seeded import Seeded

Add = Callable[..., None]
BEGUN_ELSEWHERE = "was begun in another browser, or too long ago"


@contextmanager
def visited(seeded: Seeded, address: str = "testclient", **web: Any) -> Iterator[Browser]:
    """A browser at the pages of the site with other settings of `web`."""
    settings = seeded.site.settings
    seeded.site.settings = settings.model_copy(update={"web": Web(**web)})
    app = create_app(seeded.site)
    with TestClient(
        app, base_url="http://127.0.0.1:8000", follow_redirects=False, client=(address, 50000)
    ) as client:
        yield Browser(client)


@pytest.fixture(scope="module")
def running() -> Iterator[Provider]:
    made = Provider()
    with made.running():
        yield made


@pytest.fixture
def provider(running: Provider) -> Provider:
    """One that tells the truth again."""
    running.login, running.lies, running.signs_with, running.algorithm = "Anna", {}, None, "RS256"
    running.denies, running.in_userinfo = "", False
    running.asked.clear()
    return running


@pytest.fixture
def browser(seeded: Seeded, provider: Provider) -> Iterator[Browser]:
    secret = seeded.site.settings_file.parent / "openid-secret"
    secret.touch(mode=0o600)
    secret.write_text(SECRET)
    openid = OpenIdConnect(
        issuer=provider.issuer, client_id=CLIENT, client_secret_file=secret, name="the clinic"
    )
    with visited(seeded, openid=openid) as made:
        yield made


def at_provider(browser: Browser, target: str = "/") -> str:
    """The address at which the browser comes back from the provider."""
    sent = browser.client.get("/login/oidc", params={"next": target})
    assert sent.status_code == 303, sent.text
    back = httpx.get(sent.headers["location"], trust_env=False)
    assert back.status_code == 307, back.text
    return str(back.headers["location"])


def come_back(browser: Browser, address: str) -> httpx.Response:
    assert address.startswith("http://127.0.0.1:8000/login/oidc/callback?")
    parts = urlsplit(address)
    return browser.client.get(
        f"{parts.path}?{parts.query}", headers={"accept": "text/html", "sec-fetch-site": "cross-site"}
        | {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    )  # fmt: skip


def refusals(seeded: Seeded) -> list[str]:
    """Causes in the audit, the newest first."""
    rows = seeded.site.ledger.audit.newest(10)
    return [row.details for row in rows if row.outcome is Outcome.REFUSED]


def test_the_provider_signs_in_an_account_of_the_same_name_and_leads_where_it_wanted_to(
    browser: Browser, account: Add, seeded: Seeded
) -> None:
    account("anna", Role.VIEWER)
    assert "Sign in by the clinic" in browser.get("/login")
    answer = come_back(browser, at_provider(browser, "/?state=failed"))
    assert (answer.status_code, answer.headers["location"]) == (303, "/?state=failed")
    assert "anna" in browser.get("/")
    row = seeded.site.ledger.audit.newest(1)[0]
    assert (row.actor, row.action, row.details) == (
        "anna",
        "signed_in",
        '{"by": "oidc", "from": "testclient"}',
    )


def test_a_login_that_only_userinfo_tells_is_asked_for(
    browser: Browser, account: Add, provider: Provider
) -> None:
    provider.in_userinfo = True
    account("anna", Role.VIEWER)
    assert come_back(browser, at_provider(browser)).status_code == 303


def test_nobody_gets_an_account_by_signing_in(browser: Browser, seeded: Seeded) -> None:
    answer = come_back(browser, at_provider(browser))
    assert answer.status_code == 401
    assert "anna has no account here: an admin adds one of this name" in answer.text
    assert seeded.site.ledger.accounts.all() == []
    assert "anna has no account here" in refusals(seeded)[0]


def test_a_disabled_account_stays_out(browser: Browser, account: Add, seeded: Seeded) -> None:
    account("anna", Role.VIEWER)
    change_user(seeded.site, OWNER, "anna", disabled=True)
    answer = come_back(browser, at_provider(browser))
    assert answer.status_code == 401
    assert "this account is disabled" in answer.text


LIES: tuple[dict[str, Any], ...] = (
    {"iss": "http://127.0.0.1:1"},
    {"aud": "another program"},
    {"aud": [CLIENT, "another"], "azp": "another"},
    {"nonce": "of another sign-in"},
    {"nonce": None},
    {"exp": int(time.time()) - 3600},
    {"exp": None},
    {"iat": int(time.time()) + 3600},
    {"sub": None},
)


def test_an_id_token_that_is_not_for_this_sign_in_is_refused(
    browser: Browser, account: Add, provider: Provider, seeded: Seeded
) -> None:
    account("anna", Role.VIEWER)
    for lies in LIES:
        provider.lies = lies
        answer = come_back(browser, at_provider(browser))
        assert answer.status_code == 401, lies
        assert "does not prove who you are" in answer.text, lies
        browser.get("/", 303)
    assert ["does not prove" in cause for cause in refusals(seeded)] == [True] * len(LIES)


def test_an_id_token_of_another_key_or_without_a_real_signature_is_refused(
    browser: Browser, account: Add, provider: Provider
) -> None:
    account("anna", Role.VIEWER)
    provider.signs_with = RSAKey.generate_key(2048, {"kid": "first"})
    assert come_back(browser, at_provider(browser)).status_code == 401
    # With the secret that these pages know as well, and with no signature at all.
    provider.signs_with, provider.algorithm = OctKey.import_key(SECRET), "HS256"
    assert come_back(browser, at_provider(browser)).status_code == 401
    provider.signs_with, provider.algorithm = None, "none"
    assert come_back(browser, at_provider(browser)).status_code == 401


def test_a_key_that_the_provider_has_made_since_is_fetched(
    browser: Browser, account: Add, provider: Provider
) -> None:
    account("anna", Role.VIEWER)
    assert come_back(browser, at_provider(browser)).status_code == 303
    provider.key = RSAKey.generate_key(2048, {"kid": "second"})
    assert come_back(browser, at_provider(browser)).status_code == 303
    assert provider.asked == ["keys", "keys"]


def test_an_answer_counts_once_and_only_in_the_browser_that_has_asked(
    browser: Browser, account: Add, seeded: Seeded
) -> None:
    account("anna", Role.VIEWER)
    stolen = at_provider(browser)
    kept = browser.client.cookies.get("mqi-oidc")
    assert kept
    browser.client.cookies.clear()
    assert BEGUN_ELSEWHERE in come_back(browser, stolen).text
    another = at_provider(browser)
    assert another != stolen
    assert BEGUN_ELSEWHERE in come_back(browser, stolen).text
    browser.client.cookies.clear()
    browser.client.cookies.set("mqi-oidc", kept[:-4] + "AAAA")
    assert BEGUN_ELSEWHERE in come_back(browser, stolen).text
    browser.client.cookies.clear()
    browser.client.cookies.set("mqi-oidc", kept)
    assert come_back(browser, stolen).status_code == 303
    browser.client.cookies.clear()
    browser.client.cookies.set("mqi-oidc", kept)
    answer = come_back(browser, stolen)
    assert answer.status_code == 401
    assert "does not accept the sign-in (invalid_grant): begin again" in answer.text


def test_whoever_the_provider_denies_is_told_so(browser: Browser, account: Add, provider: Provider) -> None:
    account("anna", Role.VIEWER)
    provider.denies = "access_denied"
    answer = come_back(browser, at_provider(browser))
    assert answer.status_code == 401
    assert "the clinic has not let you in (access_denied)" in answer.text
    assert 'autocomplete="current-password"' in answer.text, "there is another way"


def test_a_provider_that_is_away_leaves_the_password(
    seeded: Seeded, provider: Provider, account: Add
) -> None:
    account("anna", Role.VIEWER)
    secret = seeded.site.settings_file
    openid = OpenIdConnect(issuer="http://127.0.0.1:9", client_id=CLIENT, client_secret_file=secret)
    with visited(seeded, openid=openid) as browser:
        answer = browser.client.get("/login/oidc")
        assert answer.status_code == 503
        assert "sign in by a password" in answer.text
        browser.sign_in("anna")


def test_a_stranger_who_comes_back_from_nowhere_fills_no_disk(
    browser: Browser, account: Add, seeded: Seeded
) -> None:
    account("anna", Role.VIEWER)
    began = seeded.site.ledger.database.clock()
    seeded.site.ledger.database.clock = lambda: began
    before = seeded.site.ledger.audit.newest(1)[0].number
    for _ in range(40):
        assert browser.client.get("/login/oidc/callback?state=x&code=y").status_code == 401
    assert seeded.site.ledger.audit.newest(1)[0].number == before + 30
    # Whoever the provider vouches for gets in all the same.
    assert come_back(browser, at_provider(browser)).status_code == 303


def test_a_provider_that_hangs_takes_few_threads_and_is_not_asked_again_at_once(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, asked = threading.Event(), list[str]()
    go_on = threading.Event()

    def hang(address: str, **options: object) -> httpx.Response:
        asked.append(address)
        entered.set()
        assert go_on.wait(60)
        raise httpx.ReadTimeout("it hangs")

    monkeypatch.setattr(single_sign_on.httpx, "get", hang)
    with ThreadPoolExecutor(12) as pool:
        begun = [pool.submit(browser.client.get, "/login/oidc") for _ in range(12)]
        wait_for(lambda: sum(one.done() for one in begun) == 4, "those that do not wait")
        go_on.set()
        statuses = sorted(one.result().status_code for one in begun)
    assert statuses == [429] * 4 + [503] * 8
    assert len(asked) == 1
    assert browser.client.get("/login/oidc").status_code == 503
    assert len(asked) == 1
    browser.get("/login")


@pytest.mark.parametrize(
    "name", ["authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"]
)
def test_a_provider_behind_tls_sends_nobody_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    issuer = "https://sso.example.org"
    found = {one: f"{issuer}/{one}" for one in ("authorization_endpoint", "token_endpoint", "jwks_uri")}
    found |= {"issuer": issuer, name: "http://sso.example.org/x"}
    monkeypatch.setattr(single_sign_on, "_json", lambda address: found)
    openid = OpenIdConnect(issuer=issuer, client_id=CLIENT, client_secret_file=tmp_path / "x")
    with pytest.raises(InfrastructureError, match="do not begin with https://"):
        single_sign_on.OpenIdSignIn(openid).begin("https://mqi.example.org/login/oidc/callback", "/")


def test_a_mail_address_that_the_provider_has_not_verified_is_no_login(
    seeded: Seeded, provider: Provider, account: Add
) -> None:
    account("anna@example.org", Role.VIEWER)
    secret = seeded.site.settings_file.parent / "openid-secret"
    secret.touch(mode=0o600)
    secret.write_text(SECRET)
    openid = OpenIdConnect(issuer=provider.issuer, client_id=CLIENT, client_secret_file=secret, claim="email")
    with visited(seeded, openid=openid) as browser:
        for verified, status in ((True, 303), ("true", 303), (None, 401), (False, 401), ("false", 401)):
            provider.lies = {"email": "Anna@example.org", "email_verified": verified}
            assert come_back(browser, at_provider(browser)).status_code == status, verified


def test_a_provider_in_clear_is_on_this_machine() -> None:
    with pytest.raises(ValueError, match="begins with https://"):
        OpenIdConnect(issuer="http://sso.example.org", client_id="a", client_secret_file="b")


PROXY = ProxyLogin(header="X-Remote-User", addresses=("10.1.2.0/24",))


SAID: tuple[tuple[str, list[tuple[str, str]], str], ...] = (
    ("10.1.3.3", [("X-Remote-User", "anna")], "does not come from the proxy"),
    ("no address", [("X-Remote-User", "anna")], "does not come from the proxy"),
    ("10.1.3.3", [("X-Remote-User", "anna"), ("X-Forwarded-For", "10.1.2.3")], "does not come from"),
    ("10.1.2.3", [], "the proxy does not say who you are: it sends no X-Remote-User"),
    ("10.1.2.3", [("X-Remote-User", "")], "the proxy does not say who you are"),
    ("10.1.2.3", [("X-Remote-User", "anna"), ("X-Remote-User", "eve")], "does not say who you are"),
    ("10.1.2.3", [("X-Remote-User", "eve")], "eve has no account here"),
)


def test_the_header_of_a_proxy_counts_from_the_proxy_alone(seeded: Seeded, account: Add) -> None:
    account("anna", Role.VIEWER)
    for number, (address, headers, said) in enumerate(SAID, start=1):
        with visited(seeded, address, proxy_login=PROXY) as browser:
            answer = browser.client.get("/login/proxy", headers=headers)
            assert answer.status_code == 401, headers
            assert said in answer.text
            assert len(refusals(seeded)) == number
            browser.get("/", 303)
    with visited(seeded, "10.1.2.3", proxy_login=PROXY) as browser:
        assert "Sign in with the account of this network" in browser.get("/login")
        assert browser.client.get("/login/proxy", headers={"X-Remote-User": "Anna"}).status_code == 303
        browser.get("/")


def test_the_header_of_a_proxy_counts_on_no_other_page_and_not_where_none_is_named(
    seeded: Seeded, account: Add
) -> None:
    account("anna", Role.VIEWER)
    with visited(seeded, "10.1.2.3", proxy_login=PROXY) as browser:
        assert browser.client.get("/", headers={"X-Remote-User": "anna"}).status_code == 401
    with visited(seeded, "10.1.2.3") as browser:
        assert browser.client.get("/login/proxy", headers={"X-Remote-User": "anna"}).status_code == 404
        assert browser.client.get("/login/oidc").status_code == 404
