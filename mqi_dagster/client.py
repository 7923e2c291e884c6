"""A client of ``/api/v1`` for programs and notebooks: typed rows, and actions that may be sent again.

from mqi_dagster.client import Client

with Client.from_environment() as mqi:
    for case in mqi.cases(state=["failed"]):
        mqi.retry(case.case)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx
from pydantic import BaseModel, TypeAdapter

from mqi_dagster.backoff import Backoff
from mqi_dagster.errors import (
    AtWorkError,
    ConfigurationError,
    InfrastructureError,
    InputError,
    KeyRejectedError,
    KeyReusedError,
    MqiError,
    NotAllowedError,
    SignInError,
)
from mqi_dagster.ledger.signatures import Verdict
from mqi_dagster.operations.course_results import CourseResult
from mqi_dagster.operations.results import BeamRow
from mqi_dagster.partitions import BEAM, COURSE
from mqi_dagster.settings.passwords import read_password
from mqi_dagster.web.api.models import LONGEST_PAGE, AuditEntry, Done, Me, Page, ReviewRow, StatusChange
from mqi_dagster.worklist import AlarmStatus, BeamStatus, CaseStatus, GpuStatus, QueueStatus, Work

ADDRESS_VARIABLE, TOKEN_VARIABLE, TOKEN_FILE_VARIABLE = "MQI_URL", "MQI_TOKEN", "MQI_TOKEN_FILE"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_TRIES = 6
_BETWEEN = Backoff(0.5, 15.0)
_SILENT_SECONDS = 45.0
"""A stream gives a sign of life every ten."""
_PASSING = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
_ERRORS: Mapping[int, type[MqiError]] = {
    HTTPStatus.UNAUTHORIZED: SignInError,
    HTTPStatus.FORBIDDEN: NotAllowedError,
    HTTPStatus.NOT_FOUND: KeyRejectedError,
}
_CODES: Mapping[str, type[MqiError]] = {
    f"urn:mqi:error:{one.code}": one for one in (AtWorkError, KeyReusedError)
}
Row = TypeVar("Row", bound=BaseModel)
Model = TypeVar("Model")


@dataclass(frozen=True, slots=True)
class Event:
    """What a stream of changes has told."""

    id: str
    """From here on it goes on, in another process as well."""
    change: StatusChange | None
    """None where some changes were missed: read what matters again."""


class Client:
    """One site's interface.

    Reads, and actions, which bear a key of their own, are sent again where the site cannot be reached for a
    moment: nothing is done twice by that.

    Args:
        address: Of the pages, with the prefix of a proxy: ``https://mqi.example.org/mqi``.
        token: As `mqi token` or an account's page has made it.
        http: Sends the requests; one of this client's own where None.
        sleep: Waits between two tries.

    Raises:
        ConfigurationError: The address would carry the token over a network in clear.
    """

    def __init__(
        self,
        address: str,
        token: str,
        *,
        http: httpx.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(address)
        if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in _LOOPBACK):
            raise ConfigurationError("the address is https://…, or http:// of this machine")
        self._address = f"{address.rstrip('/')}/api/v1"
        self._http = httpx.Client(timeout=30.0) if http is None else http
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": "mqi-dagster"}
        self._sleep = sleep

    @classmethod
    def from_environment(cls) -> Self:
        """The site of `MQI_URL`, with the token in the file that `MQI_TOKEN_FILE` names, or in `MQI_TOKEN`.

        Raises:
            ConfigurationError: There is no token, or its file is open to others.
        """
        file = os.environ.get(TOKEN_FILE_VARIABLE)
        token = read_password(Path(file), TOKEN_FILE_VARIABLE) if file else os.environ.get(TOKEN_VARIABLE)
        if not token:
            raise ConfigurationError(f"set {TOKEN_FILE_VARIABLE} to a file with a token, mode 0600")
        return cls(os.environ.get(ADDRESS_VARIABLE, "http://127.0.0.1:8000"), token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the connections go."""
        self._http.close()

    # What is read

    def me(self) -> Me:
        """Who asks, and what they may do."""
        return self._get("me", Me)

    def work(self) -> Work:
        """Everything at one moment."""
        return self._get("work", Work)

    def cases(self, **wanted: Any) -> Iterator[CaseStatus]:
        """The cases, page by page.

        Args:
            **wanted: ``state``, ``stage``, ``machine`` (lists), ``q``, ``sort``, ``order``: see docs/api.md.
        """
        return self._rows("cases", CaseStatus, wanted)

    def case(self, key: str) -> CaseStatus:
        """One case."""
        return self._get(f"cases/{_part(key)}", CaseStatus)

    def beams(self, case: str | None = None, **wanted: Any) -> Iterator[BeamStatus]:
        """The beams of a case, or of all; see `cases`."""
        return self._rows("beams" if case is None else f"cases/{_part(case)}/beams", BeamStatus, wanted)

    def beam(self, key: str) -> BeamStatus:
        """One beam."""
        return self._get(f"beams/{_part(key)}", BeamStatus)

    def results(self, case: str) -> list[BeamRow]:
        """What came of the beams of a case, in numbers."""
        return self._get(f"cases/{_part(case)}/results", list[BeamRow])

    def courses(self, **wanted: Any) -> Iterator[CaseStatus]:
        """The courses; see `cases`."""
        return self._rows("courses", CaseStatus, wanted)

    def course(self, key: str) -> CaseStatus:
        """One course."""
        return self._get(f"courses/{_part(key)}", CaseStatus)

    def course_result(self, key: str) -> CourseResult:
        """What came of a course."""
        return self._get(f"courses/{_part(key)}/results", CourseResult)

    def gpus(self) -> list[GpuStatus]:
        """Every slot of the pool, and every device seen that is none."""
        return self._get("gpus", list[GpuStatus])

    def queue(self) -> QueueStatus:
        """The run queue and its limits."""
        return self._get("queue", QueueStatus)

    def alarms(self) -> list[AlarmStatus]:
        """What a person should know now."""
        return self._get("alarms", list[AlarmStatus])

    def audit(self, **wanted: Any) -> Iterator[AuditEntry]:
        """The audit, the newest row first; ``subject`` and ``actor`` choose."""
        return self._rows("audit", AuditEntry, wanted)

    def events(self, last: str = "") -> Iterator[Event]:
        """Changes of status as they come, without an end; a stream that breaks is opened again.

        Args:
            last: Id of the last event that was dealt with; empty: from now on.

        Raises:
            SignInError: The token is worth nothing any more.
        """
        failures = 0
        while True:
            try:
                for name, identity, data in self._stream(last):
                    last, failures = identity or last, 0
                    if name == "status":
                        yield Event(last, StatusChange.model_validate_json(data))
                    elif name == "reset":
                        yield Event(last, None)
            except (httpx.TransportError, InfrastructureError):
                pass
            failures += 1
            self._sleep(_BETWEEN.seconds(failures))

    # What is done

    def retry(self, key: str) -> Done:
        """Have what failed of a case, a beam or a course run once more."""
        return self._act(key, "retry")

    def cancel(self, key: str) -> Done:
        """End what is queued or in work of a case, a beam or a course."""
        return self._act(key, "cancel")

    def retake(self, key: str) -> Done:
        """Have a case or a course taken in once more."""
        return self._act(key, "retake")

    def review(self, key: str) -> ReviewRow:
        """What people have said of the results of a case, a beam or a course."""
        return self._get(f"{_of(key)}/review", ReviewRow)

    def sign(self, seen: ReviewRow, verdict: Verdict, reason: str, password: str) -> Done:
        """Accept or reject results as `review` has shown them: nothing else is signed."""
        body = {"verdict": verdict, "reason": reason, "password": password, "seen": seen.seen}
        return self._act(seen.partition, "review", body)

    def set_priority(self, key: str, priority: int) -> Done:
        """Say how urgent a case is, from -100 to 100."""
        return self._act(key, "priority", {"priority": priority})

    def gpu_off(self, host: str, gpu: str | int, reason: str) -> Done:
        """Take a slot out of the pool."""
        return self._post(f"gpus/{_part(host)}/{_part(str(gpu))}/off", {"reason": reason})

    def gpu_on(self, host: str, gpu: str | int) -> Done:
        """Put a slot back into the pool."""
        return self._post(f"gpus/{_part(host)}/{_part(str(gpu))}/on")

    def dismiss(self, alarm: int) -> Done:
        """Clear an alarm by its id."""
        return self._post(f"alarms/{alarm}/dismiss")

    def _act(self, key: str, action: str, body: Mapping[str, Any] | None = None) -> Done:
        return self._post(f"{_of(key)}/{action}", body)

    def _post(self, path: str, body: Mapping[str, Any] | None = None) -> Done:
        headers = {"Idempotency-Key": uuid4().hex}
        return Done.model_validate_json(self._ask("POST", path, headers=headers, json=body).content)

    def _get(self, path: str, model: type[Model]) -> Model:
        return TypeAdapter(model).validate_json(self._ask("GET", path).content)

    def _rows(self, path: str, model: type[Row], wanted: Mapping[str, Any]) -> Iterator[Row]:
        asked = {"limit": LONGEST_PAGE, **wanted}
        while True:
            answer = self._ask("GET", path, params=asked)
            page = Page[model].model_validate_json(answer.content)  # type: ignore[valid-type]
            yield from page.items
            if page.next is None:
                return
            asked["cursor"] = page.next

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {**self._headers, **options.pop("headers", {})}
        failures = 0
        while True:
            error: MqiError
            wait = 0.0
            try:
                answer = self._http.request(method, f"{self._address}/{path}", headers=headers, **options)
                if answer.status_code < HTTPStatus.BAD_REQUEST:
                    return answer
                error = _error(answer)
                wait = float(answer.headers.get("retry-after", "0"))
                if not isinstance(error, AtWorkError) and answer.status_code not in _PASSING:
                    raise error
            except httpx.TransportError as failure:
                error = InfrastructureError(f"the site cannot be reached: {type(failure).__name__}")
            failures += 1
            if failures == _TRIES:
                raise error
            self._sleep(max(wait, _BETWEEN.seconds(failures)))

    def _stream(self, last: str) -> Iterator[tuple[str, str, str]]:
        """Name, id and data of the events of one stream, as HTML's standard defines them."""
        headers = {**self._headers, **({"Last-Event-ID": last} if last else {})}
        url, limit = f"{self._address}/events", httpx.Timeout(30.0, read=_SILENT_SECONDS)
        with self._http.stream("GET", url, headers=headers, timeout=limit) as answer:
            if answer.status_code != HTTPStatus.OK:
                answer.read()
                raise _error(answer)
            found: dict[str, str] = {}
            for line in answer.iter_lines():
                name, _, value = line.partition(":")
                if line == "":
                    if "event" in found:
                        yield found["event"], found.get("id", ""), found.get("data", "")
                    found = {}
                elif name == "data" and "data" in found:
                    found["data"] += f"\n{value.removeprefix(' ')}"
                elif name:
                    found[name] = value.removeprefix(" ")


def _part(text: str) -> str:
    """A part of an address; never one that leads elsewhere."""
    if text in ("", ".", ".."):
        raise InputError(f"{text!r} is no key")
    return quote(text, safe="")


def _of(key: str) -> str:
    units = "beams" if BEAM.has(key) else "courses" if COURSE.has(key) else "cases"
    return f"{units}/{_part(key)}"


def _error(answer: httpx.Response) -> MqiError:
    """The error that an answer tells."""
    try:
        told = answer.json()
    except ValueError:
        told = {}
    problem = told if isinstance(told, dict) else {}
    status = answer.status_code
    usual = InputError if status < HTTPStatus.INTERNAL_SERVER_ERROR else InfrastructureError
    kind = _CODES.get(str(problem.get("type")), _ERRORS.get(status, usual))
    wrong = "; ".join(f"{one['where']}: {one['what']}" for one in problem.get("errors", ()))
    return kind(str(problem.get("detail") or wrong or f"HTTP {status}"))
