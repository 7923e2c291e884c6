"""Real PostgreSQL servers for tests: started from nothing in a folder of their own, and gone afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster import ClusterError, NotPreparedError
from postgres import Server, missing_packages

__all__ = ["ClusterError", "Server", "on_postgres", "running_postgres"]

on_postgres = pytest.param("postgresql", marks=[pytest.mark.slow, pytest.mark.postgres])
"""The parameter of a test that is repeated on a PostgreSQL server."""


@contextmanager
def running_postgres() -> Iterator[Server]:
    """A server; the test that needs it skips where the package is missing."""
    try:
        missing = missing_packages()
    except NotPreparedError as error:
        pytest.skip(str(error))
    if missing:
        pytest.skip(f"python3 deploy/postgres install: {' '.join(missing)}")
    # Short, because a socket lies below it, and where the server's own user can go.
    root = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="mqp"))
    server = Server(root, durable=False)
    try:
        server.start()
        yield server
    finally:
        if any(root.iterdir()):
            server.clean()
        shutil.rmtree(root, ignore_errors=True)
