"""A morning in a real browser: a case arrives, a beam fails, is retried, succeeds and is accepted."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.pages.browser import opened_page
from tests.services.stack import MQI, Stack
from tests.web.conftest import PASSWORD

pytestmark = [pytest.mark.slow, pytest.mark.gate, pytest.mark.timeout(1200)]
_PATIENT_MS = 400_000
"""As long as a busy machine needs."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path / "stack")
    with made.running():
        yield made


def mqi(site: Stack, *arguments: str) -> str:
    """What a command on the site's machine prints."""
    command = [str(MQI), *arguments, "--site", str(site.site)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_case_arrives_fails_is_retried_and_accepted(site: Stack, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.touch(mode=0o600)
    secret.write_text(PASSWORD)
    person = ("--full-name", "Dr. Kim", "--password-file", str(secret))
    mqi(site, "user", "add", "kim", "--role", "approver", *person)
    address = f"http://127.0.0.1:{site.services['web_port']}"
    site.steer(seconds=40, failing=("2G000:TX",))
    with opened_page(1280, 900) as page:
        page.set_default_timeout(_PATIENT_MS)
        expect.set_options(timeout=_PATIENT_MS)
        page.goto(address)
        page.get_by_label("Name").fill("kim")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Worklist")).to_be_visible()
        page.evaluate("window.stays = true")
        case = site.case_of(site.deliver(seed=7, beams=2))
        row = page.locator(f"[id='row-{case}']")
        expect(row).to_contain_text("in work")
        bar = row.locator("progress")
        expect(bar).not_to_have_attribute("value", "0")
        before = str(bar.get_attribute("value"))
        expect(bar).not_to_have_attribute("value", before)
        site.steer(seconds=0.3, failing=("2G000:TX",))
        expect(row).to_contain_text("failed")
        assert page.evaluate("window.stays"), "the page was not loaded anew"

        row.get_by_role("link", name=case).click()
        expect(page.locator("#content")).to_contain_text("ended with exit code 3")
        page.evaluate("window.stays = true")
        site.steer()
        page.get_by_role("button", name="Retry what has failed").click()
        expect(page.locator("[role=status]").first).to_be_visible()
        expect(page.locator("#content")).to_contain_text("complete")
        site.wait_for_conclusion(case)

        page.goto(f"{address}/case/{case}/review")
        page.get_by_label("accepted", exact=True).check()
        page.get_by_label("Your password, once more").fill(PASSWORD)
        page.get_by_role("button", name="Sign").last.click()
        page.goto(f"{address}/case/{case}")
        expect(page.locator("#review")).to_contain_text("Dr. Kim")
        assert re.search(r"accepted", page.locator("#review").inner_text())
    rows = [json.loads(line) for line in mqi(site, "audit", "export").splitlines()]
    done = [row["action"] for row in rows if row["actor"] == "kim" and row["outcome"] == "done"]
    assert [one for one in done if one != "identity_read"] == ["signed_in", "retry", "accepted"]
    assert "identity_read" in done
    mqi(site, "audit", "verify")
