"""The latest materialisations of cases and beams, as Dagster's event log has them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import dagster as dg

from mqi_dagster.lifecycle.lineage import DIGEST, RT_DOSE, latest_record, records_of, text_in
from mqi_dagster.partitions import CASE, COURSE, IMAGE_SET

MANIFEST = "case_manifest"
INTEGRITY = "integrity"
"""The check of a manifest."""
DOSE = RT_DOSE
HANDED_OVER = "handed_over"
CONCLUDED = "case_handed_over"
INPUTS = "inputs"
"""Metadata of the CSVs and of what was handed over: the digest of the inputs that the beam was made from."""
RESULTS = "results"
"""Metadata of a concluded case: the digest of the results that it was concluded with."""

INVENTORY = "course_inventory"
COURSE_REPORT = "course_report"
IMAGES, SEGMENTED = "image_set", "segmentation"
STORED = "segmentation_stored"
LAST_ASSETS = {CASE: CONCLUDED, COURSE: COURSE_REPORT, IMAGE_SET: STORED}
"""By kind what concludes a partition that is worked on whole."""
_SOURCES = {HANDED_OVER: RT_DOSE, CONCLUDED: RESULTS, COURSE_REPORT: INVENTORY, STORED: IMAGES}


@dataclass(frozen=True, slots=True)
class Materialisation:
    """A materialisation of a partition."""

    number: int
    """In the event log."""
    at: datetime
    """UTC."""
    digest: str | None
    """None where a person only reported it in the pages."""
    source: str | None = None
    """Of a hand-over the digest of the dose, of a conclusion that of the results, of the report of a course
    that of its inventory, of a stored segmentation that of its images; None for others."""
    inputs: str | None = None
    """Of a hand-over the digest of the inputs of its dose; None where earlier code has made it."""


class Materialisations(Protocol):
    """The latest materialisations, however they are read."""

    def number(self, asset: str, key: str) -> int | None:
        """Number of the latest one in the event log; None where there is none."""

    def latest(self, asset: str, key: str) -> Materialisation | None:
        """The latest one."""

    def before(self, asset: str, key: str, number: int) -> Materialisation | None:
        """The latest one with a lower number."""


class EventLog:
    """The latest materialisations as Dagster's event log has them, each read once.

    Args:
        instance: Dagster's records.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._read: dict[tuple[str, str], Materialisation | None] = {}

    def number(self, asset: str, key: str) -> int | None:
        """Number of the latest one in the event log; None where there is none."""
        made = self.latest(asset, key)
        return None if made is None else made.number

    def latest(self, asset: str, key: str) -> Materialisation | None:
        """The latest one."""
        if (asset, key) not in self._read:
            self._read[asset, key] = latest_made(self._instance, asset, key)
        return self._read[asset, key]

    def before(self, asset: str, key: str, number: int) -> Materialisation | None:
        """The latest one with a lower number."""
        return latest_made(self._instance, asset, key, before=number)


def latest_made(
    instance: dg.DagsterInstance, asset: str, key: str, *, before: int | None = None
) -> Materialisation | None:
    """The latest materialisation of an asset's partition.

    Args:
        instance: Dagster's records.
        asset: Name of the asset.
        key: Of the partition.
        before: Only those with a lower number.
    """
    record = latest_record(instance, asset, key, before=before)
    return None if record is None else _read(asset, record)


def made_by_number(
    instance: dg.DagsterInstance, asset: str, numbers: Collection[int]
) -> dict[int, Materialisation]:
    """Many materialisations of an asset by their numbers; one that was deleted is missing."""
    return {record.storage_id: _read(asset, record) for record in records_of(instance, asset, numbers)}


def _read(asset: str, record: dg.EventLogRecord) -> Materialisation:
    source = _SOURCES.get(asset)
    return Materialisation(
        record.storage_id,
        datetime.fromtimestamp(record.timestamp, UTC),
        text_in(record, DIGEST),
        text_in(record, source) if source is not None else None,
        text_in(record, INPUTS) if asset == HANDED_OVER else None,
    )
