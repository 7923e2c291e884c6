"""The two ways to work: calls to the server, or a folder that is shared with it.

Whatever does not get through is an `UnreachableError` and may be repeated; a lease that is over is a
`LeaseLostError`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx
from pydantic import ValidationError

from mqi_dagster.errors import (
    ConfigurationError,
    InfrastructureError,
    InputError,
    LeaseLostError,
    NotAllowedError,
    UnreachableError,
)
from mqi_dagster.execution.work import (
    API,
    LARGEST_PIECE,
    LEASE_HEADER,
    Capabilities,
    Claim,
    End,
    Ended,
    Heartbeat,
    Hello,
    MadeOutput,
    Offer,
    Part,
    Pulse,
    Received,
)
from mqi_dagster.execution.work_folder import GivenBack, SharedFolder, Shelf
from mqi_dagster.files import sha256_file, whole_file
from mqi_dagster.settings.passwords import read_password
from mqi_dagster.worker.configuration import Configuration

_Told = TypeVar("_Told", bound=Part)
_CONNECT_SECONDS = 10.0
_DAMAGED_AT_MOST = 5
_LOOK_SECONDS = 2.0


class Way(Protocol):
    """What a worker asks, wherever it asks it; every call may be repeated."""

    def hello(self) -> str:
        """Whether there is somebody to ask, in words; the error where there is nobody."""
        ...

    def tell(self, has: Capabilities) -> None:
        """Tell what this worker is; without devices it says farewell."""
        ...

    def claim(self, has: Capabilities, slot: int, wait: Callable[[float], bool]) -> Offer | None:
        """A job for a slot, None where none came; ``wait`` lets seconds pass and tells whether to stop."""
        ...

    def inputs(self, offer: Offer, target: Path) -> None:
        """Fetch the inputs of a job as a tar file; goes on where an earlier call was cut."""
        ...

    def beat(self, offer: Offer, told: Heartbeat) -> Pulse:
        """Tell that the job is at work."""
        ...

    def output(self, offer: Offer, number: int, source: Path, made: MadeOutput) -> None:
        """Send an output; goes on where an earlier call was cut."""
        ...

    def give_back(self, offer: Offer, end: End, ended: Ended) -> None:
        """Tell how the job has ended."""
        ...


def way_of(configuration: Configuration) -> Way:
    """The way that a worker is configured for.

    Raises:
        ConfigurationError: Token, certificates or folder cannot be used.
    """
    return FolderWay(configuration) if configuration.folder is not None else HttpsWay(configuration)


class HttpsWay:
    """Calls to the server."""

    def __init__(self, configuration: Configuration) -> None:
        assert configuration.server is not None and configuration.token_file is not None
        token = read_password(configuration.token_file, "the token file")
        try:
            trusted = ssl.create_default_context(cafile=configuration.ca_file)
        except (OSError, ssl.SSLError):
            raise ConfigurationError("ca_file cannot be read: it holds certificates in PEM") from None
        self._wait_seconds, self._call_seconds = configuration.wait_seconds, configuration.call_seconds
        self._claims: dict[int, str] = {}
        self._client = httpx.Client(
            base_url=configuration.server.rstrip("/") + API,
            headers={"authorization": f"Bearer {token}", "accept-encoding": "identity"},
            timeout=httpx.Timeout(configuration.call_seconds, connect=_CONNECT_SECONDS),
            # The server keeps a connection for 5 s: one that it is about to close is not used again.
            limits=httpx.Limits(keepalive_expiry=3.0),
            verify=trusted,
        )

    def hello(self) -> str:
        """See `Way.hello`."""
        return f"{_read(Hello, self._call('GET', '/hello')).site} knows this worker's token"

    def tell(self, has: Capabilities) -> None:
        """See `Way.tell`."""
        self._call("POST", "/claim", content=Claim(id=secrets.token_hex(16), has=has).model_dump_json())

    def claim(self, has: Capabilities, slot: int, wait: Callable[[float], bool]) -> Offer | None:
        """See `Way.claim`."""
        # Kept until there is an answer: a job that was given in one that was lost is given again.
        claim_id = self._claims.setdefault(slot, secrets.token_hex(16))
        asked = Claim(id=claim_id, has=has, slot=slot, wait_seconds=self._wait_seconds)
        limit = httpx.Timeout(self._call_seconds + self._wait_seconds, connect=_CONNECT_SECONDS)
        answer = self._call("POST", "/claim", content=asked.model_dump_json(), timeout=limit)
        # Also after one that is not understood: another worker may understand it.
        del self._claims[slot]
        return None if answer.status_code == httpx.codes.NO_CONTENT else _read(Offer, answer)

    def inputs(self, offer: Offer, target: Path) -> None:
        """See `Way.inputs`."""
        have = target.stat().st_size if target.exists() else 0
        headers = {LEASE_HEADER: offer.lease, **({"range": f"bytes={have}-"} if have else {})}
        with _reached(), self._client.stream("GET", f"/{offer.id}/inputs", headers=headers) as answer:
            if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return
            if not answer.is_success:
                answer.read()
            _require(answer, of_lease=True)
            goes_on = answer.status_code == httpx.codes.PARTIAL_CONTENT
            with target.open("ab" if goes_on else "wb") as stream:
                for piece in answer.iter_raw(LARGEST_PIECE):
                    stream.write(piece)

    def beat(self, offer: Offer, told: Heartbeat) -> Pulse:
        """See `Way.beat`."""
        return _read(Pulse, self._of_lease("POST", offer, "heartbeat", content=told.model_dump_json()))

    def output(self, offer: Offer, number: int, source: Path, made: MadeOutput) -> None:
        """See `Way.output`."""
        here = damaged = 0
        told: dict[str, str | int] = {"size": made.size, "sha256": made.sha256}
        with source.open("rb") as stream:
            while True:
                stream.seek(here)
                answer = self._of_lease(
                    "PUT",
                    offer,
                    f"outputs/{number}",
                    params={**told, "offset": here},
                    content=stream.read(LARGEST_PIECE),
                )
                before, here = here, _read(Received, answer).size
                damaged += here < before
                if here == made.size:
                    return
                if damaged > _DAMAGED_AT_MOST:
                    raise InfrastructureError(f"output {number} was damaged on its way {damaged} times")

    def give_back(self, offer: Offer, end: End, ended: Ended) -> None:
        """See `Way.give_back`."""
        content = None if end is End.RELEASE else ended.model_dump_json()
        self._of_lease("POST", offer, end.value, content=content)

    def _of_lease(self, method: str, offer: Offer, what: str, **more: Any) -> httpx.Response:
        headers = {LEASE_HEADER: offer.lease}
        return self._call(method, f"/{offer.id}/{what}", of_lease=True, headers=headers, **more)

    def _call(self, method: str, path: str, *, of_lease: bool = False, **more: Any) -> httpx.Response:
        if isinstance(more.get("content"), str):
            more["headers"] = {**more.get("headers", {}), "content-type": "application/json"}
        with _reached():
            return _require(self._client.request(method, path, **more), of_lease=of_lease)


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise UnreachableError(f"the server does not answer ({type(error).__name__})") from None


def _require(answer: httpx.Response, *, of_lease: bool) -> httpx.Response:
    """An answer that says yes; else the error that it is."""
    status = answer.status_code
    if answer.is_success:
        return answer
    try:
        told = answer.json()
        kind, detail = str(told.get("type", "")), str(told.get("detail") or told.get("title", ""))
    except (ValueError, AttributeError):
        kind = detail = ""
    words = f"the server answers {status}" + (f": {detail}" if detail else "")
    if of_lease and (kind.endswith(":lease-lost") or status == httpx.codes.NOT_FOUND):
        raise LeaseLostError(words)
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise NotAllowedError(f"{words}. Is the token valid, and of an account with the role worker?")
    if status in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS) or status >= 500:
        raise UnreachableError(words)
    if answer.is_redirect or status == httpx.codes.NOT_FOUND:
        raise ConfigurationError(f"{words}: is server the address of the site's own pages?")
    raise InputError(words)


def _read(kind: type[_Told], answer: httpx.Response) -> _Told:
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError:
        raise UnreachableError("the server's answer is not understood: is it of another version?") from None


class FolderWay:
    """A folder that is shared with the server."""

    def __init__(self, configuration: Configuration) -> None:
        assert configuration.folder is not None
        self._folder = SharedFolder(configuration.folder)
        self._wait_seconds, self._worker = configuration.wait_seconds, configuration.name
        self._names: dict[str, str] = {}

    def hello(self) -> str:
        """See `Way.hello`."""
        with _mounted():
            return f"{len(self._folder.names(Shelf.WAITING))} jobs wait in it"

    def tell(self, has: Capabilities) -> None:
        """See `Way.tell`."""
        with _mounted():
            self._folder.write(Shelf.WORKERS, has.worker, has.model_dump_json().encode())

    def claim(self, has: Capabilities, slot: int, wait: Callable[[float], bool]) -> Offer | None:
        """See `Way.claim`."""
        self.tell(has)
        waited = 0.0
        while True:
            with _mounted():
                for name in self._folder.names(Shelf.WAITING):
                    if (offer := self._claimed(name, has, slot)) is not None:
                        return offer
            if waited >= self._wait_seconds or wait(_LOOK_SECONDS):
                return None
            waited += _LOOK_SECONDS

    def _claimed(self, name: str, has: Capabilities, slot: int) -> Offer | None:
        try:
            offer = Offer.model_validate_json(self._folder.read(Shelf.WAITING, name))
            if offer.work.needs.lacking(has, has.devices[slot]):
                return None
            self._folder.path(Shelf.WAITING, name).rename(self._folder.path(Shelf.CLAIMED, name))
        except (FileNotFoundError, ValidationError, InputError):
            # Another worker was faster, or it is no job.
            return None
        self._names[offer.lease] = name
        return offer

    def inputs(self, offer: Offer, target: Path) -> None:
        """See `Way.inputs`."""
        with (
            self._held(offer) as name,
            os.fdopen(self._folder.open(Shelf.INPUTS, name), "rb") as source,
            target.open("wb") as stream,
        ):
            shutil.copyfileobj(source, stream, LARGEST_PIECE)

    def beat(self, offer: Offer, told: Heartbeat) -> Pulse:
        """See `Way.beat`."""
        with self._held(offer) as name:
            log = self._folder.path(Shelf.LOGS, name)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(log, flags, self._folder.file_mode), "ab") as stream:
                if told.offset == stream.tell():
                    stream.write(told.log.encode("latin-1"))
                size = stream.tell()
            alive = told.model_copy(update={"log": "", "offset": 0})
            self._folder.write(Shelf.BEATS, name, alive.model_dump_json().encode())
            cancelled = os.path.lexists(self._folder.path(Shelf.CANCELLED, name))
            return Pulse(goes_on=not cancelled, log_bytes=size)

    def output(self, offer: Offer, number: int, source: Path, made: MadeOutput) -> None:
        """See `Way.output`."""
        with self._held(offer) as name:
            target = self._folder.path(Shelf.OUTPUTS, f"{name}.{number}")
            with source.open("rb") as stream, whole_file(target, self._folder.file_mode) as copy:
                shutil.copyfileobj(stream, copy, LARGEST_PIECE)

    def give_back(self, offer: Offer, end: End, ended: Ended) -> None:
        """See `Way.give_back`."""
        with self._held(offer) as name:
            made = {
                number: made_output(self._folder.path(Shelf.OUTPUTS, f"{name}.{number}"))
                for number in range(1, len(offer.outputs) + 1)
                if end is End.COMPLETE
            }
            back = GivenBack(end=end, ended=ended, outputs=made)
            self._folder.write(Shelf.ENDED, name, back.model_dump_json().encode())

    @contextmanager
    def _held(self, offer: Offer) -> Iterator[str]:
        """The name of a lease that the server still knows."""
        name = self._names[offer.lease]
        with _mounted():
            if not os.path.lexists(self._folder.path(Shelf.CLAIMED, name)):
                raise LeaseLostError("this lease of the job is over: the server has taken it back")
            yield name


@contextmanager
def _mounted() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnreachableError(f"the shared folder cannot be used: {error.strerror}") from None


def made_output(path: Path) -> MadeOutput:
    """An output as it is announced."""
    return MadeOutput(size=path.stat().st_size, sha256=sha256_file(path))
