"""Dagster's pages as a process of ours: its own application behind `PageGuard`.

python -m mqi_dagster.operations.page_server --workspace FILE --host ADDRESS --port NUMBER
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import dagster as dg
import uvicorn
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver
from starlette.middleware import Middleware

from mqi_dagster.dagster_internals import WorkspaceFileTarget, WorkspaceProcessContext
from mqi_dagster.operations.page_guard import PageGuard

_STATEMENT_MILLISECONDS = 15_000
_RECYCLE_SECONDS = 3600
_MOST_CONNECTIONS = 20
_POLL_MILLISECONDS = 2000
"""As `dagster-webserver` has them."""


class GuardedWebserver(DagsterWebserver[Any, Any]):
    """Dagster's pages, of which nothing is reached but through the guard.

    Args:
        context: Dagster's workspace.
        names: See `PageGuard`.
        origins: See `PageGuard`.
        prefix: Path below which they are.
    """

    def __init__(self, context: Any, names: Sequence[str], origins: Sequence[str], prefix: str = "") -> None:
        super().__init__(context, prefix, live_data_poll_rate=_POLL_MILLISECONDS)
        self._names, self._allowed_origins = names, origins

    def build_middleware(self) -> list[Middleware]:
        """The guard first, then Dagster's own."""
        guard = Middleware(PageGuard, names=self._names, origins=self._allowed_origins)
        return [guard, *super().build_middleware()]


def main() -> None:
    """Serve the pages until the process is told to end."""
    parser = argparse.ArgumentParser(description="Dagster's pages behind the guard of this site.")
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path-prefix", default="")
    parser.add_argument("--origin", action="append", default=[])
    parser.add_argument("--read-only", action="store_true")
    wanted = parser.parse_args()
    with dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(_STATEMENT_MILLISECONDS, _RECYCLE_SECONDS, _MOST_CONNECTIONS)
        with WorkspaceProcessContext(
            instance,
            version=__version__,
            read_only=wanted.read_only,
            workspace_load_target=WorkspaceFileTarget([wanted.workspace]),
        ) as context:
            app = GuardedWebserver(
                context, [wanted.host], wanted.origin, wanted.path_prefix
            ).create_asgi_app()
            uvicorn.run(app, host=wanted.host, port=wanted.port, log_level="warning", lifespan="off")


if __name__ == "__main__":
    main()
