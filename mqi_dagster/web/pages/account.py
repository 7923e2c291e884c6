"""One's own account: language, password, tokens, and where one is signed in."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from mqi_dagster.errors import InputError
from mqi_dagster.operations import people
from mqi_dagster.people.passwords import SHORTEST
from mqi_dagster.people.rights import Right, Role
from mqi_dagster.settings.web import Language
from mqi_dagster.web.access import SIGNED_IN, Doorkeeper
from mqi_dagster.web.once import Once, Told, afterwards
from mqi_dagster.web.pages.login import LANGUAGE_SECONDS, enter
from mqi_dagster.web.render import Pages
from mqi_dagster.web.role_words import came_by, explained
from mqi_dagster.web.words import _, ngettext

router = APIRouter(prefix="/account", include_in_schema=False)
LANGUAGES = {Language.ENGLISH: "English", Language.KOREAN: "한국어"}
"""Each in its own words."""
TOKEN_DAYS = 90
Secret = Annotated[str, Form(max_length=1000)]


@router.get("")
def show_account(request: Request, visitor: SIGNED_IN) -> Response:
    """The page."""
    site = request.app.state.site
    pages: Pages = request.app.state.pages
    once: Once = request.app.state.once
    account = people.require_account(site, visitor.name)
    return pages.page(
        request,
        "account.html",
        visitor,
        told=once.take(visitor),
        account=account,
        by_link=visitor.session is not None
        and people.may_forget(visitor.session, site.ledger.database.clock()),
        roles=[role for role in Role if role.value in account.roles],
        explained=explained,
        came_by=came_by,
        shortest=SHORTEST,
        now=site.ledger.database.clock(),
        languages=LANGUAGES,
        sessions=people.sessions_of(site, visitor.actor, visitor.name),
        tokens=people.tokens_of(site, visitor.actor, visitor.name),
        expired=people.expired,
        scopes=[right for right in Right if right in visitor.actor.rights],
        days=TOKEN_DAYS,
        longest=people.LONGEST_TOKEN.days,
    )


@router.post("/language")
def set_language(request: Request, visitor: SIGNED_IN, language: Annotated[str, Form()] = "") -> Response:
    """Choose the language of the pages."""
    door: Doorkeeper = request.app.state.doorkeeper
    chosen = Language(language) if language in tuple(Language) else None

    def act() -> Told:
        people.choose_language(request.app.state.site, visitor.actor, chosen)
        return Told(_("The language is set."))

    response = afterwards(request, visitor, "/account", act)
    door.give(response, "language", chosen.value if chosen else "", LANGUAGE_SECONDS if chosen else 0)
    return response


@router.post("/password")
def set_password(
    request: Request, visitor: SIGNED_IN, new: Secret, again: Secret, present: Secret = ""
) -> Response:
    """Set another password: every other browser is signed out, and this one gets another session."""
    site = request.app.state.site
    changed = False

    def act() -> Told:
        nonlocal changed
        if new != again:
            raise InputError(_("The two new passwords differ."))
        people.set_password(site, visitor.actor, visitor.name, new, present=present, session=visitor.session)
        changed = True
        return Told(_("The password is set; every other browser was signed out."))

    response = afterwards(request, visitor, "/account", act)
    if not changed or visitor.session is None:
        return response
    return enter(request, people.require_account(site, visitor.name), "password", "/account")


@router.post("/sessions")
def end_other_sessions(request: Request, visitor: SIGNED_IN) -> Response:
    """Sign out of every other browser."""

    def act() -> Told:
        this = "" if visitor.session is None else visitor.session.fingerprint
        count = people.end_sessions(request.app.state.site, visitor.actor, visitor.name, but=this)
        text = ngettext("{count} browser was signed out.", "{count} browsers were signed out.", count)
        return Told(text.format(count=count))

    return afterwards(request, visitor, "/account", act)


@router.post("/tokens")
def make_token(
    request: Request,
    visitor: SIGNED_IN,
    purpose: Annotated[str, Form(max_length=200)],
    days: Annotated[int, Form()] = TOKEN_DAYS,
    scope: Annotated[list[str], Form()] = [],  # noqa: B006 - FastAPI reads it and copies it
) -> Response:
    """Make a token for a program that acts for oneself."""

    def act() -> Told:
        made = people.make_token(
            request.app.state.site,
            visitor.actor,
            visitor.name,
            purpose.strip(),
            people.scopes_in(scope),
            timedelta(days=min(max(days, 0), 10_000)),
        )
        return Told(_("This is the token. It is shown now and never again."), secret=made.secret)

    return afterwards(request, visitor, "/account#tokens", act)


@router.post("/tokens/{token}/revoke")
def revoke_token(request: Request, visitor: SIGNED_IN, token: str) -> Response:
    """Make one of one's tokens worthless."""

    def act() -> Told:
        people.revoke_token(request.app.state.site, visitor.actor, token)
        return Told(_("The token is revoked."))

    return afterwards(request, visitor, "/account#tokens", act)
