"""Segmentations are asked for, and waited for without a thread that waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Annotated, Any

import dagster as dg
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from mqi_dagster.errors import InputError, KeyRejectedError
from mqi_dagster.ledger.audit import Action
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.operations.segmentation_request import RequestStanding, RequestState, ask, standing
from mqi_dagster.people.rights import Right
from mqi_dagster.resources.site import Site
from mqi_dagster.settings.on_request import ModelName
from mqi_dagster.web.access import Needs, Visitor
from mqi_dagster.web.api.reading import KEY
from mqi_dagster.worklist.reading import plain_errors

router = APIRouter()
ASKS = Annotated[Visitor, Depends(Needs(Right.REQUEST, Action.SEGMENTATION_REQUESTED))]
REQUESTS = Annotated[Visitor, Depends(Needs(Right.REQUEST))]
ENDED = (RequestState.COMPLETED, RequestState.FAILED)
LOOK_SECONDS = 2.0
"""So often a request that is waited for is looked at."""
WAIT = Annotated[float, Query(ge=0, le=300, description="Wait so many seconds for its end.")]


class SegmentationBody(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="forbid")

    series: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        min_length=1, max_length=64, description="Identifiers in the PACS, the main one first."
    )
    model: ModelName = Field(description="By its name in `mqi model list`.")


@contextmanager
def opened(request: Request) -> Iterator[tuple[Site, dg.DagsterInstance]]:
    """The site of a request, and Dagster's records."""
    site: Site = request.app.state.site
    with plain_errors(), open_instance(site.settings) as instance:
        yield site, instance


async def ended(request: Request, key: str, seconds: float) -> RequestStanding:
    """Where a request stands once it has ended, or after so many seconds.

    Args:
        request: Of whoever waits; once they are gone nobody is waited for.
        key: Of the image set.
        seconds: At most.

    Raises:
        InputError: There is no such request.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + seconds

    def look() -> RequestStanding:
        with opened(request) as (site, instance):
            return standing(site, instance, key)

    while True:
        found = await run_in_threadpool(look)
        left = until - clock()
        if found.state in ENDED or left <= 0 or await request.is_disconnected():
            return found
        await asyncio.sleep(min(LOOK_SECONDS, left))


_LOCATION = {"description": "Where it is told how it goes.", "schema": {"type": "string"}}
_PLACE: dict[int | str, dict[str, Any]] = {202: {"headers": {"Location": _LOCATION}}}


@router.post("/image_sets", status_code=HTTPStatus.ACCEPTED, responses=_PLACE)
async def ask_for_segmentation(
    request: Request, response: Response, body: SegmentationBody, visitor: ASKS, wait: WAIT = 0.0
) -> RequestStanding:
    """Ask for the segmentation of some series. The same series and model are the same request."""

    def begin() -> RequestStanding:
        with opened(request) as (site, instance):
            return ask(site, instance, visitor.actor, body.series, body.model)

    found = await run_in_threadpool(begin)
    prefix: str = request.app.state.pages.prefix
    response.headers["Location"] = f"{prefix}/api/v1/image_sets/{found.key}/request"
    return await ended(request, found.key, wait) if wait else found


@router.get("/image_sets/{key}/request")
async def request_of(request: Request, key: KEY, visitor: REQUESTS, wait: WAIT = 0.0) -> RequestStanding:
    """Where the request of an image set stands, with the identifiers of the PACS."""
    try:
        return await ended(request, key, wait)
    except InputError:
        raise KeyRejectedError("no image set has this key; GET image_sets lists them") from None
