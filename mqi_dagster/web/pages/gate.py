"""What a proxy asks before it lets anybody through to Dagster's pages."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from mqi_dagster.operations.gate import DagsterGate
from mqi_dagster.web.access import LOOKS

router = APIRouter(include_in_schema=False)
HEADER = "X-MQI-Dagster"
"""Tells the proxy which of the two: `everything` or `read-only`."""


@router.get("/gate/dagster")
def may_enter_dagster(request: Request, visitor: LOOKS) -> Response:
    """204 for who may, with which pages; 401 and 403 for others, as `auth_request` wants it."""
    gate: DagsterGate = request.app.state.gate
    session = visitor.actor.via if visitor.session is None else visitor.session.fingerprint
    which = "everything" if gate.enter(visitor.actor, session) else "read-only"
    return Response(status_code=HTTPStatus.NO_CONTENT, headers={HEADER: which})
