"""The worklist: what needs a person on top, then what is in work, what waits, and what is concluded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, TypeVar
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import RedirectResponse
from sse_starlette.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.operations.patient_search import find_patient
from mqi_dagster.people.rights import Right
from mqi_dagster.web.access import LOOKS, Needs, Visitor, still
from mqi_dagster.web.identities import Identities
from mqi_dagster.web.live import Live
from mqi_dagster.web.render import Pages
from mqi_dagster.web.words import _
from mqi_dagster.worklist.selection import Column, Selection, Turn, machines_of, select

router = APIRouter(include_in_schema=False)
KINDS = tuple(pipeline.units.kind.name for pipeline in PIPELINES)
DAYS = (1, 7, 30)
_LONGEST_TEXT = 100
_MOST_KEYS = 100
_LARGEST_FIRST = (Column.PROGRESS, Column.ARRIVED, Column.PRIORITY)
_Word = TypeVar("_Word", Turn, Column)


@dataclass(frozen=True, slots=True)
class View:
    """What an address of the worklist asks for; what it does not understand it leaves out."""

    selection: Selection
    looked: str = ""
    """How far a search for a patient has come, where not to its end."""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> View:
        """The view of an address."""

        def one(name: str, words: type[_Word]) -> _Word | None:
            return words(query[name]) if query.get(name) in tuple(words) else None

        def number(name: str) -> int | None:
            text = query.get(name, "")
            return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else None

        keys, column = query.get("keys"), one("sort", Column) or Column.TURN
        return cls(
            Selection(
                text=query.get("q", "")[:_LONGEST_TEXT].strip(),
                turn=one("state", Turn),
                kind=query["kind"] if query.get("kind") in KINDS else "",
                machine=query.get("machine", "")[:_LONGEST_TEXT],
                days=number("since") or None,
                keys=None if keys is None else frozenset(keys.split(",")[:_MOST_KEYS]) - {""},
                column=column,
                descending=query.get("order", "down" if column in _LARGEST_FIRST else "up") == "down",
                page=number("page") or 1,
            ),
            looked=query.get("looked", "")[:20],
        )

    def query(self, **changes: object) -> str:
        """The address of a view that differs in something, without the path; a change begins at page 1."""
        now = self.selection
        values: dict[str, object] = {
            "q": now.text,
            "state": now.turn,
            "kind": now.kind,
            "machine": now.machine,
            "since": now.days,
            "keys": None if now.keys is None else ",".join(sorted(now.keys)),
            "sort": now.column if now.column is not Column.TURN else None,
            "order": None if now.descending is (now.column in _LARGEST_FIRST) else self._way,
            **changes,
        }
        kept = {
            name: value for name, value in values.items() if value is not None and (value or name == "keys")
        }
        return "?" + urlencode(kept)

    @property
    def _way(self) -> str:
        return "down" if self.selection.descending else "up"

    def by(self, column: str) -> str:
        """The address of this view ordered by a column; by the present one the other way round."""
        wanted, now = Column(column), self.selection
        if wanted is not now.column:
            return self.query(sort=None if wanted is Column.TURN else wanted, order=None)
        usual = now.descending is (wanted in _LARGEST_FIRST)
        return self.query(order=("up" if now.descending else "down") if usual else None)

    def sorted_by(self, column: str) -> str:
        """What ``aria-sort`` says of a column."""
        if self.selection.column != column:
            return "none"
        return "descending" if self.selection.descending else "ascending"

    @property
    def narrowed(self) -> bool:
        """Whether it leaves anything out."""
        now = self.selection
        return bool(now.text or now.turn or now.kind or now.machine or now.days or now.keys is not None)


def _part(request: Request, visitor: Visitor, view: View) -> str:
    live: Live = request.app.state.live
    work, wanted = live.seen.work, view.selection
    selected = None if work is None else live.made(("selected", wanted), lambda: select(work, wanted))
    identities: Identities = request.app.state.identities
    shown = selected.rows if selected is not None and visitor.may("identity") else ()
    people = identities.of(live.instance, visitor.actor, (row.case for _, row in shown))
    return live.part(
        request.app.state.pages,
        visitor,
        "_worklist.html",
        (view, people),
        lambda: {"view": view, "selected": selected, "people": people, "turns": tuple(Turn)},
    )


def _column_names() -> list[tuple[Column, str]]:
    return [
        (Column.TURN, _("Status")),
        (Column.CASE, _("Case, course or image set")),
        (Column.STAGE, _("Stage")),
        (Column.PROGRESS, _("Progress")),
        (Column.MACHINE, _("Machine")),
        (Column.FRACTION, _("Fraction")),
        (Column.ARRIVED, _("Arrived")),
        (Column.PRIORITY, _("Priority")),
    ]


@router.get("/")
async def show_worklist(request: Request, visitor: LOOKS) -> Response:
    """The page."""
    pages: Pages = request.app.state.pages
    live: Live = request.app.state.live
    view = View.of(request.query_params)
    work = (await live.first()).work
    part = await run_in_threadpool(_part, request, visitor, view)
    machines = machines_of(work.cases) if work is not None else []
    return pages.page(
        request, "worklist.html", visitor, part=part, view=view, kinds=KINDS, days=DAYS, machines=machines,
        columns=_column_names(),
    )  # fmt: skip


@router.get("/stream/worklist")
async def stream_worklist(request: Request, visitor: LOOKS) -> Response:
    """What of it changes."""
    live: Live = request.app.state.live
    view = View.of(request.query_params)
    render = lambda: run_in_threadpool(_part, request, visitor, view)  # noqa: E731
    return EventSourceResponse(live.stream(render, still(request, Needs(Right.LOOK))))


@router.post("/patients")
def search_patient(
    request: Request,
    visitor: Annotated[Visitor, Depends(Needs(Right.IDENTITY))],
    patient: Annotated[str, Form(max_length=_LONGEST_TEXT)],
) -> Response:
    """The rows of a patient: no name stands in an address, so that the keys do."""
    live: Live = request.app.state.live
    pages: Pages = request.app.state.pages
    work, instance = live.seen.work, live.instance
    if work is None or instance is None:
        raise InfrastructureError("the site's records cannot be read now: search again in a while")
    newest = sorted(work.cases, key=lambda row: row.arrived.timestamp() if row.arrived else 0.0, reverse=True)
    found = find_patient(
        request.app.state.site, instance, visitor.actor, patient, (row.case for row in newest)
    )
    query = {"keys": ",".join(found.keys[:_MOST_KEYS])}
    if found.looked < found.of:
        query["looked"] = f"{found.looked}/{found.of}"
    return RedirectResponse(f"{pages.prefix}/?{urlencode(query)}", HTTPStatus.SEE_OTHER)
