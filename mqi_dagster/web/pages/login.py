"""Signing in and out."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from mqi_dagster.errors import MqiError, SignInError, TooManyTriesError
from mqi_dagster.ledger.accounts import Account
from mqi_dagster.operations.people import check_password, sign_in, sign_out, take_link
from mqi_dagster.web.access import SIGNED_IN, Doorkeeper, public
from mqi_dagster.web.problems import status_of
from mqi_dagster.web.render import Pages

router = APIRouter(include_in_schema=False)
EVERYBODY = [Depends(public)]
LANGUAGE_SECONDS = 365 * 86400
Code = Annotated[str, Query(max_length=100)]
Target = Annotated[str, Query(max_length=2000)]


def inside(target: str) -> str:
    """A page of ours to go to; the worklist in place of anything else."""
    plain = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if plain else "/"


def show_form(request: Request, next: str, error: MqiError | None = None, name: str = "") -> Response:
    """The login page with the ways in that there are, and what went wrong."""
    pages: Pages = request.app.state.pages
    web = request.app.state.site.settings.web
    headers = {"Retry-After": str(error.seconds)} if isinstance(error, TooManyTriesError) else None
    return pages.page(
        request,
        "login.html",
        None,
        status=HTTPStatus.OK if error is None else status_of(error, request.method),
        headers=headers,
        next=inside(next),
        trouble="" if error is None else error.message,
        name=name,
        openid=None if web.openid is None else web.openid.name,
        proxy=web.proxy_login is not None,
    )


@router.get("/login", dependencies=EVERYBODY)
def show_login(request: Request, next: Target = "/") -> Response:
    """The form."""
    return show_form(request, next)


@router.post("/login", dependencies=EVERYBODY)
def log_in(
    request: Request,
    name: Annotated[str, Form(max_length=100)],
    password: Annotated[str, Form(max_length=1000)],
    next: Annotated[str, Form(max_length=2000)] = "/",
) -> Response:
    """Sign in by name and password."""
    door: Doorkeeper = request.app.state.doorkeeper
    try:
        account = check_password(request.app.state.site, name, password, door.tries, door.address(request))
    except SignInError as error:
        return show_form(request, next, error, name)
    return enter(request, account, "password", next)


@router.get("/login/link", dependencies=EVERYBODY)
def show_link(request: Request, code: Code = "", next: Target = "/") -> Response:
    """Ask whether to sign in by a link: what looks into mails and chats must not use it up."""
    pages: Pages = request.app.state.pages
    try:
        account = take_link(request.app.state.site, code, use=False)
    except SignInError as error:
        return show_form(request, next, error)
    return pages.page(request, "link.html", None, account=account, code=code, next=inside(next))


@router.post("/login/link", dependencies=EVERYBODY)
def log_in_by_link(
    request: Request,
    code: Annotated[str, Form(max_length=100)],
    next: Annotated[str, Form(max_length=2000)] = "/",
) -> Response:
    """Sign in by a link that works once."""
    try:
        account = take_link(request.app.state.site, code)
    except SignInError as error:
        return show_form(request, next, error)
    return enter(request, account, "link", next)


def enter(request: Request, account: Account, via: str, target: str) -> Response:
    """Sign a browser in and go to a page."""
    door: Doorkeeper = request.app.state.doorkeeper
    pages: Pages = request.app.state.pages
    signed_in = sign_in(request.app.state.site, account, via, door.address(request))
    response = RedirectResponse(f"{pages.prefix}{inside(target)}", HTTPStatus.SEE_OTHER)
    door.let_in(request, response, signed_in)
    if account.language:
        door.give(response, "language", account.language, LANGUAGE_SECONDS)
    return response


@router.post("/logout")
def log_out(request: Request, visitor: SIGNED_IN) -> Response:
    """Sign out."""
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    pages: Pages = request.app.state.pages
    if visitor.session is not None:
        sign_out(request.app.state.site, visitor.session)
    response = RedirectResponse(f"{pages.prefix}/login", HTTPStatus.SEE_OTHER)
    doorkeeper.let_out(request, response)
    return response
