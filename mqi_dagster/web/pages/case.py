"""One case: where it stands, what was delivered and what came of it, beam by beam."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.concurrency import run_in_threadpool

from mqi_dagster.errors import InfrastructureError, KeyRejectedError, MqiError
from mqi_dagster.ledger.audit import Action
from mqi_dagster.operations.case_report import places
from mqi_dagster.operations.dose_slices import WINDOWS, DoseFacts, Overlay, Plane
from mqi_dagster.operations.engine_log import engine_log
from mqi_dagster.operations.identity import identity_of
from mqi_dagster.operations.noted_reads import require_noted
from mqi_dagster.partitions import CASE, beam_key
from mqi_dagster.people.rights import Right
from mqi_dagster.web.access import LOOKS, Needs, Visitor
from mqi_dagster.web.live import Live, pushed
from mqi_dagster.web.render import Pages
from mqi_dagster.web.reports import CasePage, Reports
from mqi_dagster.worklist import BeamStatus, CaseStatus

router = APIRouter(include_in_schema=False)
SEES_PLACES = Annotated[Visitor, Depends(Needs(Right.PLACES))]
BeamNumber = Annotated[int, Path(ge=0, le=999_999_999)]
PRIVATE = {"Cache-Control": "private, max-age=86400, immutable"}
"""Of what names nobody, at an address that changes with it."""


def _read(reports: Reports, row: CaseStatus, beams: list[BeamStatus]) -> tuple[CasePage | None, str]:
    """What is shown of a case beside its rows, or why that cannot be read."""
    try:
        return reports.case(row, beams), ""
    except MqiError as error:
        return None, error.message


def _part(request: Request, visitor: Visitor, key: str) -> str:
    reports: Reports = request.app.state.reports
    live: Live = request.app.state.live
    row, beams = reports.rows(CASE, key)
    page, trouble = _read(reports, row, beams)
    values = {
        "partition": key,
        "row": row,
        "beams": {one.number: one for one in beams},
        "page": page,
        "trouble": trouble,
        "windows": WINDOWS,
        "overlays": Overlay,
    }
    return live.part(
        request.app.state.pages, visitor, "_case.html", (key, trouble, reports.deeds()), lambda: values
    )


@router.get("/case/{key}")
async def show_case(request: Request, visitor: LOOKS, key: str) -> Response:
    """The page."""
    await request.app.state.live.first()
    return await run_in_threadpool(_case, request, visitor, key)


def _case(request: Request, visitor: Visitor, key: str) -> Response:
    reports: Reports = request.app.state.reports
    pages: Pages = request.app.state.pages
    part = _part(request, visitor, key)
    try:
        whose = identity_of(request.app.state.site, reports.instance, visitor.actor, key)
    except InfrastructureError:
        whose = None
    return pages.page(request, "case.html", visitor, partition=key, whose=whose, part=part)


@router.get("/stream/case/{key}")
async def stream_case(request: Request, visitor: LOOKS, key: str) -> Response:
    """What of it changes."""
    request.app.state.reports.rows(CASE, key)
    render = lambda: run_in_threadpool(_part, request, visitor, key)  # noqa: E731
    return pushed(request, visitor, render)


@router.get("/case/{key}/files")
def show_files(request: Request, visitor: SEES_PLACES, key: str) -> Response:
    """Where its files lie; whoever sees it is in the audit."""
    reports: Reports = request.app.state.reports
    pages: Pages = request.app.state.pages
    site = request.app.state.site
    row, beams = reports.rows(CASE, key)
    require_noted(site, visitor.actor, Right.PLACES, Action.PLACES_READ, key)
    found = list(places(site, reports.case(row, beams).report))
    return pages.page(request, "files.html", visitor, partition=key, back=f"/case/{key}", places=found)


@router.get("/case/{key}/beam/{number}/picture/{name}.png")
def show_picture(
    request: Request, visitor: LOOKS, key: str, number: BeamNumber, name: str, of: str = ""
) -> Response:
    """A picture of a beam, as it stands in its metadata."""
    reports: Reports = request.app.state.reports
    found = reports.case(*reports.rows(CASE, key)).pictures.get(number, {}).get(name)
    if found is None:
        raise KeyRejectedError("there is no such picture")
    # At the address of an earlier one it is shown, and not kept.
    kept = PRIVATE if of == found.digest else None
    return Response(found.png, media_type="image/png", headers=kept)


@router.get("/case/{key}/beam/{number}/slice.png")
def show_slice(
    request: Request,
    visitor: LOOKS,
    key: str,
    number: BeamNumber,
    plane: Plane = Plane.AXIAL,
    at: Annotated[int, Query(ge=0, le=100_000)] = 0,
    window: Annotated[str, Query(max_length=40)] = next(iter(WINDOWS)),
    dose: Overlay = Overlay.BOTH,
) -> Response:
    """A slice of a beam's dose over what it was computed in."""
    reports: Reports = request.app.state.reports
    if not isinstance(reports.case(*reports.rows(CASE, key)).doses.get(number), DoseFacts):
        raise KeyRejectedError("there is no such dose")
    png = reports.slices.picture(reports.instance, beam_key(key, number), plane, at, window, dose)
    return Response(png, media_type="image/png")


@router.get("/case/{key}/beam/{number}/log.txt")
def show_log(
    request: Request, visitor: LOOKS, key: str, number: BeamNumber, attempt: int | None = None
) -> Response:
    """The engine's log of a beam, without identifiers: that of an attempt, or the newest."""
    reports: Reports = request.app.state.reports
    _, beams = reports.rows(CASE, key)
    beam = next((one for one in beams if one.number == number), None)
    if beam is None:
        raise KeyRejectedError("the case has no such beam")
    title, lines = engine_log(reports.instance, request.app.state.site, beam, attempt)
    text = "\n".join((f"{beam.beam}, {title}", "", *lines, ""))
    return PlainTextResponse(text, HTTPStatus.OK)
