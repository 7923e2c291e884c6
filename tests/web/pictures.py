"""Makes the pictures of the pages in docs/images.

    make demo-course
    python -m tests.web.pictures site-demo-course/results

All but that of a course are of `shown_site`, whose concluded case the embedded engine simulates.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page

from mqi_dagster.operations.instance import open_instance
from mqi_dagster.operations.people import add_user, make_link
from mqi_dagster.people.rights import Role
from mqi_dagster.resources.site import Site
from mqi_dagster.web.application import create_app
from tests.pages.browser import opened_page
from tests.pages.screenshots import save
from tests.pages.served import listening
from tests.web.conftest import OWNER, PASSWORD
from tests.web.shown_site import Rows, beat_of_daemon, beating, shown_site

WIDTH = 1280
ENGINE = {"histories": 200000, "uncertainty_maximum_percent": 80.0}


def shot(page: Page, name: str, height: int) -> None:
    """Take what a window of this height shows, once it is brought up to date and its pictures are there."""
    page.set_viewport_size({"width": WIDTH, "height": height})
    page.evaluate("for (const one of document.images) one.loading = 'eager'")
    page.evaluate("Promise.all([...document.images].map((one) => one.decode()))")
    save(page.screenshot(), f"pages-{name}.png")


def sign_in(page: Page, site: Site, address: str, name: str) -> None:
    """By a link."""
    page.context.clear_cookies()
    page.goto(f"{address}/login/link?code={make_link(site, OWNER, name)}")
    page.get_by_role("button", name="Sign in").click()
    page.locator("#list").wait_for()


def pictures(page: Page) -> None:
    """All but that of a course."""
    with tempfile.TemporaryDirectory() as folder, shown_site(Path(folder) / "site", ENGINE) as shown:
        site = shown.chain.site
        with listening(create_app(site, shown.live), "on") as port:
            address = f"http://127.0.0.1:{port}"
            page.goto(f"{address}/login")
            shot(page, "sign-in", 480)
            sign_in(page, site, address, "ada")
            page.locator(f"[id='row-{shown.done}']").get_by_text("Water 1").wait_for()
            shot(page, "worklist", 1100)
            page.goto(f"{address}/board")
            page.locator("polyline").first.wait_for()
            shot(page, "board", 1220)
            page.goto(f"{address}/case/{shown.done}")
            shot(page, "case", 1500)
            sign_in(page, site, address, "boss")
            page.goto(f"{address}/audit")
            shot(page, "audit", 800)


def of_a_course(page: Page, folder: Path) -> None:
    """The page of the first course of a demonstration, as somebody sees it who may see no identity."""
    site = Site(folder / "mqi.yaml")
    if site.ledger.accounts.get("ed") is None:
        add_user(site, OWNER, "ed", [Role.ENGINEER], full_name="Ed Choi", password=PASSWORD)
    with open_instance(site.settings) as instance:
        rows = Rows(site, instance)
        with rows.served(), beating(lambda: beat_of_daemon(rows)), listening(create_app(site), "on") as port:
            address = f"http://127.0.0.1:{port}"
            sign_in(page, site, address, "ed")
            page.locator("a.key").first.click()
            page.locator("#verdict img").first.wait_for()
            shot(page, "course", 1180)


if __name__ == "__main__":
    with opened_page(WIDTH, 900) as window:
        of_a_course(window, Path(sys.argv[1]).resolve())
        pictures(window)
