"""Dagster's pages of an empty workspace on a port of the loopback, with or without the guard."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import dagster as dg
import uvicorn
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster_webserver.webserver import DagsterWebserver

from mqi_dagster.operations.page_server import GuardedWebserver

MUTATION = 'mutation { setConcurrencyLimit(concurrencyKey: "%s", limit: 1) }'
"""One that leaves something behind which can be looked for."""


@contextmanager
def served(
    instance: dg.DagsterInstance, *, guarded: bool = True, origins: Sequence[str] = (), prefix: str = ""
) -> Iterator[int]:
    """The port of running pages."""
    with WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget([])) as context:
        pages: DagsterWebserver[Any, Any] = (
            GuardedWebserver(context, ["127.0.0.1"], origins, prefix)
            if guarded
            else DagsterWebserver(context)
        )
        with listening(pages.create_asgi_app()) as port:
            yield port


@contextmanager
def listening(app: Any, lifespan: Literal["on", "off"] = "off") -> Iterator[int]:
    """The port of an ASGI application that answers; ``on``: it is told when it starts and ends."""
    ready = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            ready.set()

    server = Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan=lifespan))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(60)


def left_behind(instance: dg.DagsterInstance) -> set[str]:
    """What mutations have set."""
    return set(instance.event_log_storage.get_concurrency_keys())
