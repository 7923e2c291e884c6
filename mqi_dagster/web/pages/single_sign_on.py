"""Signing in at an OpenID Connect provider, or by what a proxy in front says."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from mqi_dagster.errors import MqiError, SignInError
from mqi_dagster.operations.single_sign_on import (
    PENDING,
    OpenIdSignIn,
    account_by_provider,
    account_by_proxy,
)
from mqi_dagster.web.access import Doorkeeper, public
from mqi_dagster.web.pages.login import Target, enter, inside, show_form

router = APIRouter(include_in_schema=False, dependencies=[Depends(public)])
_LONGEST_TARGET = 500


def _provider(request: Request) -> OpenIdSignIn:
    found: OpenIdSignIn | None = request.app.state.openid
    if found is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return found


def _callback(request: Request) -> str:
    """By the name by which the browser has come: only that one gets the cookie back."""
    door: Doorkeeper = request.app.state.doorkeeper
    scheme = "https" if door.secure else "http"
    return f"{scheme}://{request.headers['host']}{request.app.state.pages.prefix}/login/oidc/callback"


@router.get("/login/oidc")
def go_to_provider(request: Request, next: Target = "/") -> Response:
    """Send the browser to the provider."""
    door: Doorkeeper = request.app.state.doorkeeper
    provider = _provider(request)
    try:
        address, kept = provider.begin(_callback(request), inside(next)[:_LONGEST_TARGET])
    except MqiError as error:
        return show_form(request, next, error)
    response = RedirectResponse(address, HTTPStatus.SEE_OTHER)
    door.give(response, door.cookie_name("mqi-oidc"), kept, int(PENDING.total_seconds()))
    return response


@router.get("/login/oidc/callback")
def come_from_provider(request: Request) -> Response:
    """Sign in whom the provider vouches for."""
    door: Doorkeeper = request.app.state.doorkeeper
    provider, cookie = _provider(request), door.cookie_name("mqi-oidc")
    kept, said = request.cookies.get(cookie, ""), dict(request.query_params)
    try:
        site, callback, address = request.app.state.site, _callback(request), door.address(request)
        account, target = account_by_provider(site, provider, callback, kept, said, door.tries, address)
        response = enter(request, account, "oidc", target)
    except MqiError as error:
        response = show_form(request, "/", error)
    door.give(response, cookie, "", 0)
    return response


@router.get("/login/proxy")
def log_in_by_proxy(request: Request, next: Target = "/") -> Response:
    """Sign in whom the proxy in front has asked."""
    site, door = request.app.state.site, request.app.state.doorkeeper
    proxy = site.settings.web.proxy_login
    if proxy is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    client = request.client.host if request.client is not None else ""
    said = request.headers.getlist(proxy.header)
    try:
        account = account_by_proxy(site, proxy, client, said, door.tries, door.address(request))
        return enter(request, account, "proxy", next)
    except SignInError as error:
        return show_form(request, next, error)
