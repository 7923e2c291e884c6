"""What workers ask for: jobs by long poll, inputs, heartbeats, outputs in pieces, and how it has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from mqi_dagster.errors import KeyRejectedError, MqiError
from mqi_dagster.execution.work import (
    LEASE_HEADER,
    Claim,
    Ended,
    Heartbeat,
    Hello,
    MadeOutput,
    Offer,
    Pulse,
    Received,
    Sha256,
)
from mqi_dagster.people.rights import Right
from mqi_dagster.pull.queue import WorkQueue
from mqi_dagster.pull.shared_folder import FolderExchange
from mqi_dagster.resources.site import Site
from mqi_dagster.web.access import Needs, Visitor

_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 0.5
_HEARD_SECONDS = 10.0
_TEND_SECONDS = 1.0
_STOOD_STILL_SECONDS = 10.0

_PIECE = {"requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string"}}}}}

router = APIRouter(prefix="/work", tags=["work"])
WORKS = Annotated[Visitor, Depends(Needs(Right.WORK))]
LEASE = Annotated[str, Header(alias=LEASE_HEADER, max_length=200)]


def _queue(request: Request) -> WorkQueue:
    queue: WorkQueue = request.app.state.work
    return queue


QUEUE = Annotated[WorkQueue, Depends(_queue)]


@router.get("/hello")
def hello(request: Request, visitor: WORKS) -> Hello:
    """Who answers, for whoever has the right to ask for work."""
    site: Site = request.app.state.site
    return Hello(site=site.settings.site.name)


@router.post("/claim", response_model=Offer, responses={204: {"description": "Nothing for it now."}})
async def claim(request: Request, visitor: WORKS, queue: QUEUE, asked: Claim) -> Offer | Response:
    """A job for a free slot of a worker; waits for one as long as is asked for."""
    clock = asyncio.get_running_loop().time
    heard = clock()
    until = heard + asked.wait_seconds
    await run_in_threadpool(queue.hear, visitor.name, asked.has)
    while not await request.is_disconnected():
        if clock() - heard > _HEARD_SECONDS:
            heard = clock()
            await run_in_threadpool(queue.hear_again, visitor.name, asked.has.worker)
        offer = await run_in_threadpool(queue.take, visitor.name, asked)
        if offer is not None and not await request.is_disconnected():
            return offer
        if offer is not None:
            # Nobody is there any more who would take it.
            await run_in_threadpool(queue.release, offer.id, visitor.name, offer.lease)
            break
        if clock() >= until:
            break
        await asyncio.sleep(min(_LOOK_SECONDS, max(0.0, until - clock())))
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.get("/{job_id}/inputs", response_class=FileResponse)
def inputs(visitor: WORKS, queue: QUEUE, job_id: str, lease: LEASE) -> FileResponse:
    """Every input of a job as one tar file; a range of it where the way was cut."""
    path = queue.spool.inputs(queue.held(job_id, visitor.name, lease).id)
    if not path.is_file():
        raise KeyRejectedError("the inputs of this job are not here")
    return FileResponse(path, media_type="application/x-tar")


@router.post("/{job_id}/heartbeat")
def heartbeat(visitor: WORKS, queue: QUEUE, job_id: str, lease: LEASE, told: Heartbeat) -> Pulse:
    """The worker is at work; whether it shall go on."""
    return queue.beat(job_id, visitor.name, lease, told)


@router.put("/{job_id}/outputs/{number}", openapi_extra=_PIECE)
async def output(
    request: Request,
    visitor: WORKS,
    queue: QUEUE,
    job_id: str,
    number: int,
    lease: LEASE,
    offset: Annotated[int, Query(ge=0)],
    size: Annotated[int, Query(ge=0)],
    sha256: Annotated[Sha256, Query()],
) -> Received:
    """A piece of an output, and what is here of it then: from there on it goes on."""
    piece, whole = await request.body(), MadeOutput(size=size, sha256=sha256)
    here = await run_in_threadpool(queue.output, job_id, visitor.name, lease, number, offset, piece, whole)
    return Received(size=here)


@router.post("/{job_id}/complete", status_code=HTTPStatus.NO_CONTENT)
def complete(visitor: WORKS, queue: QUEUE, job_id: str, lease: LEASE, ended: Ended) -> None:
    """Every output was sent."""
    queue.complete(job_id, visitor.name, lease, ended)


@router.post("/{job_id}/fail", status_code=HTTPStatus.NO_CONTENT)
def fail(visitor: WORKS, queue: QUEUE, job_id: str, lease: LEASE, ended: Ended) -> None:
    """The job has failed, or the worker's computer has."""
    queue.fail(job_id, visitor.name, lease, ended)


@router.post("/{job_id}/release", status_code=HTTPStatus.NO_CONTENT)
def release(visitor: WORKS, queue: QUEUE, job_id: str, lease: LEASE) -> None:
    """The worker gives the job back unharmed."""
    queue.release(job_id, visitor.name, lease)


@asynccontextmanager
async def tended(site: Site, queue: WorkQueue) -> AsyncIterator[None]:
    """End leases that have run out, and exchange files with shared folders, while the block lasts."""
    pulls = {name: host.pull for name, host in site.settings.hosts.items() if host.pull is not None}
    queue.begin()
    steps: list[tuple[Callable[[], None], Callable[[], None]]] = [(queue.tend, queue.begin)] if pulls else []
    steps += [
        (FolderExchange(name, pull.folder, site.ledger, queue).exchange, _nothing)
        for name, pull in pulls.items()
        if pull.folder is not None
    ]
    tasks = [asyncio.create_task(_again_and_again(*step)) for step in steps]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


def _nothing() -> None:
    """For whoever is not late."""


async def _again_and_again(step: Callable[[], None], late: Callable[[], None]) -> None:
    """Take a step every second, whatever comes of it; ``late`` before one that comes much too late."""
    clock, said = asyncio.get_running_loop().time, ""
    before = clock()
    while True:
        if clock() - before > _STOOD_STILL_SECONDS:
            # A server that stood still has heard nobody.
            late()
        before = clock()
        try:
            await run_in_threadpool(step)
            words = ""
        except (MqiError, OSError, ValueError) as error:
            words = error.message if isinstance(error, MqiError) else f"it fails ({type(error).__name__})"
            if words != said:
                _LOG.warning("jobs of workers: %s", words)
        said = words
        await asyncio.sleep(_TEND_SECONDS)
