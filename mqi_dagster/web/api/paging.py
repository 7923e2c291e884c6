"""Filters, order and pages of lists. A cursor names the last row seen: the next page begins behind it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from mqi_dagster.web.api.models import LONGEST_PAGE
from mqi_dagster.web.api.rows import AnyRow, key_of
from mqi_dagster.worklist import BeamStatus, CaseState, CaseStatus, Stage
from mqi_dagster.worklist.partition_index import board_order

Row = TypeVar("Row", bound=AnyRow)
Place = tuple[Any, ...]
"""What decides where a row stands, its key last."""


class Paging(BaseModel):
    """Which page of a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(100, ge=1, le=LONGEST_PAGE, description="Rows of a page at most.")
    cursor: str = Field("", max_length=1000, description="`next` of the page before.")


class Sort(StrEnum):
    """By what a list is ordered."""

    BOARD = "board"
    """What is in work first, then what has failed, what waits, and what is over, the latest first."""
    KEY = "key"
    SINCE = "since"
    PRIORITY = "priority"
    PERCENT = "percent"


class Listing(Paging):
    """Which rows, and in which order."""

    state: list[CaseState] = Field([], description="Only in one of these states.")
    stage: list[Stage] = Field([], description="Only at one of these stages.")
    machine: list[str] = Field([], max_length=50, description="Only cases of one of these machines.")
    q: str = Field("", max_length=200, description="Only with this text in key, label or reason.")
    sort: Sort = Field(Sort.BOARD, description="By what they are ordered.")
    order: Literal["asc", "desc"] = Field("asc", description="Which end comes first.")


_PLACES: dict[Sort, Callable[[AnyRow], tuple[float, ...]]] = {
    Sort.BOARD: board_order,
    Sort.KEY: lambda row: (),
    Sort.SINCE: lambda row: (row.since.timestamp() if row.since is not None else 0.0,),
    Sort.PRIORITY: lambda row: (row.priority,),
    Sort.PERCENT: lambda row: (row.percent,),
}


def _is_wanted(row: AnyRow, wanted: Listing) -> bool:
    if (wanted.state and row.state not in wanted.state) or (wanted.stage and row.stage not in wanted.stage):
        return False
    if wanted.machine and not (isinstance(row, CaseStatus) and row.machine in wanted.machine):
        return False
    label = row.label if isinstance(row, BeamStatus) else ""
    text = wanted.q.casefold()
    return not text or any(text in part.casefold() for part in (key_of(row), label, row.reason))


def select_rows(rows: Iterable[Row], wanted: Listing) -> tuple[list[Row], int, str | None]:
    """One page of some rows.

    Returns:
        Its rows, how many there are on all pages, and the cursor of the next one.

    Raises:
        HTTPException: The cursor is of another list.
    """
    falls = wanted.order == "desc"
    found = [((*_PLACES[wanted.sort](row), key_of(row)), row) for row in rows if _is_wanted(row, wanted)]
    found.sort(key=lambda one: one[0], reverse=falls)
    total, name = len(found), f"{wanted.sort.value} {wanted.order}"
    if wanted.cursor:
        after = read_cursor(wanted.cursor, name)
        try:
            found = [one for one in found if (one[0] < after if falls else one[0] > after)]
        except TypeError:
            raise foreign_cursor() from None
    page = found[: wanted.limit]
    following = write_cursor(name, page[-1][0]) if len(found) > len(page) else None
    return [row for _, row in page], total, following


def foreign_cursor() -> HTTPException:
    """What is wrong with a cursor that was not made for a list."""
    return HTTPException(
        HTTPStatus.UNPROCESSABLE_ENTITY, "this cursor is of another list: begin at the first page"
    )


def write_cursor(name: str, place: Place) -> str:
    """A place in a list as text that may stand in an address.

    Args:
        name: Of the list, or its order.
        place: Of its row.
    """
    return base64.urlsafe_b64encode(json.dumps([name, *place]).encode()).decode().rstrip("=")


def read_cursor(cursor: str, name: str) -> Place:
    """The place that `write_cursor` has written.

    Raises:
        HTTPException: It is none, or of another list.
    """
    try:
        found = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if found[0] == name:
            return tuple(found[1:])
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, binascii.Error):
        pass
    raise foreign_cursor()
