"""A page of a running site in Debian's Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
# Without these Chromium asks hosts of its own at every start, and as root it needs --no-sandbox.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
TIMEOUT_MS = 120_000


@contextmanager
def opened_page(width: int = 1400, height: int = 900, resolving: str = "") -> Iterator[Page]:
    """A new page; everything it waits for may take as long as a busy machine needs.

    Args:
        width: Of the window.
        height: Of the window.
        resolving: Rules by which the browser resolves names, as in ``MAP name address``.
    """
    rules = [f"--host-resolver-rules={resolving}"] if resolving else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *rules])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(TIMEOUT_MS)
        yield page
        browser.close()
