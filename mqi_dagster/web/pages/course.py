"""One course: where it stands, what belongs to it, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool

from mqi_dagster.errors import InfrastructureError, KeyRejectedError, MqiError
from mqi_dagster.ledger.audit import Action
from mqi_dagster.lifecycle.materialisations import COURSE_REPORT
from mqi_dagster.operations.course_report import course_file, places
from mqi_dagster.operations.engine_log import model_log
from mqi_dagster.operations.identity import identity_of
from mqi_dagster.operations.noted_reads import require_noted
from mqi_dagster.partitions import COURSE
from mqi_dagster.people.rights import Right
from mqi_dagster.web.access import LOOKS, Needs, Visitor
from mqi_dagster.web.live import Live, pushed
from mqi_dagster.web.pages.case import SEES_PLACES
from mqi_dagster.web.render import Pages
from mqi_dagster.web.reports import CoursePage, Reports

router = APIRouter(include_in_schema=False)
SEES_IDENTITY = Annotated[Visitor, Depends(Needs(Right.IDENTITY))]
_ALONE = {
    "Content-Security-Policy": "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline';"
    " style-src 'unsafe-inline'; img-src data: blob:; frame-ancestors 'none'"
}
"""The page that a report holds has its script inside: it runs as a stranger, and reaches nothing."""


def _part(request: Request, visitor: Visitor, key: str) -> str:
    reports: Reports = request.app.state.reports
    live: Live = request.app.state.live
    row, _ = reports.rows(COURSE, key)
    page: CoursePage | None = None
    trouble = ""
    try:
        page = reports.course(row)
    except MqiError as error:
        trouble = error.message
    values = {"partition": key, "row": row, "page": page, "trouble": trouble}
    return live.part(
        request.app.state.pages, visitor, "_course.html", (key, trouble, reports.deeds()), lambda: values
    )


@router.get("/course/{key}")
async def show_course(request: Request, visitor: LOOKS, key: str) -> Response:
    """The page."""
    await request.app.state.live.first()
    return await run_in_threadpool(_course, request, visitor, key)


def _course(request: Request, visitor: Visitor, key: str) -> Response:
    reports: Reports = request.app.state.reports
    pages: Pages = request.app.state.pages
    part = _part(request, visitor, key)
    try:
        whose = identity_of(request.app.state.site, reports.instance, visitor.actor, key)
    except InfrastructureError:
        whose = None
    return pages.page(request, "course.html", visitor, partition=key, whose=whose, part=part)


@router.get("/stream/course/{key}")
async def stream_course(request: Request, visitor: LOOKS, key: str) -> Response:
    """What of it changes."""
    request.app.state.reports.rows(COURSE, key)
    render = lambda: run_in_threadpool(_part, request, visitor, key)  # noqa: E731
    return pushed(request, visitor, render)


@router.get("/course/{key}/files")
def show_files(request: Request, visitor: SEES_PLACES, key: str) -> Response:
    """Where its files lie; whoever sees it is in the audit."""
    reports: Reports = request.app.state.reports
    pages: Pages = request.app.state.pages
    site = request.app.state.site
    row, _ = reports.rows(COURSE, key)
    require_noted(site, visitor.actor, Right.PLACES, Action.PLACES_READ, key)
    found = list(places(reports.course(row).details))
    return pages.page(request, "files.html", visitor, partition=key, back=f"/course/{key}", places=found)


def _file(request: Request, key: str, asset: str, name: str) -> Path:
    reports: Reports = request.app.state.reports
    row, _ = reports.rows(COURSE, key)
    return course_file(request.app.state.site, reports.course(row).details, asset, name)


@router.get("/course/{key}/report")
def show_report(request: Request, visitor: LOOKS, key: str) -> Response:
    """The page that the report of the course holds, alone with itself."""
    return FileResponse(_file(request, key, COURSE_REPORT, "course.html"), headers=_ALONE)


@router.get("/course/{key}/picture/{name}.png")
def show_picture(request: Request, visitor: LOOKS, key: str, name: str) -> Response:
    """A picture of the report."""
    return FileResponse(_file(request, key, COURSE_REPORT, f"{name}.png"))


@router.get("/course/{key}/table/{asset}/{name}")
def download_table(request: Request, visitor: SEES_IDENTITY, key: str, asset: str, name: str) -> Response:
    """A table as it lies in the store; labels that people have typed, and may name the patient, are in it."""
    reports: Reports = request.app.state.reports
    row, _ = reports.rows(COURSE, key)
    require_noted(request.app.state.site, visitor.actor, Right.IDENTITY, Action.IDENTITY_READ, key)
    if (asset, name) not in {(one.asset, one.name) for one in reports.course(row).tables}:
        raise KeyRejectedError("there is no such table")
    return FileResponse(_file(request, key, asset, name), filename=f"{key}.{name}")


@router.get("/course/{key}/log/{number}.txt")
def show_log(request: Request, visitor: LOOKS, key: str, number: int) -> Response:
    """What the program of a model has printed, without paths."""
    reports: Reports = request.app.state.reports
    row, _ = reports.rows(COURSE, key)
    models = reports.course(row).details.models
    log = models[number].log if 0 <= number < len(models) else None
    if log is None:
        raise KeyRejectedError("there is no such log any more")
    return PlainTextResponse("\n".join((*model_log(log), "")))
