"""The application: every route, what stands before them, and what an error becomes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote, urlsplit

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Request, Response
from fastapi import HTTPException as TooLarge
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware

from mqi_dagster import __version__
from mqi_dagster.errors import MqiError, SignInError
from mqi_dagster.operations.gate import DagsterGate
from mqi_dagster.operations.page_guard import App, PageGuard, Receive, Scope, Send
from mqi_dagster.operations.single_sign_on import OpenIdSignIn
from mqi_dagster.resources.site import Site
from mqi_dagster.web import monitoring, words
from mqi_dagster.web.access import Doorkeeper
from mqi_dagster.web.acting import Acting, kind_of
from mqi_dagster.web.api import laboratory
from mqi_dagster.web.api.description import api
from mqi_dagster.web.api.events import Changes
from mqi_dagster.web.identities import Identities
from mqi_dagster.web.live import Live
from mqi_dagster.web.once import Once
from mqi_dagster.web.pages import (
    account,
    actions,
    audit,
    board,
    case,
    course,
    gate,
    image_set,
    login,
    people,
    single_sign_on,
    worklist,
)
from mqi_dagster.web.problems import problem, status_of
from mqi_dagster.web.render import Pages
from mqi_dagster.web.reports import Reports

LARGEST_BODY = 1 << 20
_THREADS = 200
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none';"
    " base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
API, GATE = "/api/", "/gate/"


def create_app(site: Site, live: Live | None = None) -> FastAPI:
    """The pages of a site as an ASGI application.

    Args:
        site: The site.
        live: Reads its boards; None: as usual.
    """
    boards = live or Live(site)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # A database that hangs must not keep every thread from whoever asks for what is read already.
        current_default_thread_limiter().total_tokens = _THREADS
        await boards.start()
        app.state.changes.start()
        yield
        app.state.changes.stop()
        await boards.stop()

    web = site.settings.web
    app = FastAPI(
        title="mqi_dagster",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.site = site
    app.state.live = boards
    app.state.doorkeeper = Doorkeeper(site)
    app.state.pages = Pages(site)
    app.state.reports = Reports(site, boards)
    app.state.changes = Changes(boards)
    app.state.metrics = monitoring.registry_of(boards)
    acting = Acting(site)
    app.state.pages.offer(asked=acting.asked, reviewed=acting.review, kind_of=kind_of)
    app.state.openid = None if web.openid is None else OpenIdSignIn(web.openid)
    app.state.once = Once()
    app.state.gate = DagsterGate(site)
    own = (login.router, single_sign_on.router, account.router, people.router, audit.router, gate.router)
    app.state.identities = Identities(site)
    work = (worklist.router, board.router, case.router, course.router, image_set.router, actions.router)
    for router in (*own, *work, monitoring.router, laboratory.router, api):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    for error in (MqiError, HTTPException, RequestValidationError):
        app.add_exception_handler(error, _answer_error)
    # Below the other, which makes a group of its error.
    app.add_middleware(BodyLimit)
    app.add_middleware(BaseHTTPMiddleware, dispatch=_dressed)
    app.add_middleware(Prefixed, prefix=web.prefix)
    app.add_middleware(PageGuard, names=[web.host], origins=web.origins, forms=True, setting="web.origins")
    return app


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


class Prefixed:
    """An ASGI application below a prefix, which a proxy in front may have taken off."""

    def __init__(self, app: App, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its whole address."""
        if self._prefix and scope["type"] in ("http", "websocket"):
            path = scope["path"]
            below = path == self._prefix or path.startswith(f"{self._prefix}/")
            whole = path if below else f"{self._prefix}{path}"
            scope = {**scope, "root_path": self._prefix, "path": whole}
        await self._app(scope, receive, send)


class BodyLimit:
    """An ASGI application that refuses what is larger than `LARGEST_BODY`."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and no more of its body than is allowed."""
        read = 0

        async def limited() -> dict[str, object]:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > LARGEST_BODY:
                # FastAPI takes any other error for a body that it cannot read.
                raise TooLarge(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return dict(message)

        await self._app(scope, limited, send)


async def _answer_error(request: Request, error: Exception) -> Response:
    pages: Pages = request.app.state.pages
    path = request.url.path.removeprefix(pages.prefix)
    wants_page = "text/html" in request.headers.get("accept", "")
    if path.startswith((API, GATE)) or not wants_page:
        return problem(error, request.method)
    if isinstance(error, SignInError) and request.method == "GET":
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{pages.prefix}/login?next={quote(path + query)}", HTTPStatus.SEE_OTHER)
    status = status_of(error, request.method)
    message = error.message if isinstance(error, MqiError) else ""
    title, back = status.phrase, _back(request)
    return pages.page(
        request, "error.html", None, status=status.value, title=title, message=message, back=back
    )


def _back(request: Request) -> str:
    """The page of ours whose form was refused; empty where it is none."""
    came = urlsplit(request.headers.get("referer", ""))
    ours = request.method == "POST" and came.netloc == request.url.netloc and not came.path.startswith("//")
    return came.path if ours else ""
