"""What stands before pages, ours and Dagster's: requests that another site's page has sent go no further."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_JSON = "application/json"
_READS = ("GET", "HEAD")
_PORTS = {"http": 80, "https": 443}
_POLICY_VIOLATION = 1008
_UNKNOWN_NAME = (
    "These pages are not reached by this name. If it is one of theirs, add its address (https://name) to"
    " {setting} in mqi.yaml and start the pages anew."
)
_FOREIGN = (
    "This request comes from a page of another site. If that is an address of these pages, add it"
    " (https://name) to {setting} in mqi.yaml and start the pages anew."
)
_NOT_JSON = f"What changes something is sent as {_JSON}."
_NO_QUERY = f"GraphQL is asked by POST, as {_JSON}."

HostPort = tuple[str, int | None]
"""Name in small letters, and port; None where none is said."""


class RequestRefusedError(Exception):
    """A request that is not passed on.

    Args:
        status: HTTP status of the answer.
        reason: For the person who meant it.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class PageGuard:
    """An ASGI application that passes on what the pages themselves, or a program of ours, have sent.

    Args:
        app: Dagster's pages.
        names: Host names of this machine by which they are reached. The loopback's names, and any address in
            digits, are always taken: no foreign name can be made to point to those in a browser's eyes.
        origins: Addresses of a proxy in front of them, ``https://name[:port]``.
        forms: Whether the pages have forms; else what changes something is sent as JSON.
        setting: Where the site names the origins.
    """

    def __init__(
        self,
        app: App,
        names: Iterable[str] = (),
        origins: Iterable[str] = (),
        *,
        forms: bool = False,
        setting: str = "ui.origins",
    ) -> None:
        self._app = app
        self._forms = forms
        self._unknown_name, self._foreign = (
            words.format(setting=setting) for words in (_UNKNOWN_NAME, _FOREIGN)
        )
        self._origins = {_origin(one) for one in origins}
        self._names = {"localhost", *(_plain(name) for name in names), *(host for host, _ in self._origins)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have the pages answer it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            self._require_own(scope)
        except RequestRefusedError as refusal:
            await _refuse(scope, send, refusal)
            return
        await self._app(scope, receive, _never_framed(send))

    def _require_own(self, scope: Scope) -> None:
        host = _host_port(_one(scope, b"host", self._unknown_name))
        if host is None or not (host[0] in self._names or _is_address(host[0])):
            raise RequestRefusedError(403, self._unknown_name)
        origin = _one(scope, b"origin", self._foreign, missing="")
        if origin and not _same(_origin_or_none(origin), host):
            raise RequestRefusedError(403, self._foreign)
        method = scope.get("method", "GET")
        fetched = _one(scope, b"sec-fetch-site", self._foreign, missing="none").lower()
        if fetched not in ("same-origin", "none") and not self._is_link(scope, method):
            raise RequestRefusedError(403, self._foreign)
        if scope["type"] == "websocket" or self._forms:
            return
        if method not in _READS:
            kind = _one(scope, b"content-type", _NOT_JSON, missing="").split(";")[0].strip().lower()
            if kind != _JSON:
                raise RequestRefusedError(415, _NOT_JSON)
        elif scope["path"].rstrip("/").endswith("/graphql") and scope.get("query_string"):
            raise RequestRefusedError(405, _NO_QUERY)

    def _is_link(self, scope: Scope, method: str) -> bool:
        """Whether a person has followed a link to a page, as from a mail or a portal."""
        mode = _one(scope, b"sec-fetch-mode", self._foreign, missing="").lower()
        target = _one(scope, b"sec-fetch-dest", self._foreign, missing="").lower()
        return scope["type"] == "http" and method == "GET" and (mode, target) == ("navigate", "document")


def _one(scope: Scope, name: bytes, reason: str, missing: str | None = None) -> str:
    """The value of a header that may stand there once."""
    values = [value.decode("latin-1").strip() for key, value in scope["headers"] if key.lower() == name]
    if len(values) == 1:
        return str(values[0])
    if values or missing is None:
        raise RequestRefusedError(400, reason)
    return missing


def _plain(name: str) -> str:
    return name.strip("[]").rstrip(".").lower()


def _host_port(netloc: str) -> HostPort | None:
    """Name and port of a Host header, None where it is none."""
    try:
        parts = urlsplit(f"//{netloc}")
        if parts.netloc != netloc or parts.username is not None or parts.hostname is None:
            return None
        return _plain(parts.hostname), parts.port
    except ValueError:
        return None


def _origin(text: str) -> tuple[str, int]:
    """Name and port of an origin.

    Raises:
        ValueError: It is none.
    """
    parts = urlsplit(text)
    host_port = _host_port(parts.netloc)
    if parts.scheme not in _PORTS or host_port is None or text != f"{parts.scheme}://{parts.netloc}":
        raise ValueError("an origin is http://name or https://name, with a port where it is another one")
    return host_port[0], host_port[1] or _PORTS[parts.scheme]


def _origin_or_none(text: str) -> tuple[str, int] | None:
    try:
        return _origin(text)
    except ValueError:
        return None


def _same(origin: tuple[str, int] | None, host: HostPort) -> bool:
    """Whether a page of an origin speaks to its own server.

    Behind a proxy that ends TLS nobody knows the scheme: without a port either default is meant.
    """
    if origin is None or origin[0] != host[0]:
        return False
    return origin[1] == host[1] if host[1] is not None else origin[1] in _PORTS.values()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _never_framed(send: Send) -> Send:
    """Answers say that no other page may show them in a frame: a click there would be a click here."""

    async def passed_on(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"x-frame-options", b"DENY")]
            message = {**message, "headers": headers}
        await send(message)

    return passed_on


async def _refuse(scope: Scope, send: Send, refusal: RequestRefusedError) -> None:
    if scope["type"] == "websocket":
        # Before the handshake is answered: the browser is told 403.
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        return
    body = f"{refusal.reason}\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        # What was sent is not read: the connection cannot be used again.
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
