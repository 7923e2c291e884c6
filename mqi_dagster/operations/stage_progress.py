"""How far many courses are in each stage, read from Dagster's event log while they are in work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import dagster as dg

from mqi_dagster.operations.course_stages import STAGE_OF, stage_log
from mqi_dagster.processes.progress import Progress
from mqi_dagster.settings import Settings

_EVERY_SECONDS = 1.0
_AT_ONCE = 1000
LABELS = {
    "organize": "Organize",
    "segmentation": "Segmentation",
    "segmentation_custom": "Custom segmentation",
    "crop_ct": "Structures",
    "dvh": "DVH",
    "visualize": "Page and QC",
    "radiomics": "Radiomics",
}


class StageProgress:
    """Counts the courses that have each stage behind them, and writes it into the stage's log.

    Args:
        instance: Dagster's records.
        settings: Of the site.
        assets: What is made of every course.
        courses: Their keys.
        tell: Is told of every change.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        settings: Settings,
        assets: Collection[str],
        courses: Collection[str],
        tell: Callable[[Progress], None],
    ) -> None:
        self._instance, self._settings, self._tell = instance, settings, tell
        self._courses = frozenset(courses)
        self._made: dict[str, set[str]] = {asset: set() for asset in assets}
        self._read = {asset: self._last(asset) for asset in assets}
        self._begin = time.monotonic()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow the courses while the block lasts, from a thread of its own."""
        stop = threading.Event()
        follower = threading.Thread(target=self._follow, args=(stop,), daemon=True)
        follower.start()
        try:
            yield
        finally:
            stop.set()
            follower.join()
        self._look()

    def _follow(self, stop: threading.Event) -> None:
        while not stop.wait(_EVERY_SECONDS):
            self._look()

    def _look(self) -> None:
        for asset, made in self._made.items():
            before = len(made)
            self._read_new(asset, made)
            if len(made) == before:
                continue
            stage = STAGE_OF[asset]
            elapsed = time.monotonic() - self._begin
            progress = Progress(LABELS[stage], len(made), len(self._courses), elapsed)
            with stage_log(self._settings, stage).open("a", encoding="utf-8") as stream:
                stream.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {progress}\n")
            self._tell(progress)

    def _read_new(self, asset: str, made: set[str]) -> None:
        records = self._instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), after_storage_id=self._read[asset]),
            limit=_AT_ONCE,
            ascending=True,
        ).records
        for record in records:
            self._read[asset] = max(self._read[asset], record.storage_id)
            if record.partition_key in self._courses:
                made.add(record.partition_key)

    def _last(self, asset: str) -> int:
        records = self._instance.fetch_materializations(dg.AssetKey(asset), limit=1).records
        return records[0].storage_id if records else 0
