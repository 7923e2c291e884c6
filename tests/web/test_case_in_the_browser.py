"""The page of a case in a real browser: it brings itself up to date, and its slices follow the keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from mqi_dagster.operations.people import add_user
from mqi_dagster.people.rights import Role
from mqi_dagster.web.application import create_app
from tests.chain.chain import ONE_BEAM, Chain, faulty_engine
from tests.pages.browser import TIMEOUT_MS, opened_page
from tests.pages.served import listening
from tests.web.conftest import OWNER, PASSWORD
from tests.web.real_sites import chain_on_disk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def failed(tmp_path: Path, empty_instance: Path) -> Iterator[tuple[Chain, str, Page]]:
    """A site with a case whose engine has crashed, and the page of that case."""
    expect.set_options(timeout=TIMEOUT_MS)
    mode = tmp_path / "mode"
    mode.write_text("crash-text")
    site = tmp_path / "site"
    site.mkdir()
    with chain_on_disk(site, empty_instance, {"engine": faulty_engine(mode)}) as chain:
        chain.deliver(plan=ONE_BEAM)
        chain.tick("case_arrivals")
        chain.tick("beams_to_simulate")
        (case,) = chain.runs_of("intake")
        add_user(chain.site, OWNER, "anna", [Role.PHYSICIST], password=PASSWORD)
        with listening(create_app(chain.site), "on") as port, opened_page() as page:
            page.goto(f"http://127.0.0.1:{port}/case/{case}")
            page.fill("[name=name]", "anna")
            page.fill("[name=password]", PASSWORD)
            page.click("button.primary")
            yield chain, case, page


def test_a_beam_that_succeeds_later_shows_its_dose_without_reloading(
    failed: tuple[Chain, str, Page], tmp_path: Path
) -> None:
    chain, case, page = failed
    expect(page.locator("#beam-2")).to_contain_text("std::bad_alloc")
    page.evaluate("document.body.dataset.mark = 'not reloaded'")
    page.locator("#beam-2 > summary").click()
    (tmp_path / "mode").write_text("good")
    chain.run("beam", f"{case}__b02")
    expect(page.locator("#row-2")).to_contain_text("complete")
    expect(page.locator("#slices-2")).to_be_attached()
    assert page.evaluate("document.body.dataset.mark") == "not reloaded"
    assert page.locator("#beam-2").get_attribute("open") is None, "what a person has closed stays closed"

    page.locator("#beam-2 > summary").click()
    axial = page.locator("#slices-2 figure").first
    slider, image = axial.locator("input"), axial.locator("img")
    before = int(slider.input_value())
    first, step = (float(axial.get_attribute(f"data-{name}") or "") for name in ("first", "step"))
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(image).to_have_attribute("src", re.compile(f"plane=axial&at={before + 1}&"))
    expect(axial.locator("output")).to_have_text(f"{first + (before + 1) * step:.1f}")
    page.locator("#slices-2 select[name=window]").select_option("bone")
    for one in page.locator("#slices-2 img").all():
        expect(one).to_have_attribute("src", re.compile("window=bone"))
        assert one.evaluate("one => one.decode().then(() => one.naturalWidth > 100)")
