"""Below a prefix every address that a page names is below it, whether the proxy takes it off or not."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from mqi_dagster.operations.people import add_user
from mqi_dagster.people.rights import Role
from mqi_dagster.settings.web import Web
from mqi_dagster.web.application import create_app
from mqi_dagster.web.live import Live
from tests.web.conftest import OWNER, PASSWORD
from tests.worklist.seeded import Seeded

FAILED = "P000000001.fx0001"
HTML = {"accept": "text/html"}


@pytest.fixture
def client(seeded: Seeded) -> Iterator[TestClient]:
    """The pages below ``/mqi``."""
    add_user(seeded.site, OWNER, "boss", list(Role), password=PASSWORD)
    web = Web(prefix="/mqi", behind_proxy=True, origins=("https://mqi.example.org",))
    seeded.site.settings = seeded.site.settings.model_copy(update={"web": web})
    app = create_app(seeded.site, Live(seeded.site, 0.1))
    with TestClient(app, base_url="https://mqi.example.org", follow_redirects=False) as made:
        yield made


def test_every_address_is_below_it(client: TestClient) -> None:
    for path in ("/mqi/", "/", "/board"):
        answer = client.get(path, headers=HTML)
        assert answer.status_code == 303 and answer.headers["location"].startswith("/mqi/login?next=/")
        assert "mqi" not in answer.headers["location"].partition("next=")[2]
    form = {"name": "boss", "password": PASSWORD, "next": "/board"}
    assert client.post("/mqi/login", data=form).headers["location"] == "/mqi/board"
    csrf = ""
    case = f"/case/{FAILED}"
    taken_off = {**HTML, "cookie": f"__Secure-mqi={client.cookies['__Secure-mqi']}"}
    for path in ("/", "/board", case, f"{case}/review", "/account", "/people", "/audit", "/x"):
        below = client.get(f"/mqi{path}", headers=HTML)
        named = re.findall(r'(?:href|src|action|data-stream)="(/[^"]*)"', below.text)
        assert len(named) >= 5 and [one for one in named if not one.startswith("/mqi/")] == [], path
        # A proxy may have taken it off.
        assert client.get(path, headers=taken_off).status_code == below.status_code
        csrf = (re.findall(r'name="csrf" value="([^"]+)"', below.text) or [csrf])[0]
    for page, goes in (("/account/language", "/mqi/account"), ("/logout", "/mqi/login")):
        answer = client.post(f"/mqi{page}", data={"csrf": csrf, "language": "ko"})
        assert (answer.status_code, answer.headers["location"]) == (303, goes)
    assert "Path=/mqi" in answer.headers["set-cookie"]
