"""What can be done: each action is one call of `operations`, done once however often it is asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import BaseModel

from mqi_dagster.errors import KeyRejectedError, MqiError
from mqi_dagster.ledger.audit import Action
from mqi_dagster.ledger.idempotency import Answer
from mqi_dagster.operations.alarms import dismiss
from mqi_dagster.operations.cancel import cancel
from mqi_dagster.operations.gpus import switch_off, switch_on
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.operations.priority import make_urgent
from mqi_dagster.operations.retake import retake
from mqi_dagster.operations.retry import partitions_of, retry, services_of
from mqi_dagster.operations.review import review
from mqi_dagster.people.rights import Right
from mqi_dagster.resources.site import Site
from mqi_dagster.web.access import Needs, Visitor
from mqi_dagster.web.api.models import Done, PriorityBody, ReasonBody, ReviewBody
from mqi_dagster.web.api.reading import KEY, SEEN, Snapshot, require_known
from mqi_dagster.web.api.rows import Units
from mqi_dagster.web.problems import MEDIA_TYPE, problem
from mqi_dagster.worklist.reading import plain_errors

router = APIRouter()
RETRIES = Annotated[Visitor, Depends(Needs(Right.ACT, Action.RETRY))]
CANCELS = Annotated[Visitor, Depends(Needs(Right.ACT, Action.CANCEL))]
RETAKES = Annotated[Visitor, Depends(Needs(Right.ACT, Action.RETAKE))]
ORDERS = Annotated[Visitor, Depends(Needs(Right.ACT, Action.PRIORITY))]
REVIEWS = Annotated[Visitor, Depends(Needs(Right.REVIEW, Action.REVIEW))]
TAKES_OUT = Annotated[Visitor, Depends(Needs(Right.POOL, Action.GPU_OFF))]
PUTS_BACK = Annotated[Visitor, Depends(Needs(Right.POOL, Action.GPU_ON))]
DISMISSES = Annotated[Visitor, Depends(Needs(Right.ALARMS, Action.ALARM_DISMISSED))]


class Once:
    """A dependency: does what a request asks for, once for each ``Idempotency-Key`` of a visitor."""

    def __init__(
        self,
        request: Request,
        idempotency_key: Annotated[
            str,
            Header(
                max_length=100,
                pattern=r"^[\x21-\x7e]*$",
                description="Of your choice, another one for each action; kept for 24 hours.",
            ),
        ] = "",
    ) -> None:
        self._request, self._key = request, idempotency_key

    def __call__(self, visitor: Visitor, asked: BaseModel | None, act: Callable[[Site], Done]) -> Response:
        """The answer.

        Args:
            visitor: Who asks.
            asked: For what, beside the address.
            act: Does it.

        Raises:
            KeyReusedError: Another request came with this key before.
            AtWorkError: The same request is at work.
        """
        site: Site = self._request.app.state.site
        if not self._key:
            return self._answer(site, act)
        # A password is no part of what is asked for, and must not be guessed from a digest.
        body = None if asked is None else asked.model_dump(mode="json", exclude={"password"})
        wanted = json.dumps([self._request.method, self._request.url.path, body], sort_keys=True)
        digest = hashlib.sha256(wanted.encode()).hexdigest()
        with site.ledger.idempotency.once(visitor.name, self._key, digest) as taken:
            before = taken.before
            if before is not None:
                kind = MEDIA_TYPE if before.status >= HTTPStatus.BAD_REQUEST else "application/json"
                return Response(before.body, before.status, {"Idempotency-Replayed": "true"}, kind)
            response = self._answer(site, act)
            # Another try may do it where something is away, or with the right password.
            if response.status_code not in (HTTPStatus.UNAUTHORIZED, *range(500, 600)):
                taken.answer = Answer(response.status_code, bytes(response.body).decode())
            return response

    def _answer(self, site: Site, act: Callable[[Site], Done]) -> Response:
        try:
            with plain_errors():
                return Response(act(site).model_dump_json(), media_type="application/json")
        except MqiError as error:
            return problem(error, self._request.method)


ONCE = Annotated[Once, Depends()]


@router.post("/{units}/{key}/retry", response_model=Done)
def retry_failed(units: Units, key: KEY, visitor: RETRIES, snapshot: SEEN, once: ONCE) -> Response:
    """Have what failed or was cancelled of a case, a beam or a course run once more."""
    require_known(snapshot, units, key)

    def act(site: Site) -> Done:
        with open_instance(site.settings) as instance:
            partitions = partitions_of(instance, site, key, None)
            launched = retry(instance, site, services_of(site), visitor.actor, partitions)
        return Done(subject=key, runs=launched, text=f"{len(launched)} started")

    return once(visitor, None, act)


@router.post("/{units}/{key}/cancel", response_model=Done)
def cancel_work(units: Units, key: KEY, visitor: CANCELS, snapshot: SEEN, once: ONCE) -> Response:
    """End what is queued or in work of a case, a beam or a course, its engines and jobs too.

    They end within minutes: the state says when.
    """
    require_known(snapshot, units, key)

    def act(site: Site) -> Done:
        with open_instance(site.settings) as instance:
            partitions = partitions_of(instance, site, key, None)
            ended = cancel(instance, site, services_of(site), visitor.actor, partitions)
        return Done(subject=key, runs=ended, text=f"{len(ended)} end")

    return once(visitor, None, act)


@router.post("/{units}/{key}/retake", response_model=Done)
def retake_arrival(units: Units, key: KEY, visitor: RETAKES, snapshot: SEEN, once: ONCE) -> Response:
    """Have a case or a course taken in once more, although its files are as they were."""
    require_known(snapshot, units, key)

    def act(site: Site) -> Done:
        with open_instance(site.settings) as instance:
            retake(instance, site, visitor.actor, key)
        return Done(subject=key, text="taken in anew at the next look")

    return once(visitor, None, act)


@router.post("/{units}/{key}/priority", response_model=Done)
def set_priority(
    units: Units, key: KEY, body: PriorityBody, visitor: ORDERS, snapshot: SEEN, once: ONCE
) -> Response:
    """Say how urgent a case or a course is."""
    require_known(snapshot, units, key)

    def act(site: Site) -> Done:
        with open_instance(site.settings) as instance:
            moved = make_urgent(instance, site, visitor.actor, key, body.priority)
        return Done(subject=key, text=f"priority {body.priority}; {moved} of its runs are in the queue")

    return once(visitor, body, act)


@router.post("/{units}/{key}/review", response_model=Done)
def sign_review(
    units: Units, key: KEY, body: ReviewBody, visitor: REVIEWS, snapshot: SEEN, once: ONCE
) -> Response:
    """Accept or reject the results of a case, a beam or a course by a signature."""
    require_known(snapshot, units, key)

    def act(site: Site) -> Done:
        with open_instance(site.settings) as instance:
            made = review(
                instance, site, visitor.actor, key, body.verdict, body.reason, body.password, body.seen
            )
        return Done(subject=key, text=f"{made.verdict.value} by {made.full_name}")

    return once(visitor, body, act)


def _slot(snapshot: Snapshot, host: str, gpu: str) -> str:
    known = {
        name
        for row in snapshot.work.gpus
        if row.host == host
        for name in (str(row.index), row.uuid, f"{row.kind}{row.index}")
    }
    if gpu not in known:
        raise KeyRejectedError("there is no such slot; GET gpus lists them")
    return f"{host}/{gpu}"


@router.post("/gpus/{host}/{gpu}/off", response_model=Done)
def gpu_off(
    host: str, gpu: str, body: ReasonBody, visitor: TAKES_OUT, snapshot: SEEN, once: ONCE
) -> Response:
    """Take a GPU or slot out of the pool; the beam that has it keeps it to its end."""
    slot = _slot(snapshot, host, gpu)

    def act(site: Site) -> Done:
        name, limit = switch_off(site, visitor.actor, slot, body.reason)
        return Done(subject=name, text=f"out of the pool; at most {limit} runs simulate or wait")

    return once(visitor, body, act)


@router.post("/gpus/{host}/{gpu}/on", response_model=Done)
def gpu_on(host: str, gpu: str, visitor: PUTS_BACK, snapshot: SEEN, once: ONCE) -> Response:
    """Put a GPU or slot back into the pool."""
    slot = _slot(snapshot, host, gpu)

    def act(site: Site) -> Done:
        name, limit = switch_on(site, visitor.actor, slot)
        return Done(subject=name, text=f"in the pool; at most {limit} runs simulate or wait")

    return once(visitor, None, act)


@router.post("/alarms/{number}/dismiss", response_model=Done)
def dismiss_alarm(number: int, visitor: DISMISSES, once: ONCE) -> Response:
    """Clear an alarm that a person has seen; a state that goes on raises it anew."""

    def act(site: Site) -> Done:
        if not any(alarm.id == number for alarm in site.ledger.alarms.open()):
            raise KeyRejectedError("no open alarm has this number; GET alarms lists them")
        dismiss(site, visitor.actor, number)
        return Done(subject=str(number), text="dismissed")

    return once(visitor, None, act)
