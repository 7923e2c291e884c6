"""What can be read: the rows of the boards, results as numbers, the audit, and who asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, TypeVar
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import BaseModel, Field, RootModel
from starlette.exceptions import HTTPException

from mqi_dagster.errors import InfrastructureError, InputError, KeyRejectedError, StoreError
from mqi_dagster.ledger.audit import Action
from mqi_dagster.operations.audit import SUBJECT, read_audit, selection
from mqi_dagster.operations.course_results import CourseResult, course_result
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.operations.results import BeamRow, beam_rows
from mqi_dagster.operations.review import review_of
from mqi_dagster.operations.segmentation_request import RequestStanding, standing
from mqi_dagster.partitions import CASE, COURSE, IMAGE_SET, PartitionKind, whole_kind
from mqi_dagster.people.rights import Right
from mqi_dagster.resources.site import Site
from mqi_dagster.web.access import LOOKS, SIGNED_IN, Needs, Visitor
from mqi_dagster.web.api.models import ONE_LINE, AuditEntry, Me, Page, ReviewRow
from mqi_dagster.web.api.paging import Listing, Paging, foreign_cursor, read_cursor, select_rows, write_cursor
from mqi_dagster.web.api.rows import Units, key_of, kind_of, rows_of
from mqi_dagster.web.live import Live, Seen
from mqi_dagster.worklist import AlarmStatus, BeamStatus, CaseStatus, GpuStatus, QueueStatus, Work
from mqi_dagster.worklist.reading import plain_errors

router = APIRouter()
Found = TypeVar("Found", CaseStatus, BeamStatus)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was read last, for one request."""

    work: Work
    seen: Seen
    tag: str
    """The ``ETag`` of everything that is read of it."""
    known: bool
    """Whether whoever asks has it already."""

    def answer(self, make: Callable[[], BaseModel], **headers: str) -> Response:
        """The answer, made only where it is not known."""
        told = {"ETag": self.tag, "Cache-Control": "private, no-cache", **headers}
        if self.known:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=told)
        return Response(make().model_dump_json(), headers=told, media_type="application/json")


async def _snapshot(request: Request, if_none_match: Annotated[str, Header()] = "") -> Snapshot:
    live: Live = request.app.state.live
    seen = await live.first()
    if seen.work is None:
        raise InfrastructureError(seen.error or "the boards are being read for the first time: ask again")
    tag = f'W/"{live.began}-{seen.version}"'
    asked = [one.strip() for one in if_none_match.split(",")]
    return Snapshot(seen.work, seen, tag, tag in asked or "*" in asked)


SEEN = Annotated[Snapshot, Depends(_snapshot)]
KEY = Annotated[str, Path(description="Key of the partition.")]
LISTING = Annotated[Listing, Query()]


def _listed(
    request: Request, snapshot: Snapshot, rows: Iterable[Found], wanted: Listing, model: type[Page[Found]]
) -> Response:
    items, total, following = select_rows(rows, wanted)
    headers = {} if following is None else {"Link": _next(request, following)}
    return snapshot.answer(
        lambda: model(
            items=items, total=total, next=following, at=snapshot.work.at, trouble=snapshot.seen.error
        ),
        **headers,
    )


def _next(request: Request, cursor: str) -> str:
    prefix: str = request.app.state.pages.prefix
    query = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
    path = request.url.path.removeprefix(prefix)
    return f'<{prefix}{path}?{urlencode([*query, ("cursor", cursor)])}>; rel="next"'


def require_known(snapshot: Snapshot, units: Units, key: str) -> None:
    """Check that there is a case, beam, course or image set of a key.

    Raises:
        KeyRejectedError: There is none.
    """
    rows = (row for row in rows_of(snapshot.work) if key_of(row) == key)
    if not any(f"{kind_of(row).value}s" == units.value for row in rows):
        raise KeyRejectedError(f"none of the {units.value} has this key; GET {units.value} lists them")


def _of(work: Work, kind: PartitionKind) -> Iterator[CaseStatus]:
    return (row for row in work.cases if whole_kind(row.case) is kind)


def _case(work: Work, key: str, kind: PartitionKind) -> CaseStatus:
    found = next((row for row in _of(work, kind) if row.case == key), None)
    if found is None:
        what = kind.name
        raise KeyRejectedError(f"no {what.replace('_', ' ')} has this key; GET {what}s lists them")
    return found


@router.get("/me")
def me(visitor: SIGNED_IN) -> Me:
    """Who asks, and what they may do."""
    actor = visitor.actor
    return Me(name=actor.name, full_name=visitor.full_name, via=actor.via, rights=sorted(actor.rights))


@router.get("/work", response_model=Work)
def work(visitor: LOOKS, snapshot: SEEN) -> Response:
    """Everything at one moment: what `mqi top --json` prints."""
    return snapshot.answer(lambda: snapshot.work)


@router.get("/cases", response_model=Page[CaseStatus])
def cases(request: Request, visitor: LOOKS, snapshot: SEEN, wanted: LISTING) -> Response:
    """The cases."""
    rows = _of(snapshot.work, CASE)
    return _listed(request, snapshot, rows, wanted, Page[CaseStatus])


@router.get("/cases/{key}", response_model=CaseStatus)
def case(key: str, visitor: LOOKS, snapshot: SEEN) -> Response:
    """One case."""
    row = _case(snapshot.work, key, CASE)
    return snapshot.answer(lambda: row)


@router.get("/cases/{key}/beams", response_model=Page[BeamStatus])
def beams_of_case(request: Request, key: str, visitor: LOOKS, snapshot: SEEN, wanted: LISTING) -> Response:
    """The beams of a case."""
    _case(snapshot.work, key, CASE)
    rows = (row for row in snapshot.work.beams if row.case == key)
    return _listed(request, snapshot, rows, wanted, Page[BeamStatus])


# A place is for whoever may see it, on the page of the case.
@router.get("/cases/{key}/results", response_model_exclude={"__all__": {"rt_dose"}})
def results_of_case(request: Request, key: str, visitor: LOOKS, snapshot: SEEN) -> list[BeamRow]:
    """What came of the beams of a case, in numbers; nothing before it was taken in."""
    _case(snapshot.work, key, CASE)
    site: Site = request.app.state.site
    with plain_errors(), open_instance(site.settings) as instance:
        try:
            return beam_rows(instance, site, key)
        except StoreError:
            return []


@router.get("/beams", response_model=Page[BeamStatus])
def beams(request: Request, visitor: LOOKS, snapshot: SEEN, wanted: LISTING) -> Response:
    """The beams of all cases."""
    return _listed(request, snapshot, snapshot.work.beams, wanted, Page[BeamStatus])


@router.get("/beams/{key}", response_model=BeamStatus)
def beam(key: str, visitor: LOOKS, snapshot: SEEN) -> Response:
    """One beam."""
    row = next((row for row in snapshot.work.beams if row.beam == key), None)
    if row is None:
        raise KeyRejectedError("no beam has this key; GET beams lists them")
    return snapshot.answer(lambda: row)


@router.get("/courses", response_model=Page[CaseStatus])
def courses(request: Request, visitor: LOOKS, snapshot: SEEN, wanted: LISTING) -> Response:
    """The courses."""
    rows = _of(snapshot.work, COURSE)
    return _listed(request, snapshot, rows, wanted, Page[CaseStatus])


@router.get("/courses/{key}", response_model=CaseStatus)
def course(key: str, visitor: LOOKS, snapshot: SEEN) -> Response:
    """One course."""
    row = _case(snapshot.work, key, COURSE)
    return snapshot.answer(lambda: row)


@router.get("/courses/{key}/results", response_model_exclude={"page"})
def results_of_course(request: Request, key: str, visitor: LOOKS, snapshot: SEEN) -> CourseResult:
    """What came of a course: its verdict, and the digests of what was made."""
    row = _case(snapshot.work, key, COURSE)
    site: Site = request.app.state.site
    with plain_errors(), open_instance(site.settings) as instance:
        found = course_result(instance, site, key, None)
    return found.model_copy(update={"status": row.state, "error": row.reason or None})


@router.get("/image_sets", response_model=Page[CaseStatus])
def image_sets(request: Request, visitor: LOOKS, snapshot: SEEN, wanted: LISTING) -> Response:
    """The image sets that are segmented on request."""
    return _listed(request, snapshot, _of(snapshot.work, IMAGE_SET), wanted, Page[CaseStatus])


@router.get("/image_sets/{key}", response_model=CaseStatus)
def image_set(key: str, visitor: LOOKS, snapshot: SEEN) -> Response:
    """One image set."""
    row = _case(snapshot.work, key, IMAGE_SET)
    return snapshot.answer(lambda: row)


# Identifiers of a PACS are for whoever may ask.
@router.get(
    "/image_sets/{key}/results",
    response_model_exclude={"series": True, "result": {"segmentation", "report"}},
)
def results_of_image_set(request: Request, key: str, visitor: LOOKS, snapshot: SEEN) -> RequestStanding:
    """Where its request stands, and what the model has found: volumes in mm³ and voxels."""
    _case(snapshot.work, key, IMAGE_SET)
    site: Site = request.app.state.site
    with plain_errors(), open_instance(site.settings) as instance:
        return standing(site, instance, key)


@router.get("/{units}/{key}/review")
def review_state(request: Request, units: Units, key: KEY, visitor: LOOKS, snapshot: SEEN) -> ReviewRow:
    """What people have said of the results of a case, a beam or a course."""
    require_known(snapshot, units, key)
    site: Site = request.app.state.site
    with plain_errors(), open_instance(site.settings) as instance:
        return ReviewRow.model_validate(review_of(instance, site, key))


class Gpus(RootModel[list[GpuStatus]]):
    """Every slot of the pool, and every device seen that is none."""


@router.get("/gpus", response_model=Gpus)
def gpus(visitor: LOOKS, snapshot: SEEN) -> Response:
    """Every slot of the pool, and every device seen that is none."""
    return snapshot.answer(lambda: Gpus(snapshot.work.gpus))


@router.get("/queue", response_model=QueueStatus)
def queue(visitor: LOOKS, snapshot: SEEN) -> Response:
    """The run queue and its limits."""
    return snapshot.answer(lambda: snapshot.work.queue)


class Alarms(RootModel[list[AlarmStatus]]):
    """What a person should know now."""


@router.get("/alarms", response_model=Alarms)
def alarms(visitor: LOOKS, snapshot: SEEN) -> Response:
    """What a person should know now: what stops the whole site first, then the newest."""
    return snapshot.answer(lambda: Alarms(snapshot.work.alarms))


class AuditQuery(Paging):
    """Which rows of the audit."""

    subject: str = Field(
        "", pattern=ONE_LINE, max_length=255, description="Only about this partition and its parts."
    )
    actor: str = Field("", pattern=ONE_LINE, max_length=100, description="Only of this actor.")
    action: Action | None = Field(None, description="Only of this kind.")
    first: str = Field("", max_length=10, description="From this day in the site's zone on, `2026-01-31`.")
    last: str = Field("", max_length=10, description="Up to this day, that counts.")


@router.get("/audit")
def audit(
    request: Request,
    response: Response,
    visitor: Annotated[Visitor, Depends(Needs(Right.AUDIT))],
    wanted: Annotated[AuditQuery, Query()],
) -> Page[AuditEntry]:
    """The audit, the newest row first; that it was read stands in it, too."""
    site: Site = request.app.state.site
    before = read_cursor(wanted.cursor, SUBJECT) if wanted.cursor else (None,)
    if len(before) != 1 or not (before[0] is None or (type(before[0]) is int and 0 < before[0] < 2**31)):
        raise foreign_cursor()
    try:
        chosen = selection(site, wanted.actor, wanted.subject, wanted.action or "", wanted.first, wanted.last)
    except InputError as error:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, error.message) from None
    rows = read_audit(site, visitor.actor, chosen, wanted.limit + 1, before=before[0])
    following = None
    if len(rows) > wanted.limit:
        following = write_cursor(SUBJECT, (rows[wanted.limit - 1].number,))
        response.headers["Link"] = _next(request, following)
    items = [AuditEntry.model_validate(row) for row in rows[: wanted.limit]]
    return Page(items=items, total=None, next=following, at=site.ledger.database.clock())
