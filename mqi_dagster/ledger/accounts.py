"""Accounts of people, their sessions, links that sign in once, and tokens of programs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, and_, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from mqi_dagster.errors import InputError
from mqi_dagster.ledger.database import Database
from mqi_dagster.ledger.tables import SESSION, SIGN_IN_LINK, TOKEN, USER

_SEEN_EVERY = timedelta(seconds=60)
"""A session in use is written down no more often."""


@dataclass(frozen=True, slots=True)
class Account:
    """One account."""

    name: str
    """Login."""
    full_name: str
    roles: frozenset[str]
    password: str | None
    """Its hash; None of one who signs in elsewhere, or has not set one yet."""
    failures: int
    """Wrong passwords in a row."""
    locked_until: datetime | None
    language: str
    """Empty where the browser's counts."""
    created_at: datetime
    disabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Session:
    """One browser that is signed in."""

    fingerprint: str
    user: str
    csrf: str
    """What a form of this session must bring."""
    via: str
    """``password``, ``link``, ``oidc`` or ``proxy``."""
    created_at: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Token:
    """What a program signs in with."""

    id: str
    fingerprint: str
    user: str
    name: str
    """What it is for."""
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    used_at: datetime | None


def _words(text: Collection[str]) -> str:
    return " ".join(sorted(text))


def _account(row: Row[Any]) -> Account:
    values = dict(row._mapping)
    return Account(**{**values, "roles": frozenset(values["roles"].split())})


def _token(row: Row[Any]) -> Token:
    values = dict(row._mapping)
    return Token(**{**values, "scopes": frozenset(values["scopes"].split())})


class Accounts:
    """Accounts by their login."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Account]:
        """Every account, by login."""
        with self._database.read() as connection:
            return [_account(row) for row in connection.execute(select(USER).order_by(USER.c.name))]

    def get(self, name: str) -> Account | None:
        """An account; None where there is none."""
        if not name.isprintable():
            # PostgreSQL takes no NUL in a text.
            return None
        with self._database.read() as connection:
            row = connection.execute(select(USER).where(USER.c.name == name)).one_or_none()
        return None if row is None else _account(row)

    def add(self, name: str, full_name: str, roles: Collection[str], password: str | None) -> None:
        """Add an account.

        Raises:
            InputError: There is one of this name.
        """
        values = {"full_name": full_name, "roles": _words(roles), "password": password}
        with self._database.write() as connection:
            if connection.execute(select(USER.c.name).where(USER.c.name == name)).one_or_none() is not None:
                raise InputError(f"there is an account {name!r} already")
            connection.execute(
                insert(USER).values(
                    name=name, failures=0, language="", created_at=self._database.clock(), **values
                )
            )

    def change(
        self,
        name: str,
        *,
        full_name: str | None = None,
        roles: Collection[str] | None = None,
        password: str | None = None,
        language: str | None = None,
        disabled: bool | None = None,
    ) -> None:
        """Change an account; None leaves as it is. Another password or none of its rights ends its sessions.

        Raises:
            InputError: There is no such account.
        """
        now = self._database.clock()
        values: dict[str, object] = {"full_name": full_name, "password": password, "language": language}
        values = {key: value for key, value in values.items() if value is not None}
        if roles is not None:
            values["roles"] = _words(roles)
        if disabled is not None:
            values["disabled_at"] = now if disabled else None
        if password is not None:
            values |= {"failures": 0, "locked_until": None}
        with self._database.write() as connection:
            changed = connection.execute(update(USER).where(USER.c.name == name).values(values))
            if changed.rowcount != 1:
                raise InputError(f"there is no account {name!r}")
            if disabled or password is not None:
                for table in (SESSION, SIGN_IN_LINK):
                    connection.execute(delete(table).where(table.c.user == name))

    def failed(self, name: str, lock_of: Callable[[int], timedelta | None]) -> None:
        """Count a wrong password.

        Args:
            name: Of the account.
            lock_of: For how long so many in a row lock it.
        """
        with self._database.write() as connection:
            row = connection.execute(select(USER.c.failures).where(USER.c.name == name)).one_or_none()
            if row is None:
                return
            failures = row.failures + 1
            lock = lock_of(failures)
            locked = None if lock is None else self._database.clock() + lock
            connection.execute(
                update(USER).where(USER.c.name == name).values(failures=failures, locked_until=locked)
            )

    def rehash(self, name: str, password: str) -> None:
        """Keep the same password under another hash: no session ends."""
        with self._database.write() as connection:
            connection.execute(update(USER).where(USER.c.name == name).values(password=password))

    def succeeded(self, name: str) -> None:
        """Forget wrong passwords."""
        forgotten = update(USER).where(USER.c.name == name, USER.c.failures > 0)
        with self._database.write() as connection:
            connection.execute(forgotten.values(failures=0, locked_until=None))


class Sessions:
    """Browsers that are signed in, and links that sign one in."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, fingerprint: str, user: str, csrf: str, via: str) -> Session:
        """Sign a browser in."""
        now = self._database.clock()
        session = Session(fingerprint, user, csrf, via, now, now)
        with self._database.write() as connection:
            connection.execute(
                insert(SESSION).values({name: getattr(session, name) for name in Session.__slots__})
            )
        return session

    def find(
        self, fingerprint: str, idle: timedelta, longest: timedelta, *, in_use: bool = True
    ) -> tuple[Session, Account] | None:
        """A session that goes on, with its account.

        Args:
            fingerprint: Of the secret in the cookie.
            idle: For so long it may be unused.
            longest: For so long it lasts, used or not.
            in_use: Whether it is noted that it is in use.
        """
        now = self._database.clock()
        alive = and_(SESSION.c.seen_at > now - idle, SESSION.c.created_at > now - longest)
        query = select(SESSION).where(SESSION.c.fingerprint == fingerprint, alive)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
            account = (
                None
                if row is None
                else connection.execute(
                    select(USER).where(USER.c.name == row.user, USER.c.disabled_at.is_(None))
                ).one_or_none()
            )
        if row is None or account is None:
            return None
        session = Session(**row._mapping)
        if in_use and now - session.seen_at > min(_SEEN_EVERY, idle / 4):
            with self._database.write() as connection:
                connection.execute(
                    update(SESSION).where(SESSION.c.fingerprint == fingerprint).values(seen_at=now)
                )
        return session, _account(account)

    def end(self, fingerprint: str) -> None:
        """Sign a browser out; one that is not signed in stays so."""
        with self._database.write() as connection:
            connection.execute(delete(SESSION).where(SESSION.c.fingerprint == fingerprint))

    def of(self, user: str, idle: timedelta, longest: timedelta) -> list[Session]:
        """The browsers in which an account is signed in, the one that was used last first; see `find`."""
        now = self._database.clock()
        query = select(SESSION).where(
            SESSION.c.user == user, SESSION.c.seen_at > now - idle, SESSION.c.created_at > now - longest
        )
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(SESSION.c.seen_at.desc()))
            return [Session(**row._mapping) for row in rows]

    def end_of(self, user: str, *, but: str = "") -> int:
        """Sign an account out of every browser but one; how many there were."""
        ended = delete(SESSION).where(SESSION.c.user == user, SESSION.c.fingerprint != but)
        with self._database.write() as connection:
            return connection.execute(ended).rowcount

    def add_link(self, fingerprint: str, user: str, valid: timedelta) -> None:
        """Keep a link that signs a browser in once."""
        now = self._database.clock()
        with self._database.write() as connection:
            connection.execute(delete(SIGN_IN_LINK).where(SIGN_IN_LINK.c.expires_at <= now))
            connection.execute(
                insert(SIGN_IN_LINK).values(fingerprint=fingerprint, user=user, expires_at=now + valid)
            )

    def of_link(self, fingerprint: str, *, use: bool) -> str | None:
        """The account that a link is for, None where it is used, expired or invented.

        Args:
            fingerprint: Of its secret.
            use: Whether it is used up.
        """
        valid = and_(
            SIGN_IN_LINK.c.fingerprint == fingerprint, SIGN_IN_LINK.c.expires_at > self._database.clock()
        )
        if not use:
            with self._database.read() as connection:
                return connection.execute(select(SIGN_IN_LINK.c.user).where(valid)).scalar_one_or_none()
        taken = delete(SIGN_IN_LINK).where(valid).returning(SIGN_IN_LINK.c.user)
        with self._database.write() as connection:
            return connection.execute(taken).scalar_one_or_none()

    def forget_all(self) -> None:
        """End every session, and make every link worthless."""
        with self._database.write() as connection:
            for table in (SESSION, SIGN_IN_LINK):
                connection.execute(delete(table))

    def remove_ended(self, idle: timedelta, longest: timedelta) -> int:
        """Remove sessions that are over; how many there were."""
        now = self._database.clock()
        over = or_(SESSION.c.seen_at <= now - idle, SESSION.c.created_at <= now - longest)
        with self._database.write() as connection:
            return connection.execute(delete(SESSION).where(over)).rowcount


class Tokens:
    """What programs sign in with."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, identity: str, fingerprint: str, user: str, name: str, scopes: Collection[str], valid: timedelta
    ) -> Token:
        """Keep a token.

        Raises:
            InputError: Its id is taken.
        """
        now = self._database.clock()
        scope = frozenset(scopes)
        token = Token(identity, fingerprint, user, name, scope, now, now + valid, None, None)
        values = {field: getattr(token, field) for field in Token.__slots__}
        try:
            with self._database.write() as connection:
                connection.execute(insert(TOKEN).values({**values, "scopes": _words(scope)}))
        except IntegrityError:
            raise InputError("there is such a token already: try again") from None
        return token

    def find(self, fingerprint: str) -> tuple[Token, Account] | None:
        """A token that is valid, with its account, and note its use."""
        now = self._database.clock()
        valid = and_(TOKEN.c.expires_at > now, TOKEN.c.revoked_at.is_(None))
        with self._database.read() as connection:
            row = connection.execute(
                select(TOKEN).where(TOKEN.c.fingerprint == fingerprint, valid)
            ).one_or_none()
            account = (
                None
                if row is None
                else connection.execute(
                    select(USER).where(USER.c.name == row.user, USER.c.disabled_at.is_(None))
                ).one_or_none()
            )
        if row is None or account is None:
            return None
        if row.used_at is None or now - row.used_at > _SEEN_EVERY:
            with self._database.write() as connection:
                connection.execute(update(TOKEN).where(TOKEN.c.id == row.id).values(used_at=now))
        return _token(row), _account(account)

    def get(self, identity: str) -> Token | None:
        """A token by its id, valid or not."""
        if not identity.isprintable():
            return None
        with self._database.read() as connection:
            row = connection.execute(select(TOKEN).where(TOKEN.c.id == identity)).one_or_none()
        return None if row is None else _token(row)

    def revoke(self, identity: str) -> None:
        """Make a token worthless; once more is as good as once."""
        revoked = update(TOKEN).where(TOKEN.c.id == identity, TOKEN.c.revoked_at.is_(None))
        with self._database.write() as connection:
            connection.execute(revoked.values(revoked_at=self._database.clock()))

    def all(self, user: str | None = None) -> list[Token]:
        """The tokens of an account, or of all, the newest first."""
        query = select(TOKEN).order_by(TOKEN.c.created_at.desc(), TOKEN.c.id)
        if user is not None:
            query = query.where(TOKEN.c.user == user)
        with self._database.read() as connection:
            return [_token(row) for row in connection.execute(query)]
