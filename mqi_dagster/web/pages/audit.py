"""The audit: who did what; filtered, exported, verified."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from fastapi.responses import StreamingResponse

from mqi_dagster.errors import InputError
from mqi_dagster.ledger.audit import Action
from mqi_dagster.operations.audit import (
    ExportFormat,
    Selection,
    details_of,
    export_audit,
    read_audit,
    selection,
    verify_audit,
)
from mqi_dagster.people.rights import Right
from mqi_dagster.web.access import Needs, Visitor
from mqi_dagster.web.once import Once, Told, afterwards
from mqi_dagster.web.render import Pages
from mqi_dagster.web.words import _

router = APIRouter(prefix="/audit", include_in_schema=False)
Auditor = Annotated[Visitor, Depends(Needs(Right.AUDIT))]
Short = Annotated[str, Query(max_length=300)]
ROWS = 100
_MEDIA = {ExportFormat.JSONL: "application/x-ndjson", ExportFormat.CSV: "text/csv; charset=utf-8"}


class Filter:
    """Which rows somebody asks for, as the address says it."""

    def __init__(
        self,
        request: Request,
        actor: Short = "",
        subject: Short = "",
        action: Short = "",
        first: Short = "",
        last: Short = "",
    ) -> None:
        asked = {"actor": actor, "subject": subject, "action": action, "first": first, "last": last}
        self.asked = {name: text.strip() for name, text in asked.items()}
        self._site = request.app.state.site

    @property
    def query(self) -> str:
        """The same as a part of an address."""
        return urlencode({name: text for name, text in self.asked.items() if text})

    def selection(self) -> Selection:
        """The rows; InputError where there is no such day or action."""
        return selection(self._site, **self.asked)


Filtered = Annotated[Filter, Depends()]


@router.get("")
def show_audit(
    request: Request,
    visitor: Auditor,
    wanted: Filtered,
    before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
) -> Response:
    """The newest rows."""
    pages: Pages = request.app.state.pages
    once: Once = request.app.state.once
    trouble, rows = "", []
    try:
        chosen = wanted.selection()
    except InputError as error:
        trouble = error.message
    else:
        rows = read_audit(request.app.state.site, visitor.actor, chosen, ROWS + 1, before=before)
    return pages.page(
        request,
        "audit.html",
        visitor,
        told=once.take(visitor),
        trouble=trouble,
        asked=wanted.asked,
        query=wanted.query,
        before=before,
        rows=rows[:ROWS],
        more=len(rows) > ROWS,
        actions=tuple(Action),
        details_of=details_of,
    )


@router.get("/export")
def export(
    request: Request, visitor: Auditor, wanted: Filtered, format: ExportFormat = ExportFormat.JSONL
) -> Response:
    """The rows as a file, the oldest first."""
    lines = export_audit(request.app.state.site, visitor.actor, wanted.selection(), format)
    name = f'attachment; filename="audit.{format.value}"'
    return StreamingResponse(lines, media_type=_MEDIA[format], headers={"Content-Disposition": name})


@router.post("/verify")
def verify(
    request: Request,
    visitor: Auditor,
    number: Annotated[str, Form(max_length=20)] = "",
    hash: Annotated[str, Form(max_length=100)] = "",
) -> Response:
    """Recompute every hash, and say what is to be noted outside."""

    def act() -> Told:
        noted = number.strip()
        if noted and not noted.isdecimal():
            raise InputError(_("The number of a row is a number."))
        newest = verify_audit(
            request.app.state.site,
            visitor.actor,
            number=int(noted) if noted else None,
            expected=hash.strip() or None,
        )
        if newest is None:
            return Told(_("The audit is empty."))
        text = _(
            "The audit is whole: no row was changed, removed or put in. Note its newest row outside of this"
            " machine; with it a later look proves that nothing up to it was rewritten. Row {number}, hash:"
        )
        return Told(text.format(number=newest.number), secret=newest.hash)

    return afterwards(request, visitor, "/audit#verify", act)
