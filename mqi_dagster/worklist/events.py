"""Which partitions there are and what was made of them: read in bulk from the event log's index."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator

import dagster as dg

from mqi_dagster.lifecycle.materialisations import Materialisation, latest_made, made_by_number
from mqi_dagster.lifecycle.pipeline import Pipeline, levels_of
from mqi_dagster.partitions import PartitionKind

_BEHIND = 1000
"""Events that were written later than their number says are still found within so many."""
_PAGE = 10_000
_WHOLE_EVERY_SECONDS = 300.0


class EventIndex:
    """Partition keys of an instance, and the latest materialisations of the assets that tell where they are.

    Args:
        instance: Dagster's records.
        pipelines: Those of the site.
    """

    def __init__(self, instance: dg.DagsterInstance, pipelines: Collection[Pipeline]) -> None:
        self._instance = instance
        self._kinds = [level.kind for level in levels_of(pipelines)]
        self._assets = [asset for pipeline in pipelines for asset in pipeline.status_assets]
        self._made: dict[str, dict[str, int]] = {asset: {} for asset in self._assets}
        self._newest_of: dict[str, int] = {}
        self._by_number: dict[int, Materialisation | None] = {}
        self._newest = 0
        self._last: int | None = None
        self._keys: dict[str, dict[str, None]] = {}
        self._of_unit: dict[str, dict[int, str]] = {}
        self._pages: dict[str, str | None] = {}
        self._whole_at: float | None = None

    def number(self, asset: str, key: str) -> int | None:
        """Number of the latest materialisation in the event log; None where there is none."""
        return self._made[asset].get(key)

    def latest(self, asset: str, key: str) -> Materialisation | None:
        """The latest materialisation, read once."""
        number = self.number(asset, key)
        if number is None:
            return None
        if number not in self._by_number:
            self._by_number[number] = made_by_number(self._instance, asset, [number]).get(number)
        return self._by_number[number]

    def newest(self, asset: str) -> Materialisation | None:
        """The latest materialisation of an asset, of whatever partition."""
        number = self._newest_of.get(asset)
        if number is not None and number not in self._by_number:
            self._by_number[number] = made_by_number(self._instance, asset, [number]).get(number)
        return None if number is None else self._by_number[number]

    def before(self, asset: str, key: str, number: int) -> Materialisation | None:
        """The latest materialisation with a lower number."""
        return latest_made(self._instance, asset, key, before=number)

    def read_latest(self, asset: str, keys: Iterable[str]) -> None:
        """Read the latest materialisations of partitions; the event log is asked for all of them together."""
        numbers = {self.number(asset, key) for key in keys}
        unread = {number for number in numbers if number is not None and number not in self._by_number}
        self._by_number |= made_by_number(self._instance, asset, unread)

    def keys(self, kind: PartitionKind) -> dict[str, None]:
        """Every partition of a kind."""
        return self._keys.get(kind.name, {})

    @property
    def every_key(self) -> Iterator[str]:
        """Every partition."""
        for keys in self._keys.values():
            yield from keys

    def parts_of(self, unit: str) -> dict[int, str]:
        """Partitions of the parts of a unit by number."""
        return self._of_unit.get(unit, {})

    def refresh(self) -> set[str] | None:
        """Read what is new; the partitions concerned, None where everything was read anew."""
        now = time.monotonic()
        whole = self._whole_at is None or now - self._whole_at > _WHOLE_EVERY_SECONDS
        if whole:
            self._made = {asset: {} for asset in self._assets}
            self._newest_of.clear()
            self._newest, self._last = 0, None
            self._pages.clear()
            self._keys.clear()
            self._of_unit.clear()
        changed: set[str] = set()
        newest, last = self._newest, self._instance.event_log_storage.get_maximum_record_id()
        # Where no event is new, nothing was made.
        for asset in () if last == self._last else self._assets:
            changed |= self._read(asset)
            newest = max([newest, *self._made[asset].values()]) if whole else max(newest, self._newest)
        self._newest, self._last = newest, last
        for kind in self._kinds:
            changed |= self._read_keys(kind)
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
        if found:
            self._newest_of[asset] = max(found.values())
        return changed

    def _read_keys(self, kind: PartitionKind) -> set[str]:
        name = kind.name
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
        if kind.parent is not None:
            self._group(kind, new)
        return new

    def _group(self, kind: PartitionKind, keys: set[str]) -> None:
        for text in keys:
            key = kind.find(text)
            if key is not None:
                self._of_unit.setdefault(key.root, {})[key.number] = text
