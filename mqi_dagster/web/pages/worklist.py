"""The worklist: what needs a person on top, then what is in work."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from sse_starlette.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from mqi_dagster.people.rights import Right
from mqi_dagster.web import words
from mqi_dagster.web.access import LOOKS, Needs, Visitor, still
from mqi_dagster.web.live import Live
from mqi_dagster.web.render import Pages

router = APIRouter(include_in_schema=False)


def _part(request: Request, visitor: Visitor) -> str:
    live: Live = request.app.state.live
    pages: Pages = request.app.state.pages
    key = ("worklist", words.LANGUAGE.get(), visitor.actor.rights)
    return live.rendered(key, lambda: pages.part("_worklist.html", visitor, seen=live.seen))


@router.get("/")
async def show_worklist(request: Request, visitor: LOOKS) -> Response:
    """The page."""
    pages: Pages = request.app.state.pages
    await request.app.state.live.first()
    part = await run_in_threadpool(_part, request, visitor)
    return pages.page(request, "worklist.html", visitor, part=part)


@router.get("/stream/worklist")
async def stream_worklist(request: Request, visitor: LOOKS) -> Response:
    """What of it changes."""
    live: Live = request.app.state.live
    render = lambda: run_in_threadpool(_part, request, visitor)  # noqa: E731
    return EventSourceResponse(live.stream(render, still(request, Needs(Right.LOOK))))
