"""Every page in a browser, light and dark, wide and narrow: whole, used by keyboard, faultless for axe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from starlette.testclient import TestClient

from mqi_dagster.operations.people import make_link
from mqi_dagster.web.application import create_app
from tests.pages.browser import TIMEOUT_MS, opened_page
from tests.pages.served import listening
from tests.web.conftest import OWNER, PASSWORD
from tests.web.shown_site import HOST, Shown, shown_site
from tests.web.test_routes import registered

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
WIDTHS = (1280, 390)
VIEWS = {
    "/login": [("", "/login")],
    "/login/link": [("", "/login/link?code={code}")],
    "/": [
        ("ada", "/"),
        ("vera", "/"),
        ("ada", "/?q=nothing+fits"),
        ("ada", "/?state=concluded"),
    ],
    "/board": [("ada", "/board"), ("vera", "/board")],
    "/case/{key}": [
        *(("ada", "/case/{done}?done=accepted"), ("ada", "/case/{failed}"), ("ada", "/case/{working}")),
        *(("vera", "/case/{refused}"), ("ada", "/case/nobody.knows")),
    ],
    "/case/{key}/files": [("ada", "/case/{done}/files"), ("vera", "/case/{done}/files")],
    "/case/{key}/review": [("ada", "/case/{done}/review"), ("ben", "/case/{failed}/review")],
    "/course/{key}": [("ada", "/course/{course}"), ("vera", "/course/{course}")],
    "/course/{key}/files": [("ada", "/course/{course}/files")],
    "/course/{key}/review": [("ada", "/course/{course}/review")],
    "/gpu/{host}/{slot}": [("ada", f"/gpu/{HOST}/GPU-1"), ("ada", f"/gpu/{HOST}/GPU-2")],
    "/account": [("ada", "/account"), ("boss", "/account")],
    "/people": [("boss", "/people"), ("vera", "/people")],
    "/people/{name}": [("boss", "/people/ada"), ("boss", "/people/nobody")],
    "/audit": [("boss", "/audit"), ("boss", "/audit?actor=nobody")],
}
"""Who sees what, by route: also where nothing fits, and what is refused or not there."""
NO_PAGES = {
    *("/healthz", "/readyz", "/metrics", "/gate/dagster", "/audit/export"),
    *("/login/oidc", "/login/oidc/callback", "/login/proxy"),
    # A file of its own, which tests/imaging and tests/radiotherapy look at.
    *("/course/{key}/report", "/course/{key}/table/{asset}/{name}"),
}
"""What answers with something else than a page."""

CUT = """() => [...document.querySelectorAll("body *")].filter((one) => {
  const style = getComputedStyle(one);
  return one.checkVisibility() && ["hidden", "clip"].includes(style.overflowX) && style.clipPath === "none"
    && one.scrollWidth > one.clientWidth + 1 && !one.title;
}).map((one) => one.outerHTML.slice(0, 120))"""
WORDLESS = """() => [...document.querySelectorAll(".state, .count, progress, meter, svg, img")]
  .filter((one) => one.checkVisibility() && !one.ariaHidden)
  .filter((one) => !(one.ariaLabel || one.alt || one.textContent).trim())
  .map((one) => one.outerHTML.slice(0, 120))"""
OPERABLE = """() => {
  const every = [...document.querySelectorAll("a[href], button, input, select, textarea, summary")];
  window.stop = (one) => one.type === "radio" ? document.querySelector(`[name="${one.name}"]`) : one;
  window.operable = every.filter((one) => one.checkVisibility() && !one.disabled && stop(one) === one);
  window.reached = new Set();
  window.unseen = [];
  window.scrollTo(0, 0);
  document.activeElement.blur();
  return window.operable.length;
}"""
REACHED = """() => {
  const one = document.activeElement, style = getComputedStyle(one);
  if (one === document.body) return window.operable.length;
  window.reached.add(stop(one));
  const width = parseFloat(style.outlineWidth);
  if (style.outlineStyle === "none" || width < 1) window.unseen.push(one.outerHTML.slice(0, 120));
  return window.operable.filter((each) => !window.reached.has(each)).length;
}"""
LEFT = """() => window.operable.filter((one) => !window.reached.has(one))
  .map((one) => one.outerHTML.slice(0, 120))"""


@dataclass
class People:
    """A window for each of some people."""

    shown: Shown
    address: str
    first: Page
    windows: dict[str, Page] = field(default_factory=dict)

    def see(self, who: str, path: str) -> Page:
        """Somebody opens a page."""
        window = self.windows.get(who)
        if window is None:
            browser = self.first.context.browser
            assert browser is not None
            window = self.windows[who] = browser.new_page()
            window.set_default_timeout(TIMEOUT_MS)
            if who:
                window.goto(f"{self.address}/login")
                window.get_by_label("Name").fill(who)
                window.get_by_label("Password").fill(PASSWORD)
                window.get_by_role("button", name="Sign in").click()
                expect(window.get_by_role("heading", name="Worklist")).to_be_visible()
        code = make_link(self.shown.chain.site, OWNER, "vera") if "{code}" in path else ""
        window.goto(self.address + path.format(code=code, **vars(self.shown)))
        return window


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    """Who looks at the site."""
    expect.set_options(timeout=TIMEOUT_MS)
    with (
        shown_site(tmp_path_factory.mktemp("shown") / "site") as shown,
        listening(create_app(shown.chain.site, shown.live), "on") as port,
        opened_page() as first,
    ):
        yield People(shown, f"http://127.0.0.1:{port}", first)


def test_every_page_of_the_application_is_looked_at(client: TestClient) -> None:
    gets = {route.removeprefix("GET ") for route, _ in registered(client.app) if route.startswith("GET ")}
    parts = {one for one in gets if one.startswith(("/api/", "/stream/")) or one.endswith((".png", ".txt"))}
    assert set(VIEWS) == gets - parts - NO_PAGES


@pytest.fixture(
    params=[pytest.param(one, id=f"{one[0]} {one[1]}") for views in VIEWS.values() for one in views]
)
def seen(request: pytest.FixtureRequest, people: People) -> Callable[[], Page]:
    """Opens one of the pages, with all that can be unfolded unfolded."""

    def see() -> Page:
        page = people.see(*request.param)
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        return page

    return see


def test_a_page_is_whole_and_has_no_fault_light_and_dark_wide_and_narrow(seen: Callable[[], Page]) -> None:
    page = seen()
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            found = [
                (one["impact"], one["id"], one["nodes"][0]["html"][:200])
                for one in Axe().run(page).response["violations"]
                if one["impact"] in ("serious", "critical")
            ]
            assert found == [], (width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CUT) == []
        assert page.evaluate(WORDLESS) == []


def test_a_korean_page_is_as_whole(seen: Callable[[], Page]) -> None:
    page = seen()
    page.set_extra_http_headers({"accept-language": "ko"})
    try:
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            page.reload()
            assert page.evaluate("document.documentElement.lang") == "ko"
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(CUT) == []
    finally:
        page.set_extra_http_headers({})


def test_everything_that_can_be_operated_is_reached_by_the_keyboard_and_seen_when_it_is(
    seen: Callable[[], Page],
) -> None:
    page = seen()
    page.set_viewport_size({"width": 1280, "height": 900})
    count = page.evaluate(OPERABLE)
    # A date has several stops.
    for _ in range(4 * count + 8):
        page.keyboard.press("Tab")
        if page.evaluate(REACHED) == 0:
            break
    assert page.evaluate(LEFT) == []
    assert page.evaluate("window.unseen") == []


def test_the_worklist_is_used_without_a_mouse(people: People) -> None:
    page = people.see("ada", "/")
    keys = page.locator("table.keys a.key")
    page.keyboard.press("j")
    expect(keys.nth(0)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(keys.nth(1)).to_be_focused()
    page.keyboard.press("k")
    expect(keys.nth(0)).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("/")
    expect(page.get_by_label("Search")).to_be_focused()
    page.keyboard.type("no such beam")
    page.keyboard.press("Enter")
    expect(page.locator("#empty")).to_be_visible()
    page = people.see("ada", "/")
    page.keyboard.press("j")
    first = str(keys.nth(0).text_content())
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text(first)


def test_what_is_folded_opens_by_the_keyboard_and_a_button_acts(people: People) -> None:
    page = people.see("ada", "/case/{working}")
    fold = page.locator("#priority")
    fold.locator("summary").focus()
    page.keyboard.press("Space")
    number = fold.get_by_label("Priority")
    expect(number).to_be_visible()
    page.keyboard.press("Tab")
    expect(number).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("7")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator("#done")).to_be_visible()
    assert (
        people.shown.chain.site.ledger.arrivals.priorities([people.shown.working])[people.shown.working] == 7
    )


def test_slices_follow_the_keyboard(people: People) -> None:
    page = people.see("ben", "/case/{done}")
    axial = page.locator("#slices-2 figure").first
    slider = axial.locator("input")
    before = int(slider.input_value())
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(slider).to_have_value(str(before - 1))
    expect(slider).to_have_attribute("aria-valuetext", f"{axial.locator('output').text_content()} mm")
