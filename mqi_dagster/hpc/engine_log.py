"""The log of a job's engine, read piece by piece, also across the starts of a job that was requeued."""

from __future__ import annotations

import time
from dataclasses import dataclass

from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.files import remote_size, tail
from mqi_dagster.hpc.naming import JobFolder

LOG = "engine.log"


@dataclass(slots=True)
class _Place:
    start: int = 0
    begins_at: int = 0
    """Offset in all that was read at which this start's log begins."""


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
        self._place = _Place()
        self._read_at: float | None = None

    def read(self, offset: int, *, ended_in: int | None = None) -> bytes:
        """What the log holds from an offset on, at most 64 KiB; nothing where it is not time yet.

        Args:
            offset: How many bytes were given out so far.
            ended_in: The start that has ended the job; None while it runs.

        Raises:
            UnreachableError: The cluster does not answer.
        """
        now = time.monotonic()
        if ended_in is None:
            if self._read_at is not None and now - self._read_at < self._every:
                return b""
            self._read_at = now
        place = self._place
        begun_again = ended_in is not None and ended_in > place.start
        while begun_again or (ended_in is None and self._requeue and self._begun(place.start + 1)):
            place.start = ended_in if ended_in is not None else place.start + 1
            place.begins_at = offset
            begun_again = False
        path = self._folder.start(self.job_id, place.start) / LOG
        return tail(self._connection, str(path), offset - place.begins_at)

    def _begun(self, start: int) -> bool:
        path = self._folder.start(self.job_id, start) / LOG
        return remote_size(self._connection, str(path)) is not None
