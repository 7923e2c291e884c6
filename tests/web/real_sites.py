"""Sites with real results, and their pages as a browser asks for them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from mqi_dagster.operations.instance import open_instance, write_instance
from mqi_dagster.operations.people import add_user
from mqi_dagster.people.rights import Role
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import parse_settings
from mqi_dagster.web.application import create_app
from tests.chain.chain import Chain
from tests.radiotherapy.reported_courses import ReportedCourses
from tests.web.conftest import OWNER, PASSWORD, Browser


@contextmanager
def chain_on_disk(
    folder: Path, empty_instance: Path, settings: dict[str, Any] | None = None
) -> Iterator[Chain]:
    """A chain whose records the pages of the same site can open."""
    shutil.copytree(empty_instance, folder / "dagster")
    site = parse_settings({"site": {"timezone": "Asia/Seoul"}}, folder)
    write_instance(site)
    with open_instance(site) as instance:
        yield Chain(folder, settings, instance=instance)


@contextmanager
def courses_on_disk(folder: Path, empty_instance: Path) -> Iterator[ReportedCourses]:
    """Courses whose records the pages of the same site can open."""
    shutil.copytree(empty_instance, folder / "dagster")
    courses = ReportedCourses(folder)
    write_instance(courses.site.settings)
    with open_instance(courses.site.settings) as instance:
        courses.instance = instance
        yield courses


@contextmanager
def pages_of(site: Site) -> Iterator[TestClient]:
    """The pages of a site, with an account for each of some roles."""
    for name, role in (("anna", Role.PHYSICIST), ("vera", Role.VIEWER), ("ed", Role.ENGINEER)):
        add_user(site, OWNER, name, [role], password=PASSWORD)
    with TestClient(create_app(site), base_url="http://127.0.0.1:8000", follow_redirects=False) as client:
        yield client


def as_(client: TestClient, name: str) -> Browser:
    """The browser, with somebody else signed in."""
    client.cookies.clear()
    browser = Browser(client)
    browser.sign_in(name)
    return browser
