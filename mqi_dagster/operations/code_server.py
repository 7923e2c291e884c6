"""The code location's server: Dagster's own, with run workers that are forked from one warm process.

Dagster starts every run in a new interpreter, which imports Dagster and this package again: seconds of a
processor and a hundred megabytes for each. Here one process, without threads, imports them once, when the
code location starts; every worker is a copy of it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import threading
from logging import getLogger
from multiprocessing import forkserver, util
from pathlib import Path
from typing import Any

from mqi_dagster.dagster_server_internals import (
    DagsterApiServer,
    DagsterGrpcServer,
    FuturesAwareThreadPoolExecutor,
    LoadableTargetOrigin,
    configure_loggers,
    setup_interrupt_handlers,
)
from mqi_dagster.execution.code_location import LOCATION

DEFINITIONS = "mqi_dagster.definitions"
WARM = "mqi_dagster.operations.warm_process"
"""Names what that process imports."""


class CodeServer(DagsterApiServer):
    """Dagster's code server, whose run workers are forked from a process that has imported what they need.

    Args:
        arguments: Of Dagster's own.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        workers: Any = multiprocessing.get_context("forkserver")
        workers.set_forkserver_preload([WARM])
        self._mp_ctx = workers


def main() -> None:
    """Serve the definitions of the environment's site until the process is told to end."""
    parser = argparse.ArgumentParser(description="The code location of a site.")
    parser.add_argument("--socket", required=True)
    socket = parser.parse_args().socket
    setup_interrupt_handlers()
    configure_loggers(formatter="colored", log_level="INFO")
    ended, threads = threading.Event(), FuturesAwareThreadPoolExecutor()
    definitions = LoadableTargetOrigin(
        executable_path=sys.executable, working_directory=str(Path.cwd()), module_name=DEFINITIONS
    )
    logger = getLogger("dagster.code_server")
    server = DagsterGrpcServer(
        server_termination_event=ended,
        dagster_api_servicer=CodeServer(
            server_termination_event=ended,
            logger=logger,
            server_threadpool_executor=threads,
            loadable_target_origin=definitions,
            location_name=LOCATION,
        ),
        logger=logger,
        threadpool_executor=threads,
        socket=socket,
    )
    _start_warm_process(Path(socket).parent)
    logger.info("the code location answers at %s", socket)
    try:
        server.serve()  # type: ignore[no-untyped-call]
    except KeyboardInterrupt:
        logger.info("the code location was interrupted")


def _start_warm_process(folder: Path) -> None:
    """Start the process that workers are forked from; its socket lies where only this user can reach it."""
    # Up to Python 3.11.0 it would be one that every user of this machine can reach (CVE-2022-42919).
    vars(util)["abstract_sockets_supported"] = False
    # A temporary folder may have a longer path than a socket can have, and be cleaned.
    multiprocessing.current_process()._config["tempdir"] = str(folder)  # type: ignore[attr-defined]
    forkserver.ensure_running()


if __name__ == "__main__":
    main()
