"""The addresses by which the laboratory's programs ask for segmentations, with their fields and answers.

`/api/v1/image_sets` is the same without their past. Who asks brings a token, as `Authorization: Bearer …` or
as the password of HTTP Basic, which may stand in the address that an old program is given.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from mqi_dagster.errors import InputError, MqiError, NotAllowedError, UnknownSeriesError
from mqi_dagster.ledger.audit import Action
from mqi_dagster.operations.laboratory import ask_by_series, chosen_host, frames_of, health_of
from mqi_dagster.operations.segmentation_request import RequestStanding, RequestState, requests, standing
from mqi_dagster.people.rights import Right
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import LOCAL
from mqi_dagster.web.access import Needs, Visitor
from mqi_dagster.web.api.requests import ENDED, ended, opened
from mqi_dagster.web.problems import status_of

router = APIRouter(prefix="/api/mri/segmentation", include_in_schema=False)
REQUESTS = Annotated[Visitor, Depends(Needs(Right.REQUEST, basic=True))]
ASKS = Annotated[Visitor, Depends(Needs(Right.REQUEST, Action.SEGMENTATION_REQUESTED, basic=True))]
_ALL = "all"


class Series(BaseModel):
    """What is asked for."""

    sequence_series_ids: list[str] = Field(min_length=1, max_length=64)


def _refused(error: Exception) -> JSONResponse:
    status = status_of(error, "POST")
    if isinstance(error, UnknownSeriesError):
        status = HTTPStatus.NOT_FOUND
    elif isinstance(error, InputError) and not isinstance(error, NotAllowedError):
        status = HTTPStatus.BAD_REQUEST
    text = error.message if isinstance(error, MqiError) else status.phrase
    return JSONResponse({"success": False, "error": text}, status)


def _answered(make: Callable[[], dict[str, Any]]) -> JSONResponse:
    try:
        return JSONResponse(make())
    except MqiError as error:
        return _refused(error)


def _result(found: RequestStanding) -> dict[str, Any]:
    """What was found, as the laboratory's programs read it: of the first region of the model's card."""
    result = found.result
    if found.state is RequestState.FAILED:
        return {"success": False, "error": found.reason}
    if result is None:
        return {"success": False, "error": "its results were removed since: ask for it again"}
    first = result.regions[0]
    return {
        "success": True,
        "tumor_detected": first.voxels > 0,
        "tumor_volume_voxels": first.voxels,
        "tumor_volume_mm3": first.volume_mm3,
        "seg_instance_id": result.segmentation,
        "elapsed_time_seconds": result.elapsed_seconds,
        "regions": [one.model_dump() for one in result.regions],
        "error": None,
    }


def _row(found: RequestStanding) -> dict[str, Any]:
    told = found.model_dump(mode="json", include={"requested_at", "started_at", "completed_at"})
    message = found.reason or found.stage.words
    return {
        "request_id": found.key,
        "status": found.state.value,
        "message": message,
        **told,
        "series_ids": list(found.series),
        "requested_by": found.requested_by,
        "model": found.model,
    }


@router.post("/series/{series_id}/segment/")
async def segment(
    request: Request,
    visitor: ASKS,
    series_id: str,
    body: Series | None = None,
    use_local: bool = False,
    force_gcp: bool = False,
) -> JSONResponse:
    """Ask for a segmentation and wait for it; it goes on where that takes too long."""
    return await _asked(request, visitor, series_id, body, use_local=use_local, force_gcp=force_gcp)


@router.post("/series/{series_id}/request-local/")
async def request_local(
    request: Request, visitor: ASKS, series_id: str, body: Series | None = None
) -> JSONResponse:
    """The same, at the laboratory."""
    return await _asked(request, visitor, series_id, body, use_local=True, force_gcp=False)


async def _asked(
    request: Request,
    visitor: Visitor,
    series_id: str,
    body: Series | None,
    *,
    use_local: bool,
    force_gcp: bool,
) -> JSONResponse:
    series = body.sequence_series_ids if body is not None else [series_id]

    def begin() -> RequestStanding:
        with opened(request) as (site, instance):
            host = chosen_host(site, use_local=use_local, force_server=force_gcp)
            return ask_by_series(site, instance, visitor.actor, series_id, series, host=host)

    site: Site = request.app.state.site
    try:
        found = await run_in_threadpool(begin)
        found = await ended(request, found.key, site.settings.on_request.wait_seconds)
    except MqiError as error:
        return _refused(error)
    told = {"series_id": series_id, "request_id": found.key}
    if found.state not in ENDED:
        note = "the request goes on: its status is told by its request_id"
        waits = {"success": False, "status": "timeout", "note": note, "message": found.reason}
        return JSONResponse({**told, **waits}, HTTPStatus.GATEWAY_TIMEOUT)
    result = _result(found)
    if not result["success"]:
        return JSONResponse({**told, **result, "status": "failed"}, HTTPStatus.INTERNAL_SERVER_ERROR)
    saved = {
        "saved_to_orthanc": result["seg_instance_id"] is not None,
        "processed_by": "server" if found.host == LOCAL else "local_worker",
    }
    return JSONResponse({**told, **result, **saved})


@router.get("/status/{request_id}/")
def status(request: Request, visitor: REQUESTS, request_id: str) -> JSONResponse:
    """Where a request stands."""

    def make() -> dict[str, Any]:
        with opened(request) as (site, instance):
            try:
                found = standing(site, instance, request_id)
            except InputError as error:
                raise UnknownSeriesError(error.message) from None
        told = {"success": True, **_row(found)}
        return {**told, "result": _result(found)} if found.state in ENDED else told

    return _answered(make)


@router.get("/requests/")
def list_requests(
    request: Request,
    visitor: REQUESTS,
    status: Annotated[RequestState | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> JSONResponse:
    """The requests, the newest first."""

    def make() -> dict[str, Any]:
        states = [] if status is None else [status]
        with opened(request) as (site, instance):
            found = list(islice(requests(site, instance, states), limit))
        rows = [{**_row(one), "has_result": one.result is not None} for one in found]
        return {"success": True, "count": len(rows), "requests": rows, "filter": status or _ALL}

    return _answered(make)


@router.get("/instances/{instance_id}/frames/")
def frames(request: Request, visitor: REQUESTS, instance_id: str) -> JSONResponse:
    """The masks of a segmentation in the PACS, one picture a frame."""
    site: Site = request.app.state.site

    def make() -> dict[str, Any]:
        found = list(frames_of(site, instance_id))
        rows = [{"index": number, "data": data} for number, data in enumerate(found)]
        return {"success": True, "instance_id": instance_id, "num_frames": len(rows), "frames": rows}

    return _answered(make)


@router.get("/health/")
def health(request: Request, visitor: REQUESTS) -> JSONResponse:
    """Whether there is a model to ask for, and the PACS answers."""
    told = {"success": True, "status": "healthy", **health_of(request.app.state.site)}
    if not (told["models"] and told["orthanc"]["connected"]):
        told |= {"success": False, "status": "unhealthy"}
    return JSONResponse(told)
