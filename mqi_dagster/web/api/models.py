"""What the programming interface takes and gives beside the rows of the boards, for server and client."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from mqi_dagster.ledger.audit import Outcome
from mqi_dagster.ledger.signatures import Verdict
from mqi_dagster.operations.review import ReviewState
from mqi_dagster.people.rights import Right
from mqi_dagster.worklist import CaseState, Stage
from mqi_dagster.worklist.board_rows import StatusRow

LONGEST_PAGE = 500
ONE_LINE = r"^[^\x00-\x1f\x7f]*$"
Row = TypeVar("Row")


class Page(StatusRow, Generic[Row]):
    """Some of the rows that were asked for."""

    items: list[Row]
    total: int | None
    """How many there are on all pages; None where that is not counted."""
    next: str | None = None
    """Cursor of the next page; None on the last one. The header ``Link`` has its whole address."""
    at: datetime
    """When this was read; earlier than a few seconds ago where ``trouble`` says why."""
    trouble: str = ""
    """Why it cannot be read at this moment; empty where it can."""


class AuditEntry(StatusRow):
    """One row of the audit."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    at: datetime
    actor: str
    via: str
    action: str
    subject: str
    outcome: Outcome
    details: str
    """JSON object of texts."""
    previous: str
    hash: str


class Me(StatusRow):
    """Whoever asks."""

    name: str
    full_name: str
    via: str
    """``pages``, or ``token:<id>``."""
    rights: list[Right]


class Kind(StrEnum):
    """Kind of a partition."""

    CASE = "case"
    BEAM = "beam"
    COURSE = "course"
    IMAGE_SET = "image_set"


class StatusChange(StatusRow):
    """A case, a beam or a course stands elsewhere."""

    at: datetime
    """When it was seen."""
    kind: Kind
    partition: str
    state: CaseState | None
    """None of what is not there any more."""
    stage: Stage | None
    reason: str = ""
    """Why it waits, or the first cause of its failure."""


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str
    """``urn:mqi:error:<code>``, as docs/checks.md lists them, or ``about:blank``."""
    title: str
    status: int
    detail: str = ""
    """One line: what is wrong, and what to do."""


class Body(BaseModel):
    """What a request asks for."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Line = Annotated[str, Field(min_length=1, max_length=200, pattern=ONE_LINE)]


class PriorityBody(Body):
    """How urgent a case is."""

    priority: int = Field(ge=-100, le=100)
    """Higher ones come first; 0 is ordinary."""


class ReasonBody(Body):
    """Why something is done."""

    reason: Line


class ReviewBody(Body):
    """A signature: results are accepted or rejected."""

    verdict: Verdict
    reason: str = Field("", max_length=500, pattern=ONE_LINE)
    """One line; needed to reject."""
    password: Annotated[str, Field(max_length=200, repr=False)]
    """Of the account, once more."""
    seen: str | None = None
    """`seen` of the review that was read: nothing else is signed; None: whatever stands at that moment."""


class SignatureRow(StatusRow):
    """One signature."""

    model_config = ConfigDict(from_attributes=True)

    verdict: Verdict
    reason: str
    user: str
    full_name: str
    digests: dict[str, str]
    """Digest by asset: what was signed."""
    signed_at: datetime


class ReviewRow(StatusRow):
    """What people have said of the results of a partition, and what a signature would be of."""

    model_config = ConfigDict(from_attributes=True)

    partition: str
    state: ReviewState
    why_not: str
    """Why nothing can be signed; empty where it can."""
    changed: list[str]
    """Assets of which another result stands there than the one that was signed."""
    seen: str
    """Digest of everything that stands there."""
    digests: dict[str, str]
    history: list[SignatureRow]
    """The newest first."""


class Done(StatusRow):
    """What an action has done."""

    subject: str
    """The partition, slot or alarm."""
    runs: dict[str, str] = Field(default_factory=dict)
    """Run or backfill id by partition, of what was begun or ended."""
    text: str = ""
    """One line for people."""
