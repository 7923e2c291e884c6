"""Every route that the application registers, and who may use it: one that stands in no table fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount
from starlette.testclient import TestClient

from mqi_dagster.people.rights import Right, Role
from mqi_dagster.web.access import public
from tests.web.programs import Program

PUBLIC, SIGNED_IN, HERE = "everybody", "whoever is signed in", "this machine, or look"
ROUTES = {
    "GET /healthz": PUBLIC,
    "GET /readyz": HERE,
    "GET /metrics": HERE,
    "GET /login": PUBLIC,
    "POST /login": PUBLIC,
    "GET /login/link": PUBLIC,
    "POST /logout": SIGNED_IN,
    "POST /login/link": PUBLIC,
    "GET /login/oidc": PUBLIC,
    "GET /login/oidc/callback": PUBLIC,
    "GET /login/proxy": PUBLIC,
    "GET /account": SIGNED_IN,
    "POST /account/language": SIGNED_IN,
    "POST /account/password": SIGNED_IN,
    "POST /account/sessions": SIGNED_IN,
    "POST /account/tokens": SIGNED_IN,
    "POST /account/tokens/{token}/revoke": SIGNED_IN,
    "GET /people": "people",
    "POST /people": "people",
    "GET /people/{name}": "people",
    "POST /people/{name}": "people",
    "POST /people/{name}/{what}": "people",
    "POST /people/{name}/tokens/{token}/revoke": "people",
    "GET /audit": "audit",
    "GET /audit/export": "audit",
    "POST /audit/verify": "audit",
    "GET /gate/dagster": "look",
    "POST /patients": "identity",
    "GET /board": "look",
    "GET /stream/board": "look",
    "GET /": "look",
    "GET /stream/worklist": "look",
    "GET /case/{key}": "look",
    "GET /stream/case/{key}": "look",
    "GET /case/{key}/files": "places",
    "GET /case/{key}/beam/{number}/picture/{name}.png": "look",
    "GET /case/{key}/beam/{number}/slice.png": "look",
    "GET /case/{key}/beam/{number}/log.txt": "look",
    "GET /course/{key}": "look",
    "GET /stream/course/{key}": "look",
    "GET /course/{key}/files": "places",
    "GET /course/{key}/report": "look",
    "GET /course/{key}/picture/{name}.png": "look",
    "GET /course/{key}/table/{asset}/{name}": "identity",
    "GET /course/{key}/log/{number}.txt": "look",
    "GET /image-set/{key}": "look",
    "GET /stream/image-set/{key}": "look",
    "GET /image-set/{key}/files": "places",
    "GET /image-set/{key}/slice.png": "look",
    "GET /image-set/{key}/SEG.dcm": "identity",
    "POST /image-set/{key}/retry": "act",
    "POST /image-set/{key}/cancel": "act",
    "POST /image-set/{key}/priority": "act",
    "GET /image-set/{key}/review": "look",
    "POST /image-set/{key}/review": "review",
    "POST /course/{key}/retry": "act",
    "POST /case/{key}/retry": "act",
    "POST /course/{key}/cancel": "act",
    "POST /case/{key}/cancel": "act",
    "POST /course/{key}/priority": "act",
    "POST /case/{key}/priority": "act",
    "POST /course/{key}/retake": "act",
    "POST /case/{key}/retake": "act",
    "GET /course/{key}/review": "look",
    "GET /case/{key}/review": "look",
    "POST /course/{key}/review": "review",
    "POST /case/{key}/review": "review",
    "GET /gpu/{host}/{slot}": "pool",
    "POST /gpu/{host}/{slot}/off": "pool",
    "POST /gpu/{host}/{slot}/on": "pool",
    "POST /alarms/{number}/dismiss": "alarms",
    "POST /api/mri/segmentation/series/{series_id}/segment/": "request",
    "POST /api/mri/segmentation/series/{series_id}/request-local/": "request",
    "GET /api/mri/segmentation/status/{request_id}/": "request",
    "GET /api/mri/segmentation/requests/": "request",
    "GET /api/mri/segmentation/instances/{instance_id}/frames/": "request",
    "GET /api/mri/segmentation/health/": "request",
    "GET /api/v1/openapi.json": SIGNED_IN,
    "GET /api/v1/me": SIGNED_IN,
    "GET /api/v1/work": "look",
    "GET /api/v1/cases": "look",
    "GET /api/v1/cases/{key}": "look",
    "GET /api/v1/cases/{key}/beams": "look",
    "GET /api/v1/cases/{key}/results": "look",
    "GET /api/v1/beams": "look",
    "GET /api/v1/beams/{key}": "look",
    "GET /api/v1/courses": "look",
    "GET /api/v1/courses/{key}": "look",
    "GET /api/v1/courses/{key}/results": "look",
    "GET /api/v1/image_sets": "look",
    "POST /api/v1/image_sets": "request",
    "GET /api/v1/image_sets/{key}/request": "request",
    "GET /api/v1/image_sets/{key}": "look",
    "GET /api/v1/image_sets/{key}/results": "look",
    "GET /api/v1/{units}/{key}/review": "look",
    "GET /api/v1/gpus": "look",
    "GET /api/v1/queue": "look",
    "GET /api/v1/alarms": "look",
    "GET /api/v1/events": "look",
    "GET /api/v1/audit": "audit",
    "POST /api/v1/{units}/{key}/retry": "act",
    "POST /api/v1/{units}/{key}/cancel": "act",
    "POST /api/v1/{units}/{key}/retake": "act",
    "POST /api/v1/{units}/{key}/priority": "act",
    "POST /api/v1/{units}/{key}/review": "review",
    "POST /api/v1/gpus/{host}/{gpu}/off": "pool",
    "POST /api/v1/gpus/{host}/{gpu}/on": "pool",
    "POST /api/v1/alarms/{number}/dismiss": "alarms",
}
"""Right by route."""
RIGHTS = {
    Role.VIEWER: "look",
    Role.PHYSICIST: "look identity places request act alarms",
    Role.APPROVER: "look identity places request act alarms review",
    Role.ENGINEER: "look places request act pool alarms dagster",
    Role.ADMIN: "look audit people",
    Role.SERVICE: "look request act",
}
"""What each role may."""
STREAMS = ("GET /stream/", "GET /api/v1/events")
"""They have no end: whoever may is let in by the same dependency as everywhere."""
VALUES = {"key": "P9.fx0001", "units": "cases", "host": "here", "gpu": "0", "slot": "gpu0", "number": "1"} | {
    "series_id": "1", "request_id": "x", "instance_id": "1",
    "name": "x", "asset": "x", "token": "x", "what": "disable",
}  # fmt: skip
"""In the place of each part of an address."""


def registered(app: Any) -> Iterator[tuple[str, str]]:
    """Every route, and what its dependencies ask for."""
    for context in iter_route_contexts(app.routes):
        dependant = getattr(context, "dependant", None)
        if dependant is None:
            # The static files, which hold nothing of a site.
            assert isinstance(context.route, Mount) and context.path == "/static", context.path
            continue
        asked = [
            PUBLIC if one.call is public else HERE if type(one.call).__name__ == "NeedsFromAway"
            else SIGNED_IN if one.call.right is None else one.call.right.value
            for one in dependant.dependencies
            if one.call is public or hasattr(one.call, "right")
        ]  # fmt: skip
        for method in sorted(context.methods - {"HEAD"}):
            yield f"{method} {context.path}", ", ".join(asked) or "NOTHING"


@pytest.fixture
def requests(client: TestClient) -> Callable[[str, str], int]:
    """Asks a route with a token, and gives the status."""

    def ask(route: str, token: str) -> int:
        method, _, path = route.partition(" ")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return client.request(method, path.format_map(VALUES), headers=headers).status_code

    return ask


def test_every_route_stands_in_the_table_with_the_right_that_it_asks_for(client: TestClient) -> None:
    found = list(registered(client.app))
    assert len(found) == len(dict(found))
    assert dict(found) == ROUTES


def test_nobody_gets_in_without_signing_in(client: TestClient) -> None:
    for route, right in ROUTES.items():
        if right == PUBLIC:
            continue
        method, _, path = route.partition(" ")
        answer = client.request(method, path.format_map(VALUES), headers={"accept": "application/json"})
        assert (route, answer.status_code, answer.headers["www-authenticate"]) == (route, 401, "Bearer")
        page = client.request(method, path.format_map(VALUES), headers={"accept": "text/html"})
        login = page.headers.get("location", "").startswith("/login?next=")
        assert page.status_code == 401 or (page.status_code == 303 and login), route


def test_each_role_gets_in_where_its_rights_say_and_nowhere_else(
    client: TestClient, program: Callable[..., Program], requests: Callable[[str, str], int]
) -> None:
    given = {word for one in RIGHTS.values() for word in one.split()}
    assert (set(RIGHTS), given) == (set(Role), set(Right))
    program(Role.VIEWER).get("cases")
    for role, rights in RIGHTS.items():
        token = program(role).token
        for route, right in ROUTES.items():
            if route.startswith(STREAMS) and "look" in rights.split():
                continue
            allowed = right in (PUBLIC, SIGNED_IN, *rights.split()) or (right == HERE and "look" in rights)
            status = requests(route, token)
            assert (status not in (401, 403)) == allowed or right == PUBLIC, (role, route, status)
            assert status < 500, (role, route, status)


def test_a_token_of_no_scope_that_fits_gets_in_nowhere(
    program: Callable[..., Program], requests: Callable[[str, str], int]
) -> None:
    token = program(Role.ENGINEER, Role.APPROVER, Role.ADMIN, scopes=(Right.DAGSTER,)).token
    for route, right in ROUTES.items():
        if right not in (PUBLIC, SIGNED_IN):
            assert (route, requests(route, token)) == (route, 403)
