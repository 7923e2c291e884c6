"""The application: every route, what stands before them, and what an error becomes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware

from mqi_dagster import __version__
from mqi_dagster.errors import (
    InfrastructureError,
    InputError,
    KeyRejectedError,
    LeaseLostError,
    MqiError,
    NotAllowedError,
    SignInError,
)
from mqi_dagster.operations.page_guard import App, PageGuard, Receive, Scope, Send
from mqi_dagster.resources.site import Site
from mqi_dagster.web import words
from mqi_dagster.web.access import READS, Doorkeeper, public
from mqi_dagster.web.api import work
from mqi_dagster.web.live import Live
from mqi_dagster.web.pages import login, worklist
from mqi_dagster.web.render import Pages

LARGEST_BODY = 1 << 20
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none';"
    " base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_STATUS: tuple[tuple[type[MqiError], HTTPStatus], ...] = (
    (SignInError, HTTPStatus.UNAUTHORIZED),
    (NotAllowedError, HTTPStatus.FORBIDDEN),
    (LeaseLostError, HTTPStatus.CONFLICT),
    (InfrastructureError, HTTPStatus.SERVICE_UNAVAILABLE),
    (KeyRejectedError, HTTPStatus.NOT_FOUND),
)
API = "/api/"


def create_app(site: Site, live: Live | None = None) -> FastAPI:
    """The pages of a site as an ASGI application.

    Args:
        site: The site.
        live: Reads its boards; None: as usual.
    """
    board = live or Live(site)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await board.start()
        async with work.tended(site, app.state.work):
            yield
        await board.stop()

    web = site.settings.web
    app = FastAPI(
        title="mqi_dagster",
        version=__version__,
        root_path=web.prefix,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.site = site
    app.state.live = board
    app.state.work = site.work_queue()
    app.state.doorkeeper = Doorkeeper(site)
    app.state.pages = Pages(site)
    for router in (login.router, worklist.router, work.router):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    app.add_api_route("/healthz", _healthz, dependencies=[Depends(public)], include_in_schema=False)
    for error in (MqiError, HTTPException, RequestValidationError):
        app.add_exception_handler(error, _answer_error)
    app.add_middleware(BaseHTTPMiddleware, dispatch=_dressed)
    app.add_middleware(BodyLimit)
    app.add_middleware(PageGuard, names=[web.host], origins=web.origins, forms=True, setting="web.origins")
    return app


def _healthz() -> dict[str, str]:
    """Whether this process answers."""
    return {"status": "ok"}


async def _dressed(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """The reader's language, and headers that bind a browser."""
    said = request.headers.get("accept-language", "")
    chosen = request.cookies.get("language", "")
    web = request.app.state.site.settings.web
    words.LANGUAGE.set(words.accepted(f"{chosen},{said}", web.language))
    response = await call_next(request)
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-store")
    if request.app.state.doorkeeper.secure:
        response.headers.setdefault("Strict-Transport-Security", "max-age=31536000")
    return response


class BodyLimit:
    """An ASGI application that refuses what is larger than `LARGEST_BODY`."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and no more of its body than is allowed."""
        read, begun = 0, False

        async def limited() -> dict[str, object]:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > LARGEST_BODY:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return dict(message)

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, limited, noted)
        except (HTTPException, ExceptionGroup):
            # What lies between wraps it in a group.
            if read <= LARGEST_BODY or begun:
                raise
            refused = HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            await problem(refused, scope["method"])(scope, receive, send)


def status_of(error: Exception, method: str) -> HTTPStatus:
    """The status of HTTP that an error becomes."""
    if isinstance(error, HTTPException):
        return HTTPStatus(error.status_code)
    if isinstance(error, RequestValidationError):
        return HTTPStatus.UNPROCESSABLE_ENTITY
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    if isinstance(error, InputError):
        return HTTPStatus.NOT_FOUND if method in READS else HTTPStatus.CONFLICT
    return HTTPStatus.INTERNAL_SERVER_ERROR


def problem(error: Exception, method: str) -> JSONResponse:
    """An error as RFC 9457 wants it."""
    status = status_of(error, method)
    content: dict[str, object] = {"type": "about:blank", "title": status.phrase, "status": status.value}
    if isinstance(error, MqiError):
        content |= {"type": f"urn:mqi:error:{error.code}", "detail": error.message}
    elif isinstance(error, RequestValidationError):
        content["errors"] = [
            {"where": ".".join(map(str, one["loc"])), "what": one["msg"]} for one in error.errors()
        ]
    elif isinstance(error, HTTPException) and error.detail != status.phrase:
        content["detail"] = str(error.detail)
    headers = {"WWW-Authenticate": "Bearer"} if status is HTTPStatus.UNAUTHORIZED else None
    return JSONResponse(content, status, headers, "application/problem+json")


async def _answer_error(request: Request, error: Exception) -> Response:
    pages: Pages = request.app.state.pages
    path = request.url.path.removeprefix(pages.prefix)
    wants_page = "text/html" in request.headers.get("accept", "")
    if path.startswith(API) or not wants_page:
        return problem(error, request.method)
    if isinstance(error, SignInError) and request.method == "GET":
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{pages.prefix}/login?next={quote(path + query)}", HTTPStatus.SEE_OTHER)
    status = status_of(error, request.method)
    message = error.message if isinstance(error, MqiError) else ""
    return pages.page(request, "error.html", None, status=status.value, title=status.phrase, message=message)
