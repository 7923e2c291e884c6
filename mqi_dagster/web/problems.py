"""What an error becomes: a status of HTTP, and problem details as RFC 9457 wants them."""

from __future__ import annotations

from http import HTTPStatus

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mqi_dagster.errors import (
    AtWorkError,
    InfrastructureError,
    InputError,
    KeyRejectedError,
    KeyReusedError,
    LeaseLostError,
    MqiError,
    NotAllowedError,
    SignInError,
    TooManyTriesError,
)
from mqi_dagster.web.access import READS

MEDIA_TYPE = "application/problem+json"
_STATUS: tuple[tuple[type[MqiError], HTTPStatus], ...] = (
    (TooManyTriesError, HTTPStatus.TOO_MANY_REQUESTS),
    (SignInError, HTTPStatus.UNAUTHORIZED),
    (NotAllowedError, HTTPStatus.FORBIDDEN),
    (LeaseLostError, HTTPStatus.CONFLICT),
    (InfrastructureError, HTTPStatus.SERVICE_UNAVAILABLE),
    (KeyRejectedError, HTTPStatus.NOT_FOUND),
    (KeyReusedError, HTTPStatus.UNPROCESSABLE_ENTITY),
)


def status_of(error: Exception, method: str) -> HTTPStatus:
    """The status of HTTP that an error becomes."""
    if isinstance(error, HTTPException):
        return HTTPStatus(error.status_code)
    if isinstance(error, RequestValidationError):
        return HTTPStatus.UNPROCESSABLE_ENTITY
    if isinstance(error, ClientDisconnect):
        # Nobody reads it.
        return HTTPStatus.BAD_REQUEST
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
    headers = {"WWW-Authenticate": "Bearer"} if status is HTTPStatus.UNAUTHORIZED else {}
    if isinstance(error, AtWorkError | InfrastructureError):
        headers = {"Retry-After": "1" if isinstance(error, AtWorkError) else "5"}
    return JSONResponse(content, status, headers, MEDIA_TYPE)
