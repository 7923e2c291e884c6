"""Signing in and out."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import RedirectResponse

from mqi_dagster.errors import SignInError
from mqi_dagster.ledger.accounts import Account
from mqi_dagster.operations.people import check_password, sign_in, sign_out, take_link
from mqi_dagster.web.access import SIGNED_IN, Doorkeeper, public
from mqi_dagster.web.render import Pages

router = APIRouter(include_in_schema=False)
EVERYBODY = [Depends(public)]


def _inside(target: str) -> str:
    """A page of ours to go to; the worklist in place of anything else."""
    plain = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if plain else "/"


@router.get("/login", dependencies=EVERYBODY)
def show_login(request: Request, next: str = "/") -> Response:
    """The form."""
    pages: Pages = request.app.state.pages
    return pages.page(request, "login.html", None, next=_inside(next), trouble="", name="")


@router.post("/login", dependencies=EVERYBODY)
def log_in(
    request: Request,
    name: Annotated[str, Form(max_length=100)],
    password: Annotated[str, Form(max_length=1000)],
    next: Annotated[str, Form(max_length=2000)] = "/",
) -> Response:
    """Sign in by name and password."""
    pages: Pages = request.app.state.pages
    try:
        account = check_password(request.app.state.site, name.strip(), password)
    except SignInError as error:
        return pages.page(
            request, "login.html", None, status=HTTPStatus.UNAUTHORIZED, next=_inside(next),
            trouble=error.message, name=name,
        )  # fmt: skip
    return enter(request, account, "password", next)


@router.get("/login/link", dependencies=EVERYBODY)
def log_in_by_link(request: Request, code: str = "") -> Response:
    """Sign in by a link that works once."""
    return enter(request, take_link(request.app.state.site, code), "link", "/")


def enter(request: Request, account: Account, via: str, target: str) -> Response:
    """Sign a browser in and go to a page."""
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    pages: Pages = request.app.state.pages
    response = RedirectResponse(f"{pages.prefix}{_inside(target)}", HTTPStatus.SEE_OTHER)
    doorkeeper.let_in(response, sign_in(request.app.state.site, account, via))
    return response


@router.post("/logout")
def log_out(request: Request, visitor: SIGNED_IN) -> Response:
    """Sign out."""
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    pages: Pages = request.app.state.pages
    if visitor.session is not None:
        sign_out(request.app.state.site, visitor.session)
    response = RedirectResponse(f"{pages.prefix}/login", HTTPStatus.SEE_OTHER)
    doorkeeper.let_out(response)
    return response
