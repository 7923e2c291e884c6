"""The audit: who did what, when and with what outcome; each row carries the hash of the one before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, Row, and_, func, insert, or_, select

from mqi_dagster.errors import StoreError, shown
from mqi_dagster.ledger.database import Database, batched
from mqi_dagster.ledger.tables import AUDIT

FIRST = "0" * 64
"""Stands in the first row in place of the hash of one before it."""
_AT_ONCE = 1000


class Action(StrEnum):
    """What was done, or attempted."""

    SIGNED_IN = "signed_in"
    SIGNED_OUT = "signed_out"
    IDENTITY_READ = "identity_read"
    """Somebody was shown whose a case or course is."""
    PLACES_READ = "places_read"
    """Somebody was shown where files really lie."""
    SEGMENTATION_REQUESTED = "segmentation_requested"
    RETRY = "retry"
    CANCEL = "cancel"
    PRIORITY = "priority"
    RETAKE = "retake"
    GPU_OFF = "gpu_off"
    GPU_ON = "gpu_on"
    POOL_LIMIT = "pool_limit"
    ALARM_DISMISSED = "alarm_dismissed"
    REVIEW = "review"
    """A signature that was refused before it was said what for."""
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    USER_ADDED = "user_added"
    USER_CHANGED = "user_changed"
    PASSWORD_CHANGED = "password_changed"
    TOKEN_MADE = "token_made"
    TOKEN_REVOKED = "token_revoked"
    LINK_MADE = "link_made"
    AUDIT_READ = "audit_read"
    RESTORED = "restored"
    """The site was made of a backup: what was done after that is not in it."""
    DAGSTER_ENTERED = "dagster_entered"
    """Somebody was let through to Dagster's own pages."""


class Outcome(StrEnum):
    """How far it came."""

    BEGUN = "begun"
    """What began and has no later row ended with the process that did it."""
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One row; nothing in it names a patient or a path."""

    number: int
    """From 1, without gaps."""
    at: datetime
    actor: str
    via: str
    action: Action
    subject: str
    """Key of a partition, name of a GPU or account, number of an alarm."""
    outcome: Outcome
    details: str
    """JSON object of texts."""
    previous: str
    """Hash of the row before."""
    hash: str

    def expected_hash(self) -> str:
        """SHA-256 of everything in the row but its hash, as canonical JSON."""
        content = [
            self.number,
            self.at.isoformat(),
            self.actor,
            self.via,
            self.action.value,
            self.subject,
            self.outcome.value,
            self.details,
            self.previous,
        ]
        return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()


def _row(row: Row[tuple[object, ...]]) -> AuditRow:
    values = dict(row._mapping)
    return AuditRow(**{**values, "action": Action(values["action"]), "outcome": Outcome(values["outcome"])})


def _wanted(
    subject: str, actor: str, action: Action | None, since: datetime | None, until: datetime | None
) -> list[ColumnElement[bool]]:
    """What rows have to fulfil; see `Audit.newest`."""
    wanted: list[ColumnElement[bool]] = []
    if subject:
        part = AUDIT.c.subject.startswith(f"{subject}__", autoescape=True)
        wanted.append(or_(AUDIT.c.subject == subject, part))
    if actor:
        wanted.append(AUDIT.c.actor == actor)
    if action is not None:
        wanted.append(AUDIT.c.action == action.value)
    if since is not None:
        wanted.append(AUDIT.c.at >= since)
    if until is not None:
        wanted.append(AUDIT.c.at < until)
    return wanted


class Audit:
    """The rows of the audit. The database itself refuses to change or remove one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        actor: str,
        via: str,
        action: Action,
        subject: str,
        outcome: Outcome = Outcome.DONE,
        details: Mapping[str, str] | None = None,
    ) -> AuditRow:
        """Add a row.

        Args:
            actor: Who did it; a name that a stranger has typed is escaped.
            via: See `people.rights.Actor`.
            action: What.
            subject: To what.
            outcome: How it ended.
            details: More about it, in words.
        """
        with self._database.write() as connection:
            newest = select(AUDIT.c.number, AUDIT.c.hash).order_by(AUDIT.c.number.desc()).limit(1)
            last = connection.execute(newest).one_or_none()
            row = AuditRow(
                number=1 if last is None else last.number + 1,
                at=self._database.clock(),
                actor=shown(actor, 90),
                via=shown(via, 50),
                action=action,
                subject=shown(subject, 250),
                outcome=outcome,
                details=json.dumps(dict(details or {}), sort_keys=True),
                previous=FIRST if last is None else last.hash,
                hash="",
            )
            values = {name: getattr(row, name) for name in AuditRow.__slots__}
            values["hash"] = row.expected_hash()
            connection.execute(insert(AUDIT).values(values))
        return AuditRow(**values)

    def newest(
        self,
        limit: int,
        *,
        before: int | None = None,
        subject: str = "",
        actor: str = "",
        action: Action | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[AuditRow]:
        """Rows, the newest first.

        Args:
            limit: How many at most.
            before: Only rows with lower numbers.
            subject: Only about this partition and its parts, or this other subject.
            actor: Only of this actor.
            action: Only of this kind.
            since: Only from this moment on.
            until: Only before this moment.
        """
        query = select(AUDIT).order_by(AUDIT.c.number.desc()).limit(limit)
        query = query.where(*_wanted(subject, actor, action, since, until))
        if before is not None:
            query = query.where(AUDIT.c.number < before)
        with self._database.read() as connection:
            return [_row(row) for row in connection.execute(query)]

    def newest_of(self, action: Action, subjects: Collection[str]) -> dict[str, AuditRow]:
        """The newest row that tells that an action began, by its subject."""
        found: dict[str, AuditRow] = {}
        for some in batched(subjects):
            of_these = and_(
                AUDIT.c.subject.in_(some),
                AUDIT.c.action == action.value,
                AUDIT.c.outcome == Outcome.BEGUN.value,
            )
            with self._database.read() as connection:
                rows = connection.execute(select(AUDIT).where(of_these).order_by(AUDIT.c.number))
                found |= {row.subject: _row(row) for row in rows}
        return found

    def every(
        self,
        *,
        subject: str = "",
        actor: str = "",
        action: Action | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[AuditRow]:
        """All rows, the oldest first, some at a time; see `newest`."""
        after, wanted = 0, _wanted(subject, actor, action, since, until)
        while True:
            query = select(AUDIT).where(AUDIT.c.number > after, *wanted)
            query = query.order_by(AUDIT.c.number).limit(_AT_ONCE)
            with self._database.read() as connection:
                rows = [_row(row) for row in connection.execute(query)]
            yield from rows
            if len(rows) < _AT_ONCE:
                return
            after = rows[-1].number

    def verify(self, *, number: int | None = None, expected: str | None = None) -> AuditRow | None:
        """Recompute every hash; the newest row, None where there is none.

        Args:
            number: A row whose hash was noted outside.
            expected: That hash: the chain still has it, so that nothing before it was rewritten.

        Raises:
            StoreError: A row was changed, removed or put in; it is named.
        """
        last: AuditRow | None = None
        for row in self.every():
            before = 0 if last is None else last.number
            if row.number != before + 1:
                raise StoreError(f"the audit has no row {before + 1}: it was removed")
            if row.previous != (FIRST if last is None else last.hash) or row.hash != row.expected_hash():
                raise StoreError(f"row {row.number} of the audit was changed, or one before it")
            if row.number == number and row.hash != expected:
                raise StoreError(f"row {row.number} of the audit is not the one that was noted")
            last = row
        if number is not None and (last is None or last.number < number):
            raise StoreError(f"the audit ends before row {number}, which was noted: its end was removed")
        return last

    def was_told(self, actor: str, action: Action, subject: str, since: datetime) -> bool:
        """Whether such a row was added since a moment."""
        found = and_(
            AUDIT.c.actor == actor,
            AUDIT.c.action == action.value,
            AUDIT.c.subject == subject,
            AUDIT.c.at >= since,
        )
        query = select(func.count()).select_from(AUDIT).where(found)
        with self._database.read() as connection:
            return bool(connection.execute(query).scalar_one())
