"""What the pages take from a browser, and from whom."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import re
import socket
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import pytest
from pydantic import ValidationError

from mqi_dagster.operations.page_guard import PageGuard
from mqi_dagster.operations.service_locks import Service
from mqi_dagster.operations.services import command_of
from mqi_dagster.settings import Settings
from tests.pages.served import MUTATION, left_behind, served

PROXY = "https://mqi.example.org"
JSON = {"Content-Type": "application/json"}
OWN = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
FOREIGN = {**OWN, "Sec-Fetch-Site": "cross-site"}
LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


def answered(
    method: str, path: str, headers: dict[str, str] | list[tuple[str, str]], *, kind: str = "http"
) -> int:
    """Status of the guard's answer; 200 where it has passed the request on."""
    listed = headers.items() if isinstance(headers, dict) else headers
    where, _, query = path.partition("?")
    scope: MutableMapping[str, Any] = {
        "type": kind,
        "path": where,
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in listed],
    }
    if kind == "http":
        scope["method"] = method
    said: list[MutableMapping[str, Any]] = []

    async def pages(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("a refused request is not read")

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message)

    asyncio.run(PageGuard(pages, ["mqi-server"], [PROXY])(scope, receive, send))
    first = said[0]
    if first["type"] == "websocket.close":
        return int(first["code"])
    assert first["status"] != 200 or (b"x-frame-options", b"DENY") in first["headers"]
    return int(first["status"])


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/runs/1", {"Host": "127.0.0.1:3000"}),
        ("GET", "/runs/1", {"Host": "[::1]:3000"}),
        ("GET", "/runs/1", {"Host": "localhost", **LINK}),
        ("GET", "/runs/1", {"Host": "10.1.2.3:3000"}),
        ("GET", "/runs/1", {"Host": "MQI-Server:3000"}),
        ("GET", "/js/main.js", {"Host": "mqi.example.org", **OWN}),
        ("GET", "/graphql", {"Host": "localhost:3000", "Accept": "text/html", "Sec-Fetch-Site": "none"}),
        ("POST", "/graphql", {"Host": "127.0.0.1:3000", **JSON}),
        ("POST", "/graphql", {"Host": "localhost:4000", "Origin": "http://localhost:4000", **JSON, **OWN}),
        ("POST", "/graphql", {"Host": "mqi.example.org", "Origin": PROXY, **JSON, **OWN}),
        ("POST", "/graphql", {"Host": "mqi.example.org:443", "Origin": PROXY, **JSON, **OWN}),
        (
            "POST",
            "/graphql",
            {"Host": "localhost:3000", "Content-Type": "Application/JSON; charset=utf-8"},
        ),
    ],
)
def test_what_the_pages_and_our_commands_send_is_passed_on(
    method: str, path: str, headers: dict[str, str]
) -> None:
    assert answered(method, path, headers) == 200


@pytest.mark.parametrize(
    ("status", "method", "path", "headers"),
    [
        # A name that an attacker has made to point here.
        (403, "GET", "/", {"Host": "evil.example.com:3000"}),
        (403, "GET", "/", {"Host": "localhost.evil.example.com:3000"}),
        (403, "GET", "/", {"Host": "mqi.example.org@evil.example.com"}),
        (403, "GET", "/", {"Host": ""}),
        (400, "GET", "/", {}),
        (400, "GET", "/", [("Host", "localhost:3000"), ("Host", "evil.example.com")]),
        (403, "POST", "/graphql", {"Host": "evil.example.com", "Origin": "http://evil.example.com", **JSON}),
        # Pages of others.
        (403, "POST", "/graphql", {"Host": "localhost:3000", "Origin": "http://evil.example.com", **JSON}),
        (403, "POST", "/graphql", {"Host": "localhost:3000", "Origin": "http://localhost:8080", **JSON}),
        (403, "POST", "/graphql", {"Host": "localhost:3000", "Origin": "null", **JSON}),
        (
            403,
            "POST",
            "/graphql",
            {"Host": "mqi.example.org", "Origin": "https://view.mqi.example.org", **JSON},
        ),
        (403, "POST", "/graphql", {"Host": "mqi.example.org", "Origin": f"{PROXY}:8443", **JSON}),
        (403, "POST", "/graphql", {"Host": "localhost:3000", **FOREIGN, **JSON}),
        (403, "POST", "/graphql", {"Host": "localhost:3000", **OWN, "Sec-Fetch-Site": "same-site", **JSON}),
        (403, "POST", "/graphql", {"Host": "localhost:3000", **LINK, **JSON}),
        (403, "GET", "/logs/a", {"Host": "localhost:3000", **FOREIGN}),
        (403, "GET", "/", {"Host": "localhost:3000", **LINK, "Sec-Fetch-Dest": "iframe"}),
        # What a form can send, and what only looks like JSON.
        (415, "POST", "/graphql", {"Host": "localhost:3000"}),
        (415, "POST", "/graphql", {"Host": "localhost:3000", "Content-Type": "text/plain"}),
        (
            415,
            "POST",
            "/graphql",
            {"Host": "localhost:3000", "Content-Type": "text/plain; a=application/json"},
        ),
        (
            415,
            "POST",
            "/graphql",
            {"Host": "localhost:3000", "Content-Type": "application/x-www-form-urlencoded"},
        ),
        (415, "POST", "/report_asset_materialization/rt_dose", {"Host": "localhost:3000"}),
        (415, "DELETE", "/runs/1", {"Host": "localhost:3000"}),
        (405, "GET", "/graphql?query=mutation", {"Host": "localhost:3000"}),
        (405, "GET", "/graphql/?query=mutation", {"Host": "localhost:3000", "Accept": "text/html"}),
    ],
)
def test_what_anybody_else_sends_is_refused(
    status: int, method: str, path: str, headers: dict[str, str]
) -> None:
    assert answered(method, path, headers) == status


@pytest.mark.parametrize(
    ("passed", "headers"),
    [
        (True, {"Host": "localhost:3000", "Origin": "http://localhost:3000"}),
        (True, {"Host": "mqi.example.org", "Origin": PROXY}),
        (True, {"Host": "127.0.0.1:3000"}),
        (False, {"Host": "localhost:3000", "Origin": "http://evil.example.com"}),
        (False, {"Host": "localhost:3000", "Origin": "null"}),
        (False, {"Host": "evil.example.com", "Origin": "http://evil.example.com"}),
        (False, {"Host": "localhost:3000", **FOREIGN}),
    ],
)
def test_a_websocket_of_another_page_is_refused(passed: bool, headers: dict[str, str]) -> None:
    assert answered("GET", "/graphql", headers, kind="websocket") == (200 if passed else 1008)


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp() as made:
        yield made


@pytest.fixture(scope="module")
def port(instance: dg.DagsterInstance) -> Iterator[int]:
    with served(instance, origins=[PROXY]) as number:
        yield number


def ask(port: int, method: str, path: str, headers: dict[str, str], body: str = "") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body.encode() or None, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def attacks(port: int) -> list[int]:
    """A mutation as GET, as a form, as plain text, and as JSON from a page of another site."""
    asked = f"/graphql?query={quote(MUTATION % 'foreign')}"
    body = json.dumps({"query": MUTATION % "foreign"})
    origin = {"Origin": "http://evil.example.com"}
    return [
        ask(port, "GET", asked, {}),
        ask(port, "POST", asked, {"Content-Type": "application/x-www-form-urlencoded", **origin}),
        ask(port, "POST", "/graphql", {"Content-Type": "text/plain; a=application/json", **origin}, body),
        ask(port, "POST", "/graphql", {**JSON, **origin}, body),
        ask(port, "POST", "/graphql", {**JSON, "Host": f"evil.example.com:{port}"}, body),
    ]


def handshake(port: int, origin: str) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as made:
        key = base64.b64encode(b"0123456789abcdef").decode()
        lines = ["GET /graphql HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket"]
        lines += ["Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
        lines += ["Sec-WebSocket-Protocol: graphql-ws", f"Origin: {origin}", "", ""]
        made.sendall("\r\n".join(lines).encode())
        return int(made.recv(100).split()[1])


def test_no_mutation_of_another_page_reaches_dagster(instance: dg.DagsterInstance, port: int) -> None:
    assert attacks(port) == [405, 403, 403, 403, 403]
    assert left_behind(instance) == set()
    assert handshake(port, "http://evil.example.com") == 403

    own = {**JSON, "Origin": f"http://127.0.0.1:{port}", **OWN}
    assert ask(port, "POST", "/graphql", own, json.dumps({"query": MUTATION % "own"})) == 200
    assert left_behind(instance) == {"own"}
    assert handshake(port, f"http://127.0.0.1:{port}") == 101
    assert ask(port, "GET", "/runs", {}) == 200


def test_without_the_guard_all_of_them_do() -> None:
    with dg.DagsterInstance.local_temp() as bare, served(bare, guarded=False) as number:
        assert attacks(number) == [200, 200, 200, 200, 200]
        assert left_behind(bare) == {"foreign"}
        assert handshake(number, "http://evil.example.com") == 101


def test_below_a_prefix_dagsters_pages_are_whole_and_guarded_alike(instance: dg.DagsterInstance) -> None:
    with served(instance, prefix="/dagster") as number:
        connection = http.client.HTTPConnection("127.0.0.1", number, timeout=60)
        connection.request("GET", "/dagster/runs")
        page = connection.getresponse().read().decode()
        assert 'window.__webpack_public_path__ = "/dagster"' in page
        script = re.search(r'src="(/dagster/[^"]+\.js)"', page)
        assert script and ask(number, "GET", script[1], {}) == 200
        query = json.dumps({"query": "{ version }"})
        assert ask(number, "POST", "/dagster/graphql", {"Content-Type": "application/json"}, query) == 200
        assert ask(number, "POST", "/dagster/graphql", {"Content-Type": "text/plain"}, query) == 415
        assert ask(number, "GET", "/dagster/graphql?query=x", {}) == 405


def test_both_services_of_the_pages_are_behind_the_guard_with_the_origins_of_the_settings() -> None:
    settings = Settings.model_validate(
        {"site": {"timezone": "Asia/Seoul"}, "ui": {"origins": [PROXY, "http://pages.clinic:8080"]}}
    )
    for service in (Service.PAGES, Service.VIEWER):
        command = command_of(service, settings, "127.0.0.1", 3000)
        assert Path(command[0]).is_absolute()
        assert command[1:3] == ["-m", "mqi_dagster.operations.page_server"]
        assert command[command.index("--origin") :][:4] == [
            *("--origin", PROXY),
            *("--origin", "http://pages.clinic:8080"),
        ]
        assert ("--read-only" in command) is (service is Service.VIEWER)
        assert "--path-prefix" not in command
    below = Settings.model_validate({"site": {"timezone": "Asia/Seoul"}, "ui": {"prefix": "/dagster"}})
    command = command_of(Service.PAGES, below, "127.0.0.1", 3000)
    assert command[command.index("--path-prefix") + 1] == "/dagster"


@pytest.mark.parametrize(
    "origin", ["mqi.example.org", "https://mqi.example.org/", "*", "https://*.org", "ftp://a", "https://a\n"]
)
def test_an_origin_that_no_browser_would_send_is_refused_in_the_settings(origin: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"site": {"timezone": "Asia/Seoul"}, "ui": {"origins": [origin]}})
