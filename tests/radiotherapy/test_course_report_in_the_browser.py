"""The page that the report of a course publishes, in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.imaging.test_course_page_in_the_browser import drawn, pixel
from tests.pages.browser import CHROMIUM, opened_page
from tests.radiotherapy.reported_courses import ReportedCourses, made, whole

pytestmark = pytest.mark.slow
FIRST = made(1)


@pytest.fixture(autouse=True)
def chromium() -> None:
    if not Path(CHROMIUM).exists():
        pytest.fail("chromium is missing; tests/system-packages installs it")


@contextmanager
def opened(file: Path) -> Iterator[Page]:
    """A page that tells of no error and asks for nothing."""
    told: list[str] = []
    asked: list[str] = []
    with opened_page() as page:
        page.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        yield page
    assert told == []
    assert asked == [file.as_uri()]


def reported(folder: Path, objects: list[bytes], *, stages: bool) -> Path:
    """The page of a course."""
    courses = ReportedCourses(folder)
    courses.add(FIRST, objects)
    key = courses.scan()[FIRST.patient_id]
    assert courses.run("course_inventory", key)
    if stages:
        courses.stages(FIRST, key)
    assert courses.run("course_report", key)
    return courses.result("course_report", key).path("course.html")


def coloured(page: Page, canvas: str, colour: list[int]) -> int:
    """How many pixels of a canvas have a colour, smoothed as lines are."""
    return page.evaluate(  # type: ignore[no-any-return]
        """([selector, colour]) => {
          const one = document.querySelector(selector);
          const pixels = one.getContext("2d").getImageData(0, 0, one.width, one.height).data;
          let count = 0;
          for (let k = 0; k < pixels.length; k += 4)
            if (colour.every((value, part) => Math.abs(value - pixels[k + part]) < 70)) count++;
          return count;
        }""",
        [canvas, colour],
    )


def test_structures_dose_and_curves_are_drawn_and_can_be_hidden(tmp_path: Path) -> None:
    target = [0xFF, 0x5C, 0xC8]
    axial = 'canvas[data-view="0"]'
    with opened(reported(tmp_path, whole(FIRST), stages=True)) as page:
        drawn(page, "2,14,19")
        # Without isodoses and the cross nothing but the outline has its colour.
        page.keyboard.press("d")
        page.keyboard.press("ArrowUp")
        drawn(page, "1,14,19")
        assert coloured(page, axial, target) == 0
        page.keyboard.press("ArrowDown")
        drawn(page, "2,14,19")
        assert coloured(page, axial, target) > 50
        curve = coloured(page, "#dvh", target)
        assert curve > 300
        page.locator('[data-structure="0"]').uncheck()
        page.keyboard.press("ArrowDown")
        drawn(page, "3,14,19")
        assert coloured(page, axial, target) == 0
        assert coloured(page, "#dvh", target) == 0
        page.locator('[data-structure="0"]').check()
        assert coloured(page, "#dvh", target) == curve
        # Soft tissue is grey in its window, and black in that of bone's lower end.
        water = pixel(page, 0, 0.2, 0.8)
        assert water == pytest.approx([102, 102, 102], abs=6)
        text = page.locator(".views .right").first.text_content()
        assert text is not None and "HU, about 60.0 Gy" in text
        assert page.locator("h1").text_content() == page.title()


def test_a_page_without_images_opens(tmp_path: Path) -> None:
    with opened(reported(tmp_path, [FIRST.structures(), FIRST.plan(), FIRST.dose()], stages=True)) as page:
        assert page.locator(".notes li").first.is_visible()
        assert page.locator("canvas[data-view]").count() == 0
        assert coloured(page, "#dvh", [0x9A, 0xA4, 0xAF]) > 300
