"""A failed beam is retried, followed to its end and accepted, and a case is cancelled, all from the pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from starlette.testclient import TestClient

from mqi_dagster.operations.asked import asked_of
from mqi_dagster.operations.people import add_user
from mqi_dagster.people.rights import Role
from mqi_dagster.resources.site import Site
from mqi_dagster.web.application import create_app
from tests.services.stack import HOLD, Stack
from tests.waiting import wait_for
from tests.web.conftest import OWNER, PASSWORD, Browser

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path / "stack")
    with made.running():
        yield made


def test_retried_followed_accepted_and_cancelled(site: Stack) -> None:
    opened = Site(site.settings_file)
    add_user(opened, OWNER, "kim", [Role.APPROVER], full_name="Dr. Kim", password=PASSWORD)
    with TestClient(create_app(opened), base_url="http://127.0.0.1:8000", follow_redirects=False) as client:
        browser = Browser(client)
        browser.sign_in("kim")
        _retry_and_accept(site, opened, browser)
        _cancel(site, browser)


def _retry_and_accept(site: Stack, opened: Site, browser: Browser) -> None:
    site.steer(failing=("2G000:TX",))
    case = site.case_of(site.deliver(seed=71, beams=2))
    beam = f"{case}__b03"
    failed = dg.DagsterRunStatus.FAILURE
    wait_for(
        lambda: any(run.status is failed for run in site.runs("beam")),
        "a beam has failed",
        400,
        report=site.report,
    )
    site.steer()
    browser.post(f"/case/{case}/retry")
    browser.post(f"/case/{case}/retry", 409)
    site.wait_for_conclusion(case)
    assert len(site.runs("beam")) == 3, "each beam once, and the failed one once more"
    (asked,) = asked_of(opened, case)
    first, again = site.runs("beam", **{"dagster/partition": beam})
    assert (first.status, again.parent_run_id) == (failed, first.run_id)
    assert asked.runs == {beam: again.run_id}
    page = browser.get(f"/case/{case}/review")
    seen = re.search(r'name="seen" value="([0-9a-f]{64})"', page)
    assert seen
    browser.post(f"/case/{case}/review", verdict="accepted", seen=seen[1], password=PASSWORD)
    assert "by Dr. Kim (kim)" in browser.get(f"/case/{case}/review")
    rows = opened.ledger.audit.newest(50, subject=case)
    done = [row.action.value for row in rows if row.outcome == "done" and row.action != "identity_read"]
    assert done == ["accepted", "retry"]


def _cancel(site: Stack, browser: Browser) -> None:
    site.steer(seconds=HOLD)
    case = site.case_of(site.deliver(seed=72, beams=2))
    wait_for(lambda: site.engines(), "an engine runs", 400, report=site.report)
    browser.post(f"/case/{case}/cancel")
    wait_for(lambda: site.engines() == {}, "the engine has ended", 200, report=site.report)
    wait_for(lambda: not site.unfinished(), "no run goes on", 200, report=site.report)
