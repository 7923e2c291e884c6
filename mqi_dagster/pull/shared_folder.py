"""The second way beside HTTPS: jobs that workers fetch from a folder that both have mounted.

The server leases a job to the folder and puts it there; from then on the lease lives by the worker's
heartbeats, which are seen as changes of a file's time and never compared with a clock.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from mqi_dagster.errors import MqiError
from mqi_dagster.execution.work import LARGEST_PIECE, Capabilities, End, Heartbeat, Offer
from mqi_dagster.execution.work_folder import LEASE_NAME, GivenBack, SharedFolder, Shelf
from mqi_dagster.files import whole_file
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.work import OPEN, WAITING, WorkJob
from mqi_dagster.pull.queue import FOLDER_ACCOUNT as ACCOUNT
from mqi_dagster.pull.queue import WorkQueue

_LOG = logging.getLogger(__name__)


class FolderExchange:
    """Jobs of one host and its folder.

    Args:
        host: Its name in the settings.
        root: The folder.
        ledger: Where jobs stand.
        queue: Leases them.
    """

    def __init__(self, host: str, root: Path, ledger: Ledger, queue: WorkQueue) -> None:
        self._host = host
        self._root = root
        self._ledger = ledger
        self._queue = queue
        self._seen: dict[str, int] = {}
        """Time of each file that beats, as it was last."""
        self._alive: dict[str, float] = {}
        """When each lease was last seen to live, however long the look before that took."""

    def exchange(self) -> None:
        """Put out what waits, take in what has come, remove what belongs to no lease.

        Raises:
            ConfigurationError: The folder is not there or not safe.
        """
        folder = SharedFolder(self._root)
        for name in folder.names(Shelf.WORKERS):
            with _one_by_one(f"worker {name[:50]!r}"):
                self._hear(folder, name)
        for row in self._ledger.work.all(self._host, states=OPEN):
            with _one_by_one(f"job {row.id}"):
                if row.state == WAITING:
                    self._put_out(folder, row)
                elif row.account == ACCOUNT:
                    self._look_at(folder, row, f"{row.id}.{row.token}")
        at_work = {f"{row.id}.{row.token}" for row in self._ledger.work.all(self._host, states=OPEN)}
        self._alive = {name: when for name, when in self._alive.items() if name in at_work}
        kept = at_work | set(folder.names(Shelf.WORKERS))
        self._seen = {file: when for file, when in self._seen.items() if file.partition("/")[2] in kept}
        for shelf in set(Shelf) - {Shelf.WORKERS}:
            for name in folder.names(shelf):
                lease = LEASE_NAME.match(name)
                if lease is not None and lease[0] not in at_work:
                    folder.remove(shelf, name)

    def _changed(self, folder: SharedFolder, shelf: Shelf, name: str) -> bool:
        """Whether a file's time is another one than when this was asked before."""
        try:
            time = folder.path(shelf, name).lstat().st_mtime_ns
        except FileNotFoundError:
            return False
        before = self._seen.get(f"{shelf}/{name}")
        self._seen[f"{shelf}/{name}"] = time
        return time != before

    def _hear(self, folder: SharedFolder, name: str) -> None:
        if self._changed(folder, Shelf.WORKERS, name):
            has = Capabilities.model_validate_json(folder.read(Shelf.WORKERS, name))
            self._queue.hear(ACCOUNT, has)
            if not has.devices:
                folder.remove(Shelf.WORKERS, name)

    def _put_out(self, folder: SharedFolder, row: WorkJob) -> None:
        secret, name = secrets.token_urlsafe(24), f"{row.id}.{row.token + 1}"
        with (
            self._queue.spool.inputs(row.id).open("rb") as source,
            whole_file(folder.path(Shelf.INPUTS, name), folder.file_mode) as target,
        ):
            shutil.copyfileobj(source, target, LARGEST_PIECE)
        offer = self._queue.lease(row, secret, account=ACCOUNT)
        if offer is not None:
            folder.write(Shelf.WAITING, name, offer.model_dump_json().encode())

    def _look_at(self, folder: SharedFolder, row: WorkJob, name: str) -> None:
        now = time.monotonic()
        self._alive.setdefault(name, now)
        try:
            self._take_in(folder, row, name, now)
        finally:
            self._queue.end_silent(row, now - self._alive[name])

    def _take_in(self, folder: SharedFolder, row: WorkJob, name: str, now: float) -> None:
        waits = os.path.lexists(folder.path(Shelf.WAITING, name))
        try:
            shelf = Shelf.WAITING if waits else Shelf.CLAIMED
            lease = Offer.model_validate_json(folder.read(shelf, name)).lease
        except FileNotFoundError:
            # Between two folders; or it never came there, and its lease ends.
            return
        if waits and row.cancel_requested_at is not None:
            folder.remove(Shelf.WAITING, name)
            self._queue.release(row.id, ACCOUNT, lease)
        elif waits:
            self._alive[name] = now
        else:
            self._watch(folder, row, name, lease, now)

    def _watch(self, folder: SharedFolder, row: WorkJob, name: str, lease: str, now: float) -> None:
        if self._changed(folder, Shelf.BEATS, name):
            self._alive[name] = now
            told = Heartbeat.model_validate_json(folder.read(Shelf.BEATS, name))
            if row.worker != told.worker:
                row = self._ledger.work.change(row, worker=told.worker) or row
            self._listen(folder, row, name, lease, told.phase)
        if row.cancel_requested_at is not None:
            folder.write(Shelf.CANCELLED, name, b"")
        try:
            back = GivenBack.model_validate_json(folder.read(Shelf.ENDED, name))
        except FileNotFoundError:
            return
        while self._listen(folder, row, name, lease, row.phase):
            continue
        match back.end:
            case End.COMPLETE:
                for number, made in back.outputs.items():
                    with os.fdopen(folder.open(Shelf.OUTPUTS, f"{name}.{number}"), "rb") as stream:
                        here = 0
                        while piece := stream.read(LARGEST_PIECE):
                            here = self._queue.output(row.id, ACCOUNT, lease, number, here, piece, made)
                            stream.seek(here)
                            if not here:
                                # Not what it should be: the job has failed.
                                break
                self._queue.complete(row.id, ACCOUNT, lease, back.ended)
            case End.FAIL:
                self._queue.fail(row.id, ACCOUNT, lease, back.ended)
            case End.RELEASE:
                self._queue.release(row.id, ACCOUNT, lease)

    def _listen(self, folder: SharedFolder, row: WorkJob, name: str, lease: str, phase: str) -> bool:
        """Take in what a program has printed since, as a heartbeat; whether that was something."""
        have = self._queue.beat(row.id, ACCOUNT, lease, Heartbeat(phase=phase)).log_bytes
        try:
            text = folder.read(Shelf.LOGS, name, have, LARGEST_PIECE // 2)
        except FileNotFoundError:
            text = b""
        told = Heartbeat(phase=phase, offset=have, log=text.decode("latin-1"))
        return self._queue.beat(row.id, ACCOUNT, lease, told).log_bytes > have


@contextmanager
def _one_by_one(what: str) -> Iterator[None]:
    """One bad file holds up no other."""
    try:
        yield
    except ValidationError:
        _LOG.warning("shared folder, %s: a file is not what it should be", what)
    except MqiError as error:
        _LOG.warning("shared folder, %s: %s", what, error.message)
    except OSError as error:
        _LOG.warning("shared folder, %s: %s", what, error.strerror)
