"""What the pages push, read as a browser reads it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import uvicorn

from mqi_dagster.operations.people import sign_in
from mqi_dagster.resources.site import Site
from mqi_dagster.web.access import Doorkeeper
from mqi_dagster.web.application import create_app
from mqi_dagster.web.live import Live
from tests.waiting import wait_for


class Listener:
    """Reads a stream in the background.

    Args:
        address: Of the pages.
        path: Of the stream.
        cookies: Of whoever listens.
    """

    def __init__(self, address: str, path: str, cookies: dict[str, str]) -> None:
        self._client = httpx.Client(base_url=address, cookies=cookies, timeout=120)
        self._path = path
        self.parts: list[str] = []
        """HTML that was pushed, the newest last."""
        self.beats = 0
        self.ended = False
        """Whether the server has said that it ends."""
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        name, data = "", list[str]()
        # A server that is stopped cuts the line.
        with suppress(httpx.TransportError), self._client.stream("GET", self._path) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name, data = line[7:], []
                elif line.startswith("data: "):
                    data.append(line[6:])
                elif not line:
                    self._take(name, "\n".join(data))
                    name = ""

    def close(self) -> None:
        """Go away without a word."""
        self._client.close()

    def _take(self, name: str, data: str) -> None:
        if name == "part":
            self.parts.append(data)
        self.beats += name == "beat"
        self.ended = self.ended or name == "end"

    @property
    def shown(self) -> str:
        """What stands in the page now."""
        return self.parts[-1] if self.parts else ""


@contextmanager
def served(site: Site) -> Iterator[tuple[str, Live]]:
    """The address of the pages of a site, which look often, and what reads for them."""
    live = Live(site, 0.1, beat=0.3)
    server = uvicorn.Server(
        uvicorn.Config(create_app(site, live), port=0, log_level="warning", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started, "the server listens")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", live
    finally:
        server.should_exit = True
        thread.join()


def signed_in(site: Site, name: str) -> dict[str, str]:
    """The cookies of a browser in which somebody has signed in."""
    account = site.ledger.accounts.get(name)
    assert account is not None
    return {Doorkeeper(site).cookie: sign_in(site, account, "password").secret}
