"""The whole of ``/api/v1``, and its description as OpenAPI."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from mqi_dagster import __version__
from mqi_dagster.people.rights import Right
from mqi_dagster.web.access import READS, SIGNED_IN, Needs
from mqi_dagster.web.api import actions, events, reading, requests
from mqi_dagster.web.api.models import Problem
from mqi_dagster.web.problems import MEDIA_TYPE

_TEXT = """\
Where cases, beams and courses stand, and what a person can do about them. `docs/api.md` explains it.

A program sends its token as `Authorization: Bearer …`. Errors are problem details (RFC 9457). What changes
something takes an `Idempotency-Key`: sent again with it, nothing is done twice. Reads bear an `ETag`.
"""


def _is_json(request: Request) -> None:
    """What is sent is JSON."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if request.method not in READS and kind not in ("", "application/json"):
        raise HTTPException(415, "send application/json")


api = APIRouter(
    prefix="/api/v1",
    dependencies=[Depends(_is_json)],
    responses={"default": {"description": "It did not work.", "content": {MEDIA_TYPE: {}}, "model": Problem}},
    generate_unique_id_function=lambda route: route.name,
)
_ROUTERS = (reading.router, requests.router, actions.router, events.router)
for _router in _ROUTERS:
    api.include_router(_router)


def _words(right: Right | None) -> str:
    return "For everybody who is signed in." if right is None else f"Needs the right `{right.value}`."


@api.get("/openapi.json", include_in_schema=False)
def describe(request: Request, visitor: SIGNED_IN) -> dict[str, Any]:
    """The description, as OpenAPI."""
    found = get_openapi(
        title="mqi_dagster",
        version=__version__,
        description=_TEXT,
        routes=api.routes,
        servers=[{"url": request.app.state.pages.prefix or "/"}],
    )
    for route in (one for router in _ROUTERS for one in router.routes if isinstance(one, APIRoute)):
        for method in route.methods or ():
            told = found["paths"][f"{api.prefix}{route.path_format}"][method.lower()]
            for one in route.dependant.dependencies:
                if isinstance(one.call, Needs):
                    told["description"] = f"{told.get('description', '')}\n\n{_words(one.call.right)}".strip()
    found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    found["security"] = [{"token": []}]
    return found
