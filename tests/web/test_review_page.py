"""A result is signed on its page, by whoever may, for exactly what the page has shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from dagster._daemon.types import DaemonHeartbeat
from starlette.testclient import TestClient

from mqi_dagster.ledger.audit import Action
from mqi_dagster.ledger.signatures import Signature
from mqi_dagster.operations.instance import open_instance, write_instance
from mqi_dagster.operations.people import add_user
from mqi_dagster.operations.review import Review, Verdict
from mqi_dagster.people.rights import Actor, Role
from mqi_dagster.web.access import Visitor
from mqi_dagster.web.application import create_app
from tests.chain.chain import ONE_BEAM, Chain
from tests.web.conftest import OWNER, PASSWORD, Browser


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """A site on disk with a concluded case of one beam."""
    made = Chain(tmp_path_factory.mktemp("reviewed") / "site")
    write_instance(made.site.settings)
    with open_instance(made.site.settings) as made.instance:
        made.deliver(plan=ONE_BEAM)
        made.tick_sensors(rounds=2)
        for name, role in (("kim", Role.APPROVER), ("anna", Role.PHYSICIST)):
            add_user(made.site, OWNER, name, [role], full_name=f"Dr. {name}", password=PASSWORD)
        yield made
    made.site.ledger.close()


@pytest.fixture(scope="module")
def application(chain: Chain) -> Iterator[TestClient]:
    with TestClient(
        create_app(chain.site), base_url="http://127.0.0.1:8000", follow_redirects=False
    ) as client:
        yield client


@pytest.fixture
def browser(application: TestClient) -> Browser:
    application.cookies.clear()
    return Browser(application)


def seen(page: str) -> str:
    found = re.search(r'name="seen" value="([0-9a-f]{64})"', page)
    assert found
    return found[1]


def test_a_case_is_accepted_and_one_that_has_changed_since_is_shown_again(
    browser: Browser, chain: Chain
) -> None:
    (case,) = chain.runs_of("conclusion")
    path = f"/case/{case}/review"
    browser.sign_in("kim")
    page = browser.get(path)
    assert chain.digest("rt_dose", f"{case}__b02") in page
    fields = {"verdict": "accepted", "reason": "gamma <b>99</b> %", "seen": seen(page)}
    assert "name or password is wrong" in browser.post(path, 401, **fields, password="wrong")
    browser.post(path, 422, reason="no verdict", seen=seen(page), password=PASSWORD)
    assert "say why" in browser.post(
        path, 409, **{**fields, "verdict": "rejected", "reason": ""}, password=PASSWORD
    )
    changed = browser.post(path, 409, **{**fields, "seen": "0" * 64}, password=PASSWORD)
    assert "have changed since they were shown" in changed and seen(changed) == fields["seen"]
    assert PASSWORD not in changed, "it is typed once more"
    answer = browser.client.post(path, data={"csrf": browser.csrf(), **fields, "password": PASSWORD})
    assert answer.headers["location"] == f"/case/{case}?done=accepted"
    page = browser.get(path)
    assert "by Dr. kim (kim)" in page and "gamma &lt;b&gt;99&lt;/b&gt; %" in page
    beam = f"/case/{case}__b02/review"
    answer = browser.client.post(
        beam,
        data={"csrf": browser.csrf(), **fields, "seen": seen(browser.get(beam)), "password": PASSWORD},
    )
    assert answer.headers["location"] == f"{beam}?done=accepted"
    rows = chain.site.ledger.audit.newest(50, subject=case, actor="kim")
    acts = [row for row in rows if row.action is not Action.IDENTITY_READ]
    assert [(row.action.value, row.outcome.value) for row in acts] == [
        *[("accepted", "done"), ("accepted", "begun")] * 2,
        *[("accepted", "failed"), ("accepted", "begun")],
        *[("rejected", "failed"), ("rejected", "begun")],
        *[("accepted", "failed"), ("accepted", "begun")],
    ]


def test_the_page_of_a_case_says_who_has_signed_it(browser: Browser, chain: Chain) -> None:
    (case,) = chain.runs_of("conclusion")
    browser.sign_in("kim")
    path = f"/case/{case}/review"
    if not chain.site.ledger.signatures.history(case):
        fields = {"verdict": "accepted", "reason": "", "seen": seen(browser.get(path)), "password": PASSWORD}
        browser.post(path, **fields)
    browser.get("/")
    state = browser.client.app.state  # type: ignore[attr-defined]
    (row,) = state.live.seen.work.cases

    def shown(visitor: Actor) -> str:
        return str(state.pages.part("_review.html", Visitor(visitor), partition=case, row=row))

    assert "by Dr. kim (kim)" in shown(OWNER) and "Accept or reject…" in shown(OWNER)
    assert "Accept or reject…" not in shown(replace(OWNER, rights=frozenset()))


def test_a_void_signature_names_what_has_changed(browser: Browser) -> None:
    signed = Signature(
        1, "P", Verdict.ACCEPTED, "", "kim", "Dr. Kim", {"rt_dose of beam 2": "a"}, datetime.now(UTC)
    )
    review = Review("P", {"rt_dose of beam 2": "b"}, "", (signed,))
    page = browser.client.app.state.pages.part("_signature.html", None, review=review)  # type: ignore[attr-defined]
    assert '<span class="state failed">void</span>' in page
    assert "rt_dose of beam 2 is another result than the one that was signed" in page


def test_whoever_may_not_sign_reads_who_has(browser: Browser, chain: Chain) -> None:
    (case,) = chain.runs_of("conclusion")
    browser.sign_in("anna")
    page = browser.get(f"/case/{case}/review")
    assert 'name="password"' not in page and "role approver" in page
    fields = {"verdict": "accepted", "seen": "0" * 64, "password": PASSWORD}
    browser.post(f"/case/{case}/review", 403, **fields)
    browser.get("/case/P000000000.fx0001/review", 404)


def test_a_case_is_taken_in_again_by_a_button(browser: Browser, chain: Chain) -> None:
    (case,) = chain.runs_of("conclusion")
    browser.sign_in("anna")
    beat = DaemonHeartbeat(datetime.now(UTC).timestamp(), "SENSOR", "the daemon", [])
    chain.instance.run_storage.add_daemon_heartbeat(beat)
    browser.post(f"/case/{case}/retake")
    browser.post(f"/case/{case}/retake")
    chain.tick_sensors(rounds=2)
    assert chain.runs_of("intake") == [case, case]
