"""Requests that a program may send twice: the second gets the answer of the first, and nothing is done twice.

The row stands before anything is done, and bears the answer once there is one. That of a process which died
in between is taken over after `AT_WORK`: what it was doing may run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import and_, delete, insert, or_, select, update

from mqi_dagster.errors import AtWorkError, KeyReusedError
from mqi_dagster.ledger.database import Database
from mqi_dagster.ledger.tables import IDEMPOTENCY

KEPT = timedelta(hours=24)
AT_WORK = timedelta(minutes=5)
"""No request is at work for longer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered."""

    status: int
    """Of HTTP."""
    body: str


class OnceOnly:
    """One request under a key, in `Idempotency.once`.

    Args:
        answer: Of the same request before; None where it is to be done.
    """

    def __init__(self, answer: Answer | None) -> None:
        self.before = answer
        self.answer = answer
        """Set by whoever does it; None where it may be done again."""


class Idempotency:
    """Which requests were sent lately, and what they were answered."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def once(self, user: str, key: str, request: str) -> Iterator[OnceOnly]:
        """A block that does what a request wants, unless it was done before.

        Args:
            user: Whose key it is.
            key: Of the user's choice.
            request: Digest of what is wanted.

        Raises:
            KeyReusedError: Another request came with this key before.
            AtWorkError: The same request is at work.
        """
        taken = OnceOnly(self._begin(user, key, request))
        if taken.before is not None:
            yield taken
            return
        mine = and_(IDEMPOTENCY.c.user == user, IDEMPOTENCY.c.key == key)
        try:
            yield taken
        finally:
            with self._database.write() as connection:
                if taken.answer is None:
                    connection.execute(delete(IDEMPOTENCY).where(mine))
                else:
                    values = {"status": taken.answer.status, "body": taken.answer.body}
                    connection.execute(update(IDEMPOTENCY).where(mine).values(values))

    def _begin(self, user: str, key: str, request: str) -> Answer | None:
        with self._database.write() as connection:
            now = self._database.clock()
            died = and_(IDEMPOTENCY.c.status.is_(None), IDEMPOTENCY.c.at <= now - AT_WORK)
            connection.execute(delete(IDEMPOTENCY).where(or_(IDEMPOTENCY.c.at <= now - KEPT, died)))
            row = connection.execute(
                select(IDEMPOTENCY).where(IDEMPOTENCY.c.user == user, IDEMPOTENCY.c.key == key)
            ).one_or_none()
            if row is None:
                values = {"user": user, "key": key, "request": request, "body": "", "at": now}
                connection.execute(insert(IDEMPOTENCY).values(values))
                return None
        if row.request != request:
            raise KeyReusedError("this Idempotency-Key came with another request before: take a new one")
        if row.status is None:
            raise AtWorkError("the first request with this Idempotency-Key is still at work: ask again")
        return Answer(row.status, row.body)
