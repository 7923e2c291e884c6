"""The log of a job's engine, read piece by piece, also across the starts of a job that was requeued."""

from __future__ import annotations

import time

from mqi_dagster.execution.job import LogPiece
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.files import remote_size, tail
from mqi_dagster.hpc.naming import JobFolder

LOG = "engine.log"


class EngineLog:
    """Reads one job's log.

    Args:
        connection: To the cluster.
        folder: The job's folder.
        job_id: The job.
        every_seconds: How often a running engine's log is read.
        requeue: Whether Slurm may start the job again by itself.
    """

    def __init__(
        self, connection: Connection, folder: JobFolder, job_id: str, every_seconds: float, requeue: bool
    ) -> None:
        self.job_id = job_id
        self._connection = connection
        self._folder = folder
        self._every = every_seconds
        self._requeue = requeue
        self._start = 0
        self._given = 0
        """The start of which the caller's offset is."""
        self._read_at: float | None = None

    def read(self, offset: int, *, ended_in: int | None = None) -> LogPiece:
        """What the newest start's log holds, at most 64 KiB of it; nothing where it is not time yet.

        Args:
            offset: How many bytes were given out so far of the start that was read last; a newer one is read
                from its beginning.
            ended_in: The start that has ended the job; None while it runs.

        Raises:
            UnreachableError: The cluster does not answer.
        """
        if ended_in is not None:
            self._start = max(self._start, ended_in)
        else:
            now = time.monotonic()
            if self._read_at is not None and now - self._read_at < self._every:
                return LogPiece(start=self._given)
            self._read_at = now
            while self._requeue and self._begun(self._start + 1):
                self._start += 1
        path = self._folder.start(self.job_id, self._start) / LOG
        text = tail(self._connection, str(path), offset if self._start == self._given else 0)
        self._given = self._start
        return LogPiece(text, self._start)

    def _begun(self, start: int) -> bool:
        path = self._folder.start(self.job_id, start) / LOG
        return remote_size(self._connection, str(path)) is not None
