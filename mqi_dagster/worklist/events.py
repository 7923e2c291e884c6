"""Which partitions were made, and when the latest time was: read in bulk from the event log's index."""

from __future__ import annotations

import time

import dagster as dg

from mqi_dagster.lifecycle.materialisations import CONCLUDED, DOSE, HANDED_OVER, MANIFEST
from mqi_dagster.partitions import BEAM, CASE, find_key

_ASSETS = (MANIFEST, DOSE, HANDED_OVER, CONCLUDED)
_BEHIND = 1000
"""Events that were written later than their number says are still found within so many."""
_PAGE = 10_000
_WHOLE_EVERY_SECONDS = 300.0


class EventIndex:
    """Materialisations and partition keys of an instance.

    Args:
        instance: Dagster's records.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._made: dict[str, dict[str, int]] = {asset: {} for asset in _ASSETS}
        self._newest = 0
        self._last: int | None = None
        self._keys: dict[str, dict[str, None]] = {}
        self._of_case: dict[str, dict[int, str]] = {}
        self._pages: dict[str, str | None] = {}
        self._whole_at: float | None = None

    def latest(self, asset: str, partition: str) -> int | None:
        """Number of the latest materialisation in the event log, None where there is none."""
        return self._made[asset].get(partition)

    @property
    def cases(self) -> dict[str, None]:
        """Every partition of cases."""
        return self._keys[CASE.name]

    @property
    def beams(self) -> dict[str, None]:
        """Every partition of beams."""
        return self._keys[BEAM.name]

    def beams_of(self, case: str) -> dict[int, str]:
        """Partitions of a case's beams by number."""
        return self._of_case.get(case, {})

    def refresh(self) -> set[str] | None:
        """Read what is new; the partitions concerned, None where everything was read anew."""
        now = time.monotonic()
        whole = self._whole_at is None or now - self._whole_at > _WHOLE_EVERY_SECONDS
        if whole:
            self._made = {asset: {} for asset in _ASSETS}
            self._newest, self._last = 0, None
            self._pages.clear()
            self._keys.clear()
            self._of_case.clear()
        changed: set[str] = set()
        newest, last = self._newest, self._instance.event_log_storage.get_maximum_record_id()
        # Where no event is new, nothing was made.
        for asset in () if last == self._last else _ASSETS:
            changed |= self._read(asset)
            newest = max([newest, *self._made[asset].values()]) if whole else max(newest, self._newest)
        self._newest, self._last = newest, last
        for kind in (CASE, BEAM):
            changed |= self._read_keys(kind.name)
        if whole:
            self._whole_at = now
            return None
        return changed

    def _read(self, asset: str) -> set[str]:
        found = self._instance.event_log_storage.get_latest_storage_id_by_partition(
            dg.AssetKey(asset),
            dg.DagsterEventType.ASSET_MATERIALIZATION,
            after_cursor=max(0, self._newest - _BEHIND) or None,
        )
        made = self._made[asset]
        changed = {partition for partition, number in found.items() if made.get(partition) != number}
        made.update(found)
        return changed

    def _read_keys(self, name: str) -> set[str]:
        keys = self._keys.setdefault(name, {})
        new: set[str] = set()
        while True:
            page = self._instance.event_log_storage.get_paginated_dynamic_partitions(
                name, limit=_PAGE, ascending=True, cursor=self._pages.get(name)
            )
            self._pages[name] = page.cursor
            fresh = [key for key in page.results if key not in keys]
            keys.update(dict.fromkeys(fresh))
            new.update(fresh)
            if not page.has_more:
                break
        if name == BEAM.name:
            self._group(new)
        return new

    def _group(self, keys: set[str]) -> None:
        for key in keys:
            beam = find_key(key, (BEAM,))
            if beam is not None:
                self._of_case.setdefault(beam.root, {})[beam.number] = key
