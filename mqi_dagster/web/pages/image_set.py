"""One image set: what was asked for, what a model has found in it, and where that is stored."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from sse_starlette.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from mqi_dagster.errors import InfrastructureError, KeyRejectedError, MqiError
from mqi_dagster.ledger.audit import Action
from mqi_dagster.operations.dose_slices import Plane
from mqi_dagster.operations.identity import identity_of
from mqi_dagster.operations.image_set_report import places, segmentation_file
from mqi_dagster.operations.noted_reads import require_noted
from mqi_dagster.operations.segmentation_slices import Shown
from mqi_dagster.partitions import IMAGE_SET
from mqi_dagster.people.rights import Right
from mqi_dagster.web.access import LOOKS, Needs, Visitor, still
from mqi_dagster.web.live import Live
from mqi_dagster.web.pages.case import SEES_PLACES
from mqi_dagster.web.pages.course import SEES_IDENTITY
from mqi_dagster.web.render import Pages
from mqi_dagster.web.reports import ImageSetPage, Reports

router = APIRouter(include_in_schema=False)


def _part(request: Request, visitor: Visitor, key: str) -> str:
    reports: Reports = request.app.state.reports
    live: Live = request.app.state.live
    row, _ = reports.rows(IMAGE_SET, key)
    page: ImageSetPage | None = None
    trouble = ""
    try:
        page = reports.image_set(row)
    except MqiError as error:
        trouble = error.message
    values = {"partition": key, "row": row, "page": page, "trouble": trouble, "shown": tuple(Shown)}
    return live.part(
        request.app.state.pages, visitor, "_image_set.html", (key, trouble, reports.deeds()), lambda: values
    )


@router.get("/image-set/{key}")
async def show_image_set(request: Request, visitor: LOOKS, key: str) -> Response:
    """The page."""
    await request.app.state.live.first()
    return await run_in_threadpool(_image_set, request, visitor, key)


def _image_set(request: Request, visitor: Visitor, key: str) -> Response:
    reports: Reports = request.app.state.reports
    pages: Pages = request.app.state.pages
    part = _part(request, visitor, key)
    try:
        whose = identity_of(request.app.state.site, reports.instance, visitor.actor, key)
    except InfrastructureError:
        whose = None
    return pages.page(request, "image_set.html", visitor, partition=key, whose=whose, part=part)


@router.get("/stream/image-set/{key}")
async def stream_image_set(request: Request, visitor: LOOKS, key: str) -> Response:
    """What of it changes."""
    live: Live = request.app.state.live
    request.app.state.reports.rows(IMAGE_SET, key)
    render = lambda: run_in_threadpool(_part, request, visitor, key)  # noqa: E731
    return EventSourceResponse(live.stream(render, still(request, Needs(Right.LOOK))))


@router.get("/image-set/{key}/files")
def show_files(request: Request, visitor: SEES_PLACES, key: str) -> Response:
    """Where its files lie; whoever sees it is in the audit."""
    reports: Reports = request.app.state.reports
    pages: Pages = request.app.state.pages
    row, _ = reports.rows(IMAGE_SET, key)
    require_noted(request.app.state.site, visitor.actor, Right.PLACES, Action.PLACES_READ, key)
    found = list(places(reports.image_set(row).details))
    return pages.page(request, "files.html", visitor, partition=key, back=f"/image-set/{key}", places=found)


@router.get("/image-set/{key}/slice.png")
def show_slice(
    request: Request,
    visitor: LOOKS,
    key: str,
    plane: Plane = Plane.AXIAL,
    at: Annotated[int, Query(ge=0, le=100_000)] = 0,
    window: Annotated[str, Query(max_length=40)] = "",
    regions: Shown = Shown.BOTH,
) -> Response:
    """A slice of its images with what was found."""
    reports: Reports = request.app.state.reports
    row, _ = reports.rows(IMAGE_SET, key)
    if isinstance(reports.image_set(row).slices, str):
        raise KeyRejectedError("there is no such segmentation")
    png = reports.regions.picture(reports.instance, key, plane, at, window, regions)
    return Response(png, media_type="image/png")


@router.get("/image-set/{key}/SEG.dcm")
def download_segmentation(request: Request, visitor: SEES_IDENTITY, key: str) -> Response:
    """The DICOM Segmentation, in which it stands whose it is."""
    reports: Reports = request.app.state.reports
    reports.rows(IMAGE_SET, key)
    site = request.app.state.site
    require_noted(site, visitor.actor, Right.IDENTITY, Action.IDENTITY_READ, key)
    path = segmentation_file(reports.instance, site, key)
    return FileResponse(path, media_type="application/dicom", filename=f"{key}.SEG.dcm")
