"""Reading, exporting and verifying the audit; that somebody has read it stands in it, too."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, fields
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Any

from mqi_dagster.errors import InputError
from mqi_dagster.ledger.audit import Action, AuditRow, Outcome
from mqi_dagster.people.rights import Actor, Right
from mqi_dagster.resources.site import Site

SUBJECT = "audit"
_ONCE_IN = timedelta(hours=1)
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20\t\r\n")
"""What a spreadsheet would compute; the wide ones where East Asian letters are typed."""


class ExportFormat(StrEnum):
    """Of an export."""

    JSONL = "jsonl"
    """A JSON object in each line: what the hashes were made of, word for word."""
    CSV = "csv"
    """For spreadsheets."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of the audit; empty: all."""

    actor: str = ""
    subject: str = ""
    """A partition with its parts, or another subject."""
    action: Action | None = None
    since: datetime | None = None
    until: datetime | None = None
    """The first moment that does not count."""


def selection(
    site: Site, actor: str = "", subject: str = "", action: str = "", first: str = "", last: str = ""
) -> Selection:
    """A selection as people ask for it.

    Args:
        site: The site.
        actor: Login.
        subject: See `Selection`.
        action: Of `Action`.
        first: Day in the site's zone, ``YYYY-MM-DD``.
        last: The last day that counts.

    Raises:
        InputError: There is no such action or day.
    """

    def begins(day: str, later: int = 0) -> datetime | None:
        after = date.fromisoformat(day) + timedelta(days=later) if day else None
        return None if after is None else datetime.combine(after, time(), site.timezone).astimezone(UTC)

    try:
        since, until = begins(first), begins(last, 1)
    except (ValueError, OverflowError):
        raise InputError("a day is written as 2026-01-31") from None
    if not (actor + subject).isprintable():
        raise InputError("an actor and a subject are one line that can be printed")
    if action and action not in tuple(Action):
        raise InputError(f"an action is one of {', '.join(Action)}")
    return Selection(actor, subject, Action(action) if action else None, since, until)


def read_audit(
    site: Site, actor: Actor, wanted: Selection, limit: int, *, before: int | None = None
) -> list[AuditRow]:
    """Rows, the newest first; who reads is noted once an hour.

    Args:
        site: The site.
        actor: Who reads.
        wanted: Which rows.
        limit: How many at most.
        before: Only rows with lower numbers.

    Raises:
        NotAllowedError: The actor does not have the right ``audit``.
    """
    actor.require(Right.AUDIT)
    audit = site.ledger.audit
    if not audit.was_told(actor.name, Action.AUDIT_READ, SUBJECT, site.ledger.database.clock() - _ONCE_IN):
        audit.add(actor.name, actor.via, Action.AUDIT_READ, SUBJECT)
    return audit.newest(limit, before=before, **_as_asked(wanted))


def export_audit(
    site: Site, actor: Actor, wanted: Selection, kind: ExportFormat = ExportFormat.JSONL
) -> Iterator[str]:
    """The rows as text, the oldest first, some at a time; each export is noted.

    Raises:
        NotAllowedError: The actor does not have the right ``audit``.
    """
    actor.require(Right.AUDIT)
    site.ledger.audit.add(
        actor.name, actor.via, Action.AUDIT_READ, SUBJECT, details={"exported": kind.value, **_words(wanted)}
    )
    return _lines(site.ledger.audit.every(**_as_asked(wanted)), kind)


def verify_audit(
    site: Site, actor: Actor, *, number: int | None = None, expected: str | None = None
) -> AuditRow | None:
    """Recompute every hash; the newest row, which is to be noted outside; None where there is none.

    Args:
        site: The site.
        actor: Who wants it.
        number: A row whose hash was noted outside.
        expected: That hash.

    Raises:
        InputError: Only one of the two is given.
        NotAllowedError: The actor does not have the right ``audit``.
        StoreError: A row was changed, removed or put in; it is named.
    """
    actor.require(Right.AUDIT)
    if (number is None) != (expected is None):
        raise InputError("a row that was noted is named by its number and its hash")
    audit = site.ledger.audit
    try:
        newest = audit.verify(number=number, expected=None if expected is None else expected.strip().lower())
    except BaseException:
        found = {"verified": "not whole"}
        audit.add(actor.name, actor.via, Action.AUDIT_READ, SUBJECT, Outcome.FAILED, found)
        raise
    audit.add(actor.name, actor.via, Action.AUDIT_READ, SUBJECT, details={"verified": "whole"})
    return newest


def details_of(row: AuditRow) -> dict[str, str]:
    """What a row tells beside its columns."""
    return {str(key): str(value) for key, value in json.loads(row.details).items()}


def _as_asked(wanted: Selection) -> dict[str, Any]:
    return {field.name: getattr(wanted, field.name) for field in fields(wanted)}


def _words(wanted: Selection) -> dict[str, str]:
    return {name: str(value) for name, value in _as_asked(wanted).items() if value}


def _lines(rows: Iterator[AuditRow], kind: ExportFormat) -> Iterator[str]:
    if kind is ExportFormat.JSONL:
        for row in rows:
            yield json.dumps({**asdict(row), "at": row.at.isoformat()}) + "\n"
        return
    yield _csv([field.name for field in fields(AuditRow)])
    for row in rows:
        yield _csv([_harmless(value) for value in astuple(row)])


def _harmless(value: object) -> str:
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _csv(values: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue()
