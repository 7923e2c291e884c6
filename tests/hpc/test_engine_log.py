"""The log of a job that may be started more than once."""

from __future__ import annotations

import pytest

from mqi_dagster.errors import UnreachableError
from mqi_dagster.execution.job import LogPiece
from mqi_dagster.hpc import engine_log
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.engine_log import EngineLog
from tests.hpc.hpc_cases import FOLDER, JOB_ID, make_folder


class Files:
    """The logs on the cluster by the number of their start."""

    def __init__(self) -> None:
        self.logs: dict[int, bytes] = {}
        self.fails = False

    def _start(self, path: str) -> int:
        prefix, _, number = path.removesuffix("/engine.log").rpartition("-")
        assert prefix == f"{FOLDER}/starts/{JOB_ID}"
        return int(number)

    def remote_size(self, connection: Connection, path: str) -> int | None:
        found = self.logs.get(self._start(path))
        return None if found is None else len(found)

    def tail(self, connection: Connection, path: str, offset: int) -> bytes:
        if self.fails:
            raise UnreachableError("away")
        return self.logs.get(self._start(path), b"")[offset:]


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Files:
    made = Files()
    monkeypatch.setattr(engine_log, "tail", made.tail)
    monkeypatch.setattr(engine_log, "remote_size", made.remote_size)
    return made


def log(connection: Connection, *, every: float = 0.0, requeue: bool = True) -> EngineLog:
    return EngineLog(connection, make_folder(), JOB_ID, every, requeue)


def test_a_new_start_is_read_from_its_beginning(files: Files, nowhere: Connection) -> None:
    on = log(nowhere)
    files.logs[0] = b"first"
    assert on.read(0) == LogPiece(b"first", 0)
    assert on.read(5) == LogPiece(b"", 0)
    files.logs[1] = b"sec"
    files.fails = True
    with pytest.raises(UnreachableError):
        on.read(5)
    files.fails = False
    assert on.read(5) == LogPiece(b"sec", 1), "the offset was of the start before"
    files.logs[1] = b"second"
    assert on.read(3) == LogPiece(b"ond", 1)


def test_the_start_that_has_ended_the_job_is_read_at_once(files: Files, nowhere: Connection) -> None:
    on = log(nowhere, every=1000.0, requeue=False)
    files.logs |= {0: b"first", 1: b"second", 2: b"third"}
    assert on.read(0) == LogPiece(b"first", 0)
    assert on.read(5) == LogPiece(b"", 0), "not yet"
    assert on.read(5, ended_in=2) == LogPiece(b"third", 2)
    assert on.read(5, ended_in=2) == LogPiece(b"", 2)
