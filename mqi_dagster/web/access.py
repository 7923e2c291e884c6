"""Who asks, and whether they may: every route says which right it needs."""

from __future__ import annotations

import asyncio
import base64
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from mqi_dagster.errors import (
    ConfigurationError,
    InfrastructureError,
    MqiError,
    NotAllowedError,
    SignInError,
)
from mqi_dagster.ledger.accounts import Session
from mqi_dagster.ledger.audit import Action, Outcome
from mqi_dagster.operations.people import SignedIn, actor_of, bearer
from mqi_dagster.people.passwords import fingerprint
from mqi_dagster.people.rights import Actor, Right
from mqi_dagster.people.tries import SignInTries
from mqi_dagster.resources.site import Site

READS = ("GET", "HEAD", "OPTIONS")
PATIENCE_SECONDS = 3.0
"""For so long a ledger is asked who somebody is; then those who were here before may still look."""
_REMEMBERED = 1000
CSRF_FIELD, CSRF_HEADER = "csrf", "x-csrf-token"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whoever asks, and by what."""

    actor: Actor
    full_name: str = ""
    language: str = ""
    """That the account has chosen; empty: the browser's."""
    session: Session | None = None
    """None of a program with a token."""
    sets_password: bool = False
    """Whether the account has no password yet, and came by a link."""

    @property
    def name(self) -> str:
        """Login."""
        return self.actor.name

    @property
    def csrf(self) -> str:
        """What a form must bring."""
        return "" if self.session is None else self.session.csrf

    def may(self, right: str) -> bool:
        """Whether the visitor has a right, by its name."""
        return self.actor.may(Right(right))


@dataclass(frozen=True, slots=True)
class Crowd:
    """Everybody with the same rights, for whom a part of a page is made once: it can name no one of them."""

    rights: frozenset[Right]
    csrf: str = secrets.token_hex(16)
    """Stands for the word of whose session the part is shown in."""

    def may(self, right: str) -> bool:
        """Whether they have a right, by its name."""
        return Right(right) in self.rights


class Doorkeeper:
    """Tells visitors from each other.

    Args:
        site: The site.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        web = site.settings.web
        self._prefix, self._behind_proxy = web.prefix, web.behind_proxy
        self.secure = web.tls_certificate is not None or web.behind_proxy
        self.tries = SignInTries()
        # Without TLS sites of one machine are told apart by their ports alone, which cookies do not see.
        self.cookie = self.cookie_name("mqi" if self.secure else f"mqi-{web.port}")
        self._path = web.prefix or "/"
        self._idle = timedelta(minutes=web.idle_minutes)
        self._longest = timedelta(hours=web.session_hours)
        self._known: OrderedDict[str, Visitor] = OrderedDict()
        """Signed-in visitors as they were last: while the ledger is away they may still look."""
        self._asking: dict[object, float] = {}
        """When each question began that the ledger has not answered yet."""

    def cookie_name(self, name: str) -> str:
        """A cookie's name, which says as much of where it is sent to as browsers hold it to."""
        if not self.secure:
            return name
        return f"__Secure-{name}" if self._prefix else f"__Host-{name}"

    def address(self, request: Request) -> str:
        """Where a request comes from, which a proxy in front knows."""
        if self._behind_proxy and (told := request.headers.getlist("x-forwarded-for")):
            return told[-1].rpartition(",")[2].strip()[:45]
        return request.client.host if request.client is not None else ""

    async def find(self, request: Request, *, in_use: bool = True, basic: bool = False) -> Visitor | None:
        """Whoever asks, as `visitor` says, however long the ledger takes.

        A ledger that hangs is asked no more until it has answered: its silence must not take every thread.
        """
        now = time.monotonic()
        if now - min(list(self._asking.values()), default=now) <= PATIENCE_SECONDS:
            asked = asyncio.ensure_future(run_in_threadpool(self._ask, request, in_use, basic))
            if await asyncio.wait({asked}, timeout=PATIENCE_SECONDS) and asked.done():
                return asked.result()
            asked.add_done_callback(lambda late: late.cancelled() or late.exception())
        return self._as_before(self._cookie_of(request), InfrastructureError("the ledger does not answer"))

    def _ask(self, request: Request, in_use: bool, basic: bool) -> Visitor | None:
        question = object()
        self._asking[question] = time.monotonic()
        try:
            return self.visitor(request, in_use=in_use, basic=basic)
        finally:
            del self._asking[question]

    def visitor(self, request: Request, *, in_use: bool = True, basic: bool = False) -> Visitor | None:
        """Whoever asks; None where nobody is signed in.

        Args:
            request: What they ask.
            in_use: Whether it keeps them signed in: a page that brings itself up to date does not.
            basic: Whether a token may come as the password of HTTP Basic, which old programs alone send.

        Raises:
            SignInError: There is a token, and it is worth nothing.
            InfrastructureError: The ledger is away, and this visitor was not here before.
        """
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        login = None
        if basic and scheme.lower() == "basic":
            login, secret = _basic(secret)
        if login is not None or scheme.lower() == "bearer":
            actor = bearer(self._site, secret.strip())
            if actor is None or login not in (None, actor.name):
                raise SignInError("this token is not known here, was revoked, or has expired")
            return Visitor(actor, actor.name)
        key = self._cookie_of(request)
        return self._of_cookie(key, in_use) if key else None

    def _cookie_of(self, request: Request) -> str:
        """What the ledger knows a browser's session by; empty where it brings none."""
        secret = request.cookies.get(self.cookie, "")
        return fingerprint(secret) if secret else ""

    def _as_before(self, key: str, away: MqiError) -> Visitor:
        known = self._known.get(key)
        session = known.session if known is not None else None
        if known is None or session is None or datetime.now(UTC) - session.created_at > self._longest:
            raise away
        # Nothing can be done without the ledger, and what is shown is of before.
        looks = frozenset({Right.LOOK}) & known.actor.rights
        return Visitor(Actor(known.name, looks, "pages"), known.full_name, known.language, session)

    def _of_cookie(self, key: str, in_use: bool) -> Visitor | None:
        try:
            found = self._site.ledger.sessions.find(key, self._idle, self._longest, in_use=in_use)
        except (InfrastructureError, ConfigurationError) as away:
            # Also one of another revision, until this program or the ledger is brought up to date.
            return self._as_before(key, away)
        if found is None:
            self._known.pop(key, None)
            return None
        session, account = found
        sets_password = account.password is None and session.via == "link"
        visitor = Visitor(
            actor_of(account, "pages"), account.full_name, account.language, session, sets_password
        )
        self._known[key] = visitor
        self._known.move_to_end(key)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return visitor

    def let_in(self, request: Request, response: Response, signed_in: SignedIn) -> None:
        """Give a browser its cookie, in place of any that it had: none from before the sign-in goes on."""
        if before := request.cookies.get(self.cookie):
            self._site.ledger.sessions.end(fingerprint(before))
        self.give(response, self.cookie, signed_in.secret, int(self._longest.total_seconds()))

    def let_out(self, response: Response) -> None:
        """Take a browser's cookie away."""
        self.give(response, self.cookie, "", 0)

    def give(self, response: Response, name: str, value: str, seconds: int) -> None:
        """Give a browser a cookie that no script reads, for so long; 0 takes it away."""
        response.set_cookie(
            name,
            value,
            max_age=seconds,
            path=self._path,
            secure=self.secure,
            httponly=True,
            samesite="lax",
        )


def _basic(credentials: str) -> tuple[str, str]:
    """Login and password of HTTP Basic; empty where it is none."""
    try:
        login, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return login, password


class Needs:
    """A dependency of a route: whoever asks is signed in and has a right.

    Args:
        right: Which; None: whoever is signed in.
        action: What the route does: that it was refused is in the audit.
        basic: Whether a token may come by HTTP Basic; see `Doorkeeper.visitor`.
    """

    def __init__(self, right: Right | None, action: Action | None = None, *, basic: bool = False) -> None:
        self.right = right
        self.action = action
        self._basic = basic

    async def __call__(self, request: Request) -> Visitor:
        """The visitor.

        Raises:
            SignInError: Nobody is signed in.
            NotAllowedError: The right is missing, or the form does not come from a page of this session.
        """
        visitor = await self.visitor(request)
        if visitor.session is not None and request.method not in READS:
            await _require_form(request, visitor)
        request.state.rights = visitor.actor.rights
        return visitor

    async def visitor(self, request: Request, *, in_use: bool = True) -> Visitor:
        """The same for one who only looks; see `Doorkeeper.visitor`."""
        doorkeeper: Doorkeeper = request.app.state.doorkeeper
        visitor = await doorkeeper.find(request, in_use=in_use, basic=self._basic)
        if visitor is None:
            raise SignInError("sign in first")
        if self.right is None:
            return visitor
        try:
            visitor.actor.require(self.right)
        except NotAllowedError:
            if self.action is not None:
                await run_in_threadpool(self._note_refusal, request, visitor.actor)
            raise
        return visitor

    def _note_refusal(self, request: Request, actor: Actor) -> None:
        values = request.path_params
        subject = str(values.get("key", "/".join(map(str, values.values()))))
        audit = request.app.state.site.ledger.audit
        audit.add(actor.name, actor.via, self.action, subject, Outcome.REFUSED)


async def _require_form(request: Request, visitor: Visitor) -> None:
    said = request.headers.get(CSRF_HEADER, "")
    kind = request.headers.get("content-type", "").split(";")[0]
    if not said and kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
        field = (await request.form()).get(CSRF_FIELD, "")
        said = field if isinstance(field, str) else ""
    if not hmac.compare_digest(said.encode(), visitor.csrf.encode()):
        raise NotAllowedError("this form is not of this session: load the page again")


def public() -> None:
    """The dependency of a route that everybody may call."""


LOOKS = Annotated[Visitor, Depends(Needs(Right.LOOK))]
SIGNED_IN = Annotated[Visitor, Depends(Needs(None))]

GoesOn = Callable[[], Awaitable[bool]]


def still(request: Request, needs: Needs) -> GoesOn:
    """Asks again whether whoever opened a stream is signed in, and may what they might when they did."""

    async def goes_on() -> bool:
        if await request.is_disconnected():
            return False
        try:
            visitor = await needs.visitor(request, in_use=False)
        except (SignInError, NotAllowedError):
            return False
        except MqiError:
            # The ledger is away, and this process has not seen this visitor before: the page says why.
            return False
        # With other rights the page is another one, and is loaded anew.
        return bool(visitor.actor.rights == request.state.rights)

    return goes_on
