"""Reading the board again and again in the background, whatever is away."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import dagster as dg

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.errors import ConfigurationError, InfrastructureError
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist import Work, Worklist
from mqi_dagster.worklist.reading import plain_errors

_log = logging.getLogger(__name__)
_STATEMENT_MS = 60_000
"""As the ledger's: whoever reads the whole of a large log for the first time takes his time."""
_RECYCLE_SECONDS = 600
_LABELS_AT_ONCE = 50
_PATIENCE_SECONDS = 2.0
"""Whoever only looks says that the ledger is away, and asks again."""
_OVERFLOW = 2
"""Beside the one that is kept, for as long as an engine's log is looked up."""


class BoardReader:
    """Opens a site's records for reading, and again after they were away.

    Args:
        site: The site.
        history: How long a concluded case is still listed; None for all of them.
        causes_at_once: First causes of failures that one snapshot reads at most; None for all.
        again: Whether it reads again and again, and so keeps its connections to a server in between.
        labels_at_once: Cases of which one snapshot of such a reader reads at most what their inventories say.
    """

    def __init__(
        self,
        site: Site,
        history: timedelta | None,
        causes_at_once: int | None = None,
        *,
        again: bool = False,
        labels_at_once: int = _LABELS_AT_ONCE,
    ) -> None:
        self._site = site
        self._history = history
        self._causes_at_once = causes_at_once
        self._again = again
        self._labels_at_once = labels_at_once if again else None
        self.instance: dg.DagsterInstance | None = None
        """Dagster's records, once they could be opened."""
        self._ledger: Ledger | None = None
        self._worklist: Worklist | None = None
        self._dropped = False

    def snapshot(self) -> Work:
        """Everything at this moment.

        Raises:
            ConfigurationError: The ledger is of another revision.
            InfrastructureError: Something is away.
        """
        try:
            if self._worklist is None:
                with plain_errors():
                    self.instance = self._open()
                self._ledger = self._site.open_ledger_for_reading()
                self._ledger.database.patience_seconds = _PATIENCE_SECONDS
                self._worklist = Worklist(
                    self.instance,
                    self._site,
                    PIPELINES,
                    self._ledger,
                    history=self._history,
                    causes_at_once=self._causes_at_once,
                    labels_at_once=self._labels_at_once,
                )
            return self._worklist.snapshot()
        except Exception:
            # Whoever comes back may be of another revision, and connections that were kept are dead.
            self._dropped |= self.instance is not None
            self._worklist = self.instance = None
            if self._ledger is not None:
                self._ledger.close()
            raise

    def _open(self) -> dg.DagsterInstance:
        if self._dropped:
            # Nothing of Dagster closes the connections of an instance that is dropped. To look for garbage
            # holds up every other thread: it is not done while nothing can be opened anyway.
            gc.collect()
            self._dropped = False
        instance = open_instance(self._site.settings)
        if self._again:
            # Dagster opens a connection for every question else, which is most of what a snapshot costs.
            instance.optimize_for_webserver(
                statement_timeout=_STATEMENT_MS, pool_recycle=_RECYCLE_SECONDS, max_overflow=_OVERFLOW
            )
        return instance


class BackgroundReader:
    """Looks in a thread of its own: a database that does not answer keeps no key waiting.

    Args:
        reader: What reads.
        seconds: From one snapshot to the next.
        tell: Called after every snapshot.
        goes_on: Whether it goes on whatever happens, as a server does that outlives an update of the site.
    """

    def __init__(
        self, reader: BoardReader, seconds: float, tell: Callable[[], None], *, goes_on: bool = False
    ) -> None:
        self._reader = reader
        self._seconds = seconds
        self._tell = tell
        self._goes_on = goes_on
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.work: Work | None = None
        """What was read last."""
        self.error: str | None = None
        """Why the last snapshot failed."""
        self.refused: ConfigurationError | None = None
        """Why no further snapshot is worth while."""

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more; a snapshot that hangs is left behind."""
        self._stop.set()
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self.work, self.error = self._reader.snapshot(), None
            except InfrastructureError as error:
                self.error = error.message
            except ConfigurationError as error:
                self.error = error.message
                if not self._goes_on:
                    self.refused = error
                    self._tell()
                    return
            except Exception as error:
                if not self._goes_on:
                    raise
                # Else nobody would ever see more than what was read last.
                _log.exception("the boards cannot be read")
                self.error = (
                    f"the boards cannot be read: {type(error).__name__}; the log of the pages says more"
                )
            self._tell()
            took = time.monotonic() - began
            # What fails must not keep this process from everything else, however slow the machine is.
            self._stop.wait(max(0.05, self._seconds - took, 0.0 if self.error is None else 3 * took))
