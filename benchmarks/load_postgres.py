"""The PostgreSQL server of `load.py`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "chaos"))

from own_postgres import Postgres


@contextmanager
def running_server() -> Iterator[Postgres]:
    """A server on a socket, gone at the end."""
    base = Path(tempfile.mkdtemp(dir="/tmp", prefix="mqp"))
    base.chmod(0o755)
    server = Postgres(base / "pg")
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(base)
