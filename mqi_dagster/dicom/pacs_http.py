"""HTTP to a PACS: what is sent and answered, and what its refusals mean."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import httpx

from mqi_dagster.dicom.reading import LARGEST_BYTES
from mqi_dagster.errors import ConfigurationError, InfrastructureError, UnreachableError, Where, shown
from mqi_dagster.settings.passwords import read_password
from mqi_dagster.settings.radiotherapy import OrthancSource

# It tells every address, and there stand the names by which a PACS knows its patients' images.
logging.getLogger("httpx").setLevel(logging.WARNING)

AT_ONCE = 4
"""Files that are fetched at once; more do not make an Orthanc faster."""


class RefusedError(UnreachableError):
    """It does not give what was asked for, and perhaps that alone."""


class UnusableError(InfrastructureError):
    """What it gives cannot be taken."""


class PacsHttp:
    """Requests to a PACS, from any thread.

    Args:
        source: Where it is, and who asks.
        what: What it is called in errors.
        section: Of the settings, where its user stands.

    Raises:
        ConfigurationError: Its password cannot be read.
    """

    def __init__(self, source: OrthancSource, what: str, section: str) -> None:
        self.where = Where(kind=what)
        self._what, self._section = what, section
        auth = None
        if source.user is not None and source.password_file is not None:
            auth = httpx.BasicAuth(
                source.user, read_password(source.password_file, f"{what}'s password_file")
            )
        self._client = httpx.Client(
            base_url=source.url.rstrip("/"),
            auth=auth,
            timeout=source.timeout_seconds,
            # Never through a proxy, and to no other address: patients go from the PACS to here alone.
            trust_env=False,
            follow_redirects=False,
            # Before 1.12.2 an Orthanc compresses every answer for whoever lets it: 60 times slower.
            headers={"Accept-Encoding": "identity", "User-Agent": "mqi-dagster"},
            limits=httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE),
        )

    def send(self, method: str, path: str, *, largest: int = LARGEST_BYTES, **options: Any) -> httpx.Response:
        """The answer to a request, of whatever status below 500 but 401, 403 and 429.

        Raises:
            UnreachableError: It does not answer.
            RefusedError: It answers that it cannot now, or not to its end.
            UnusableError: The answer is larger than it may be.
            ConfigurationError: It lets this user not in.
        """
        content = bytearray()
        try:
            with self._client.stream(method, path, **options) as answer:
                for piece in answer.iter_raw():
                    content += piece
                    if len(content) > largest:
                        raise UnusableError(f"its answer is larger than {largest:,} bytes", where=self.where)
                status, headers = answer.status_code, answer.headers
        except (httpx.ReadError, httpx.RemoteProtocolError):
            raise RefusedError("its answer ends early", where=self.where) from None
        except httpx.HTTPError as error:
            raise UnreachableError(f"it cannot be reached: {_reason(error)}", where=self.where) from None
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise ConfigurationError(
                f"it refuses the user: {self._section}.user and its password", where=self.where
            )
        if status == HTTPStatus.INSUFFICIENT_STORAGE:
            raise RefusedError("it has no room left", where=self.where)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
            raise RefusedError(f"it answers HTTP {status}{_said(content)}", where=self.where)
        return httpx.Response(status, headers=headers, content=bytes(content))

    def json(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of an answer; None where there is no such thing. Raises what `send` does."""
        answer = self.send(method, path, **options)
        if answer.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.NO_CONTENT):
            return None
        with self.understood():
            if not answer.is_success:
                raise ValueError(answer.status_code)
            return answer.json()

    @contextmanager
    def understood(self) -> Iterator[None]:
        """Within it, an answer of another shape than expected is InfrastructureError."""
        try:
            yield
        except (ValueError, LookupError, TypeError, AttributeError):
            raise InfrastructureError(f"what answers is no {self._what}", where=self.where) from None


def _said(content: bytes | bytearray) -> str:
    """What an Orthanc says of an error, which is one of its own fixed texts."""
    try:
        return f": {shown(str(json.loads(content)['OrthancError']))}"
    except (ValueError, LookupError, TypeError):
        return ""


def _reason(error: httpx.HTTPError) -> str:
    """Why, in the words of the operating system where it has said any: httpx's own may name an address."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return "it is silent" if isinstance(error, httpx.TimeoutException) else type(error).__name__
