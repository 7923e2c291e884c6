"""Accounts of others: who there is, what they are for, and how they get in."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Request, Response
from starlette.exceptions import HTTPException

from mqi_dagster.operations import people
from mqi_dagster.operations.running import web_address
from mqi_dagster.people.rights import PROGRAMS, Right, Role
from mqi_dagster.web.access import Needs, Visitor
from mqi_dagster.web.once import Once, Told, afterwards
from mqi_dagster.web.render import Pages
from mqi_dagster.web.role_words import came_by, purpose
from mqi_dagster.web.words import _

router = APIRouter(prefix="/people", include_in_schema=False)
Administers = Annotated[Visitor, Depends(Needs(Right.PEOPLE))]
Roles = Annotated[list[str], Form()]


def _page_of(name: str) -> str:
    return f"/people/{quote(name, safe='@')}"


def _link(request: Request, visitor: Visitor, name: str, text: str) -> Told:
    site = request.app.state.site
    code = people.make_link(site, visitor.actor, name)
    address = f"{web_address(site.settings)}/login/link?code={code}"
    minutes = int(people.LINK_VALID.total_seconds() // 60)
    return Told(text.format(name=name, minutes=minutes), secret=address)


@router.get("")
def list_people(request: Request, visitor: Administers) -> Response:
    """Every account."""
    pages: Pages = request.app.state.pages
    once: Once = request.app.state.once
    site = request.app.state.site
    return pages.page(
        request,
        "people.html",
        visitor,
        told=once.take(visitor),
        accounts=people.people(site, visitor.actor),
        roles=tuple(Role),
        purpose=purpose,
        now=site.ledger.database.clock(),
    )


@router.post("")
def add_person(
    request: Request,
    visitor: Administers,
    name: Annotated[str, Form(max_length=200)],
    full_name: Annotated[str, Form(max_length=200)] = "",
    role: Roles = [],  # noqa: B006 - FastAPI reads it and copies it
) -> Response:
    """Add an account, and make the link by which its owner comes in first."""
    login = name.strip().lower()

    def act() -> Told:
        site = request.app.state.site
        people.add_user(site, visitor.actor, login, people.roles_in(role), full_name=full_name.strip())
        if set(people.roles_in(role)) <= PROGRAMS:
            return Told(_("The account {name} is added.").format(name=login))
        text = _("The account {name} is added. This link signs its owner in once, within {minutes} minutes:")
        return _link(request, visitor, login, text)

    return afterwards(request, visitor, "/people", act)


@router.get("/{name}")
def show_person(request: Request, visitor: Administers, name: str) -> Response:
    """One account."""
    pages: Pages = request.app.state.pages
    once: Once = request.app.state.once
    site = request.app.state.site
    return pages.page(
        request,
        "person.html",
        visitor,
        told=once.take(visitor),
        account=people.require_account(site, name),
        roles=tuple(Role),
        purpose=purpose,
        came_by=came_by,
        sessions=people.sessions_of(site, visitor.actor, name),
        tokens=people.tokens_of(site, visitor.actor, name),
        expired=people.expired,
        now=site.ledger.database.clock(),
    )


@router.post("/{name}")
def change_person(
    request: Request,
    visitor: Administers,
    name: str,
    full_name: Annotated[str, Form(max_length=200)],
    role: Roles = [],  # noqa: B006 - FastAPI reads it and copies it
) -> Response:
    """Change what an account is for, and its owner's name."""

    def act() -> Told:
        site, roles = request.app.state.site, people.roles_in(role)
        people.change_user(site, visitor.actor, name, roles=roles, full_name=full_name.strip() or name)
        return Told(_("The account is changed."))

    return afterwards(request, visitor, _page_of(name), act)


@router.post("/{name}/{what}")
def do_to_person(request: Request, visitor: Administers, name: str, what: str) -> Response:
    """Disable or enable an account, sign it out, or make a link that signs it in once."""
    site, actor = request.app.state.site, visitor.actor

    def act() -> Told:
        if what in ("disable", "enable"):
            people.change_user(site, actor, name, disabled=what == "disable")
            return Told(_("The account is disabled.") if what == "disable" else _("The account is enabled."))
        if what == "sign-out":
            people.end_sessions(site, actor, people.require_account(site, name).name)
            return Told(_("The account is signed out everywhere."))
        if what != "link":
            raise HTTPException(HTTPStatus.NOT_FOUND)
        text = _("This link signs {name} in once, within {minutes} minutes:")
        return _link(request, visitor, name, text)

    return afterwards(request, visitor, _page_of(name), act)


@router.post("/{name}/tokens/{token}/revoke")
def revoke_token(request: Request, visitor: Administers, name: str, token: str) -> Response:
    """Make a token of somebody worthless."""

    def act() -> Told:
        people.revoke_token(request.app.state.site, visitor.actor, token)
        return Told(_("The token is revoked."))

    return afterwards(request, visitor, _page_of(name), act)
