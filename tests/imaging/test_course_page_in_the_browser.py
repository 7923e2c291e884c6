"""The page of a course in a browser: it draws, answers the keyboard and the mouse, and asks for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page

from mqi_dagster.imaging.course_page import page_html
from tests.imaging.test_course_page import page as course
from tests.pages.browser import CHROMIUM, opened_page

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def chromium() -> None:
    if not Path(CHROMIUM).exists():
        pytest.fail("chromium is missing; tests/system-packages installs it")


def pixel(page: Page, view: int, across: float, down: float) -> list[int]:
    """Red, green and blue of a view at a share of its width and height."""
    return page.evaluate(  # type: ignore[no-any-return]
        """([view, x, y]) => {
          const one = document.querySelector(`canvas[data-view="${view}"]`);
          return [...one.getContext("2d").getImageData(one.width * x, one.height * y, 1, 1).data].slice(0, 3);
        }""",
        [view, across, down],
    )


def drawn(page: Page, cross: str) -> None:
    page.wait_for_function("(cross) => document.getElementById('look').dataset.drawn === cross", arg=cross)


def test_it_draws_and_answers_keys_and_mouse(tmp_path: Path) -> None:
    file = tmp_path / "course.html"
    file.write_text(page_html(course()), encoding="utf-8")
    told: list[str] = []
    asked: list[str] = []
    with opened_page() as page:
        page.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("dialog", lambda dialog: told.append("a dialog"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        drawn(page, "2,7,8")
        # Soft tissue in the structure is half grey at 40 HU; air is black.
        assert pixel(page, 0, 0.36, 0.31) == pytest.approx([127, 127, 127], abs=6)
        assert pixel(page, 0, 0.1, 0.9) == [0, 0, 0]
        # The outline of the second structure lies on that of the first.
        edge = [pixel(page, 0, 0.6, y / 100)[1] for y in range(26, 49)]
        assert max(edge) > 200
        page.keyboard.press("s")
        page.keyboard.press("d")
        page.keyboard.press("w")
        page.keyboard.press("ArrowDown")
        drawn(page, "3,7,8")
        red, _, blue = pixel(page, 0, 0.67, 0.4)
        assert red > blue > -1 and red > 60
        assert not page.is_checked("#dose") and page.is_checked("#wash")
        assert (
            page.evaluate("[...document.querySelectorAll('[data-structure]')].some((one) => one.checked)")
            is False
        )
        page.keyboard.press("4")
        assert page.input_value("#window") == "0,80"
        page.keyboard.press("PageDown")
        drawn(page, "5,7,8")
        box = page.locator('canvas[data-view="1"]').bounding_box()
        assert box is not None
        # Heads are up: the top of the coronal view is the last image.
        page.mouse.click(box["x"] + box["width"] * 0.01, box["y"] + box["height"] * 0.99)
        drawn(page, "0,7,0")
        assert page.locator("canvas#dvh").is_visible()
    assert told == []
    assert asked == [file.as_uri()]


def edge(page: Page, across: int, colour: int) -> str:
    """Along a line between two columns of the axial view, row by row: # where a colour leads."""
    return page.evaluate(  # type: ignore[no-any-return]
        """([x, colour]) => {
          const one = document.querySelector('canvas[data-view="0"]'), pixels = one.getContext("2d");
          const leads = (row) => {
            const [r, g, b] = pixels.getImageData(2 * x, 2 * row + 1, 1, 1).data, rest = [r, g, b];
            const [value] = rest.splice(colour, 1);
            return value > Math.max(...rest) + 40;
          };
          return Array.from({length: 20}, (_, row) => leads(row) ? "#" : ".").join("");
        }""",
        [across, colour],
    )


def test_isodoses_are_dashed_and_structures_are_not(tmp_path: Path) -> None:
    file = tmp_path / "course.html"
    file.write_text(page_html(course()), encoding="utf-8")
    with opened_page() as page:
        page.goto(file.as_uri())
        drawn(page, "2,7,8")
        page.keyboard.press("s")
        page.keyboard.press("ArrowDown")
        drawn(page, "3,7,8")
        # The edge of the dose lies in the rows 5 to 14, that of the structure in the rows 5 to 9; of the
        # former edges along the rows are seen, too.
        assert edge(page, 10, colour=2) == "....#...####..#....."
        page.keyboard.press("s")
        page.keyboard.press("d")
        page.keyboard.press("ArrowUp")
        drawn(page, "2,7,8")
        assert edge(page, 12, colour=1) == ".....#####.........."
        swatch = page.locator("label i.dashes")
        assert swatch.evaluate("one => getComputedStyle(one).borderTopStyle") == "dashed"
        assert page.get_by_label("isodoses, dashed").count() == 1
