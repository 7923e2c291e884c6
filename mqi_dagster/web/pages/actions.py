"""What can be done from a page: each button is one call of `operations`, and then its page again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Annotated
from urllib.parse import quote

import dagster as dg
from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import RedirectResponse

from mqi_dagster.errors import InputError, KeyRejectedError, SignInError
from mqi_dagster.ledger.audit import Action
from mqi_dagster.operations.alarms import dismiss
from mqi_dagster.operations.cancel import await_end, cancel
from mqi_dagster.operations.gpus import switch_off, switch_on
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.operations.priority import make_urgent
from mqi_dagster.operations.retake import retake
from mqi_dagster.operations.retry import partitions_of, retry, services_of
from mqi_dagster.operations.review import Verdict, review, review_of
from mqi_dagster.partitions import PartitionKey, find_key
from mqi_dagster.people.rights import Right
from mqi_dagster.resources.site import Site
from mqi_dagster.web.access import LOOKS, Needs, Visitor
from mqi_dagster.web.acting import KINDS, kind_of
from mqi_dagster.web.live import Live
from mqi_dagster.web.render import Pages
from mqi_dagster.worklist import GpuStatus
from mqi_dagster.worklist.reading import plain_errors

router = APIRouter(include_in_schema=False)
_END_SECONDS = 10.0
"""So long a cancelled run is waited for; its page follows it from then on."""


def unit_at(request: Request, key: str) -> PartitionKey:
    """A dependency: the partition that an address names.

    Raises:
        KeyRejectedError: It is none of the kind that stands before it.
    """
    pages: Pages = request.app.state.pages
    kind = request.url.path.removeprefix(pages.prefix).split("/")[1]
    found = find_key(key, KINDS)
    if found is None or kind_of(key) != kind:
        raise KeyRejectedError(f"the {kind.replace('-', ' ')} is not known here")
    return found


UNIT = Annotated[PartitionKey, Depends(unit_at)]


@contextmanager
def _opened(request: Request) -> Iterator[tuple[Site, dg.DagsterInstance]]:
    site: Site = request.app.state.site
    with plain_errors(), open_instance(site.settings) as instance:
        yield site, instance


def _done(request: Request, path: str, code: str) -> Response:
    pages: Pages = request.app.state.pages
    return RedirectResponse(f"{pages.prefix}{path}?done={code}", HTTPStatus.SEE_OTHER)


def _page_of(unit: PartitionKey) -> str:
    return f"/{kind_of(unit.text)}/{quote(unit.root)}"


@router.post("/case/{key}/retry")
@router.post("/course/{key}/retry")
@router.post("/image-set/{key}/retry")
def retry_failed(
    request: Request, visitor: Annotated[Visitor, Depends(Needs(Right.ACT, Action.RETRY))], unit: UNIT
) -> Response:
    """Run once more what has failed."""
    with _opened(request) as (site, instance):
        partitions = partitions_of(instance, site, unit.text, None)
        retry(instance, site, services_of(site), visitor.actor, partitions)
    return _done(request, _page_of(unit), "retry")


@router.post("/case/{key}/cancel")
@router.post("/course/{key}/cancel")
@router.post("/image-set/{key}/cancel")
def cancel_runs(
    request: Request, visitor: Annotated[Visitor, Depends(Needs(Right.ACT, Action.CANCEL))], unit: UNIT
) -> Response:
    """End what is queued or in work."""
    with _opened(request) as (site, instance):
        partitions, services = partitions_of(instance, site, unit.text, None), services_of(site)
        cancel(instance, site, services, visitor.actor, partitions)
        left = await_end(instance, site, services, partitions, _END_SECONDS)
    return _done(request, _page_of(unit), "cancelling" if left else "cancel")


@router.post("/case/{key}/priority")
@router.post("/course/{key}/priority")
@router.post("/image-set/{key}/priority")
def set_priority(
    request: Request,
    visitor: Annotated[Visitor, Depends(Needs(Right.ACT, Action.PRIORITY))],
    unit: UNIT,
    priority: Annotated[int, Form(ge=-100, le=100)],
) -> Response:
    """Say how urgent it is."""
    with _opened(request) as (site, instance):
        make_urgent(instance, site, visitor.actor, unit.root, priority)
    return _done(request, _page_of(unit), "priority")


@router.post("/case/{key}/retake")
@router.post("/course/{key}/retake")
def take_again(
    request: Request, visitor: Annotated[Visitor, Depends(Needs(Right.ACT, Action.RETAKE))], unit: UNIT
) -> Response:
    """Take it in once more."""
    with _opened(request) as (site, instance):
        retake(instance, site, visitor.actor, unit.text)
    return _done(request, _page_of(unit), "retake")


def _review_page(
    request: Request,
    visitor: Visitor,
    unit: PartitionKey,
    status: HTTPStatus = HTTPStatus.OK,
    trouble: str = "",
    reason: str = "",
) -> Response:
    pages: Pages = request.app.state.pages
    with _opened(request) as (site, instance):
        found = review_of(instance, site, unit.text)
    return pages.page(
        request, "review.html", visitor, status=status, review=found, trouble=trouble, reason=reason,
        kind=kind_of(unit.text), back=_page_of(unit),
    )  # fmt: skip


@router.get("/case/{key}/review")
@router.get("/course/{key}/review")
@router.get("/image-set/{key}/review")
def show_review(request: Request, visitor: LOOKS, unit: UNIT) -> Response:
    """What people have said of the results, and the form to sign them."""
    return _review_page(request, visitor, unit)


@router.post("/case/{key}/review")
@router.post("/course/{key}/review")
@router.post("/image-set/{key}/review")
def sign(
    request: Request,
    visitor: Annotated[Visitor, Depends(Needs(Right.REVIEW, Action.REVIEW))],
    unit: UNIT,
    verdict: Annotated[Verdict, Form()],
    seen: Annotated[str, Form(max_length=64)],
    password: Annotated[str, Form(max_length=1000)],
    reason: Annotated[str, Form(max_length=1000)] = "",
) -> Response:
    """Accept or reject the results that were shown."""
    try:
        with _opened(request) as (site, instance):
            review(instance, site, visitor.actor, unit.text, verdict, reason, password, seen)
    except (InputError, SignInError) as error:
        status = HTTPStatus.UNAUTHORIZED if isinstance(error, SignInError) else HTTPStatus.CONFLICT
        return _review_page(request, visitor, unit, status, error.message, reason)
    beam = f"/case/{quote(unit.text)}/review"
    return _done(request, _page_of(unit) if unit.parent is None else beam, verdict.value)


@router.get("/gpu/{host}/{slot}")
async def show_slot(
    request: Request, visitor: Annotated[Visitor, Depends(Needs(Right.POOL))], host: str, slot: str
) -> Response:
    """One slot of the pool, to take it out of service or put it back."""
    pages: Pages = request.app.state.pages
    await request.app.state.live.first()
    return pages.page(request, "gpu.html", visitor, gpu=_slot(request, host, slot))


def _slot(request: Request, host: str, slot: str) -> GpuStatus:
    live: Live = request.app.state.live
    known = live.seen.work.gpus if live.seen.work is not None else []
    for gpu in known:
        if gpu.slot and gpu.host == host and slot in (f"{gpu.kind}{gpu.index}", gpu.uuid):
            return gpu
    raise KeyRejectedError("there is no such slot: the board lists them")


@router.post("/gpu/{host}/{slot}/off")
def take_out(
    request: Request,
    visitor: Annotated[Visitor, Depends(Needs(Right.POOL, Action.GPU_OFF))],
    host: str,
    slot: str,
    reason: Annotated[str, Form(max_length=1000)],
) -> Response:
    """Take a slot out of the pool."""
    with plain_errors():
        switch_off(request.app.state.site, visitor.actor, f"{host}/{slot}", reason.strip())
    return _done(request, "/board", "gpu-off")


@router.post("/gpu/{host}/{slot}/on")
def put_back(
    request: Request,
    visitor: Annotated[Visitor, Depends(Needs(Right.POOL, Action.GPU_ON))],
    host: str,
    slot: str,
) -> Response:
    """Put a slot back into the pool."""
    with plain_errors():
        switch_on(request.app.state.site, visitor.actor, f"{host}/{slot}")
    return _done(request, "/board", "gpu-on")


@router.post("/alarms/{number}/dismiss")
def dismiss_alarm(
    request: Request,
    visitor: Annotated[Visitor, Depends(Needs(Right.ALARMS, Action.ALARM_DISMISSED))],
    number: int,
) -> Response:
    """Clear an alarm that a person has seen."""
    dismiss(request.app.state.site, visitor.actor, number)
    return _done(request, "/board", "dismiss")
