"""The pages of a seeded site, asked as a browser asks them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from mqi_dagster.operations.instance import open_instance, write_instance
from mqi_dagster.operations.people import add_user
from mqi_dagster.people.rights import Actor, Role
from mqi_dagster.web.application import create_app
from mqi_dagster.web.live import Live
from tests.web.programs import Program, make_program
from tests.worklist.seeded import Seeded

PASSWORD = "correct horse battery"
OWNER = Actor.of_this_account()


@dataclass
class Browser:
    """A browser of somebody who is signed in, or of nobody."""

    client: TestClient

    def sign_in(self, name: str, password: str = PASSWORD) -> None:
        """By the form."""
        answer = self.client.post("/login", data={"name": name, "password": password})
        assert answer.status_code == 303, answer.text

    def get(self, path: str, status: int = 200) -> str:
        """A page."""
        answer = self.client.get(path, headers={"accept": "text/html"})
        assert answer.status_code == status, answer.text
        return answer.text

    def post(self, path: str, status: int = 303, **fields: str) -> str:
        """A form of a page of this session."""
        answer = self.client.post(path, data={"csrf": self.csrf(), **fields}, headers={"accept": "text/html"})
        assert answer.status_code == status, answer.text
        return answer.text

    def csrf(self) -> str:
        """What forms of this session bring."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.get("/"))
        assert found
        return found[1]


@pytest.fixture
def seeded(empty_instance: Path, tmp_path: Path) -> Iterator[Seeded]:
    """A site with one failed case and one that waits, whose services seem to live."""
    home = tmp_path / "site" / "dagster"
    home.parent.mkdir()
    shutil.copytree(empty_instance, home)
    made = Seeded(tmp_path / "site", None)
    made.now = datetime.now(UTC) - timedelta(hours=1)
    write_instance(made.site.settings)
    with open_instance(made.site.settings) as instance:
        made.instance = instance
        made.ledger().database.clock = lambda: datetime.now(UTC)
        with made.served():
            made.arrivals(["P000000001.fx0001"])
            made.partitions("case", ["P000000001.fx0001"])
            failed = made.run("intake", "P000000001.fx0001", "FAILURE")
            made.judged(failed, "P000000001.fx0001", "failed", "delivery 1 is <b>not</b> whole", "delivery")
            made.site.ledger.arrivals.record(
                "place-2", "P000000002.fx0001", "f" * 16, False, "it grows still", None
            )
            made.site.ledger.database.clock = lambda: datetime.now(UTC)
            yield made
    made.site.ledger.close()


@pytest.fixture
def client(seeded: Seeded) -> Iterator[TestClient]:
    """The application, asked without a network; it follows no redirection."""
    with TestClient(
        create_app(seeded.site, Live(seeded.site, 0.1)),
        base_url="http://127.0.0.1:8000",
        follow_redirects=False,
    ) as made:
        yield made


@pytest.fixture
def account(seeded: Seeded) -> Callable[[str, Role], None]:
    """Adds an account with `PASSWORD`."""

    def add(name: str, *roles: Role) -> None:
        add_user(seeded.site, OWNER, name, roles, password=PASSWORD)

    return add


@pytest.fixture
def browser(client: TestClient) -> Browser:
    """A browser."""
    return Browser(client)


@pytest.fixture
def program(client: TestClient, seeded: Seeded) -> Callable[..., Program]:
    """Makes a program of an account with some roles."""
    return partial(make_program, client, seeded)
