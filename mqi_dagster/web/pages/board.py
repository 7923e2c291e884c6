"""The live board: what is in work and where, the GPUs, the queue, and every part of the site."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from mqi_dagster.web.access import LOOKS, Visitor
from mqi_dagster.web.gpu_history import HEIGHT, WIDTH
from mqi_dagster.web.live import Live, pushed
from mqi_dagster.web.render import Pages
from mqi_dagster.worklist import Stage

router = APIRouter(include_in_schema=False)
_MOST_RUNNING = 200
"""More rows are only counted: nobody reads them, and the worklist has them."""


def _values(live: Live, pages: Pages) -> Mapping[str, Any]:
    work = live.seen.work
    if work is None:
        return {}
    beams = [row for row in work.beams if row.stage.at_work]
    # A case whose beams are at work is told by them.
    units = [row for row in work.cases if row.stage.at_work and row.stage is not Stage.BEAMS]
    return {
        "beams": beams[:_MOST_RUNNING],
        "units": units[:_MOST_RUNNING],
        "running": len(beams) + len(units),
        "lines": {(gpu.host, gpu.uuid): live.gpus.line(gpu, datetime.now(UTC)) for gpu in work.gpus},
        "size": (WIDTH, HEIGHT),
        "links": {alarm.subject: link for alarm in work.alarms if (link := pages.link(alarm.subject))},
    }


def _part(request: Request, visitor: Visitor) -> str:
    live: Live = request.app.state.live
    pages: Pages = request.app.state.pages
    return live.part(pages, visitor, "_board.html", values=lambda: _values(live, pages))


@router.get("/board")
async def show_board(request: Request, visitor: LOOKS) -> Response:
    """The page."""
    pages: Pages = request.app.state.pages
    await request.app.state.live.first()
    part = await run_in_threadpool(_part, request, visitor)
    return pages.page(request, "board.html", visitor, part=part)


@router.get("/stream/board")
async def stream_board(request: Request, visitor: LOOKS) -> Response:
    """What of it changes."""
    render = lambda: run_in_threadpool(_part, request, visitor)  # noqa: E731
    return pushed(request, visitor, render)
