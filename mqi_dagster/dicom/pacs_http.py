"""HTTP to a PACS: what is sent and answered, and what its refusals mean."""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from json import dumps, loads
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError, ProtocolError, TimeoutError

from mqi_dagster.dicom.reading import LARGEST_BYTES
from mqi_dagster.errors import ConfigurationError, InfrastructureError, UnreachableError, Where, shown
from mqi_dagster.settings.passwords import read_password
from mqi_dagster.settings.radiotherapy import OrthancSource

# It tells every address, and there stand the names by which a PACS knows its patients' images.
logging.getLogger("urllib3").setLevel(logging.WARNING)

AT_ONCE = 4
"""Files that are fetched at once; more do not make an Orthanc faster."""


class RefusedError(UnreachableError):
    """It does not give what was asked for, and perhaps that alone."""


class UnusableError(InfrastructureError):
    """What it gives cannot be taken."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a PACS has answered."""

    status_code: int
    headers: Mapping[str, str]
    """By name, in whatever case."""
    content: bytes

    @property
    def is_success(self) -> bool:
        """Whether it has done what was asked."""
        return 200 <= self.status_code < 300

    def json(self) -> Any:
        """Its content; ValueError where it is no JSON."""
        return loads(self.content)


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
        self._base = source.url.rstrip("/")
        self._headers = {
            # Before 1.12.2 an Orthanc compresses every answer for whoever lets it: 60 times slower.
            "Accept-Encoding": "identity",
            "User-Agent": "mqi-dagster",
        }
        if source.user is not None and source.password_file is not None:
            password = read_password(source.password_file, f"{what}'s password_file")
            credentials = base64.b64encode(f"{source.user}:{password}".encode()).decode("ascii")
            self._headers["Authorization"] = f"Basic {credentials}"
        # Never through a proxy of the environment: patients go from the PACS to here alone.
        self._pool = urllib3.PoolManager(
            maxsize=AT_ONCE, block=True, timeout=urllib3.Timeout(source.timeout_seconds), retries=False
        )

    def send(
        self,
        method: str,
        path: str,
        *,
        largest: int = LARGEST_BYTES,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        json: object = None,
    ) -> Answer:
        """The answer to a request, of whatever status below 500 but 401, 403 and 429.

        Args:
            method: Of HTTP.
            path: Below the address of the PACS.
            largest: More bytes are no answer.
            headers: Further ones.
            content: What is sent.
            json: In place of it what is sent as JSON.

        Raises:
            UnreachableError: It does not answer.
            RefusedError: It answers that it cannot now, or not to its end.
            UnusableError: The answer is larger than it may be.
            ConfigurationError: It lets this user not in.
        """
        told = {**self._headers, **(headers or {})}
        if json is not None:
            content, told["Content-Type"] = dumps(json).encode(), "application/json"
        try:
            # To no other address, whatever it answers.
            answer = self._pool.request(
                method,
                f"{self._base}{path}",
                body=content,
                headers=told,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            with closing(answer):
                found = answer.read(largest + 1)
                if len(found) > largest:
                    raise UnusableError(f"its answer is larger than {largest:,} bytes", where=self.where)
                # That it ends early is told by whoever reads on.
                answer.read(1)
                # Only a connection whose answer was read to its end is used again.
                answer.release_conn()
        except ProtocolError:
            raise RefusedError("its answer ends early", where=self.where) from None
        except HTTPError as error:
            raise UnreachableError(f"it cannot be reached: {_reason(error)}", where=self.where) from None
        status = answer.status
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise ConfigurationError(
                f"it refuses the user: {self._section}.user and its password", where=self.where
            )
        if status == HTTPStatus.INSUFFICIENT_STORAGE:
            raise RefusedError("it has no room left", where=self.where)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
            raise RefusedError(f"it answers HTTP {status}{_said(found)}", where=self.where)
        return Answer(status, answer.headers, found)

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


def _said(content: bytes) -> str:
    """What an Orthanc says of an error, which is one of its own fixed texts."""
    try:
        return f": {shown(str(loads(content)['OrthancError']))}"
    except (ValueError, LookupError, TypeError):
        return ""


def _reason(error: HTTPError) -> str:
    """Why, in the words of the operating system where it has said any: its own may name an address."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return "it is silent" if isinstance(error, TimeoutError) else type(error).__name__
