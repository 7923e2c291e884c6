"""The one rule for what came of a case and its beams: made, handed over, concluded.

A digest decides, never the order or the number of materialisations: the same dose made once more changes
nothing, another dose that was not handed over does. Sensors, boards, retention and commands ask here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import dagster as dg

from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.lifecycle.lineage import DIGEST, RT_DOSE, text_in
from mqi_dagster.partitions import split_beam_key
from mqi_dagster.store.digests import digest_of

MANIFEST = "case_manifest"
DOSE = RT_DOSE
HANDED_OVER = "handed_over"
CONCLUDED = "case_handed_over"
RESULTS = "results"
"""Metadata of a concluded case: the digest of the results that it was concluded with."""

_SOURCES = {HANDED_OVER: RT_DOSE, CONCLUDED: RESULTS}
_AT_ONCE = 500
"""Materialisations that one question asks for; SQLite takes no more than some hundreds of values."""


@dataclass(frozen=True, slots=True)
class Made:
    """A materialisation of a partition."""

    number: int
    """In the event log."""
    at: datetime
    """UTC."""
    digest: str | None
    """None where a person only reported it in the pages."""
    source: str | None = None
    """Of a hand-over the digest of the dose, of a conclusion that of the results; None for others."""


class Materialisations(Protocol):
    """The latest materialisations, however they are read."""

    def number(self, asset: str, key: str) -> int | None:
        """Number of the latest one in the event log; None where there is none."""

    def latest(self, asset: str, key: str) -> Made | None:
        """The latest one."""

    def before(self, asset: str, key: str, number: int) -> Made | None:
        """The latest one with a lower number."""


class EventLog:
    """The latest materialisations as Dagster's event log has them, each read once.

    Args:
        instance: Dagster's records.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._read: dict[tuple[str, str], Made | None] = {}

    def number(self, asset: str, key: str) -> int | None:
        """Number of the latest one in the event log; None where there is none."""
        made = self.latest(asset, key)
        return None if made is None else made.number

    def latest(self, asset: str, key: str) -> Made | None:
        """The latest one."""
        if (asset, key) not in self._read:
            self._read[asset, key] = latest_made(self._instance, asset, key)
        return self._read[asset, key]

    def before(self, asset: str, key: str, number: int) -> Made | None:
        """The latest one with a lower number."""
        return latest_made(self._instance, asset, key, before=number)


def latest_made(
    instance: dg.DagsterInstance, asset: str, key: str, *, before: int | None = None
) -> Made | None:
    """The latest materialisation of an asset's partition.

    Args:
        instance: Dagster's records.
        asset: Name of the asset.
        key: Of the partition.
        before: Only those with a lower number.
    """
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[key], before_storage_id=before),
        limit=1,
    ).records
    return _made(asset, records[0]) if records else None


def made_by_number(instance: dg.DagsterInstance, asset: str, numbers: Collection[int]) -> dict[int, Made]:
    """Many materialisations of an asset by their numbers, in one question for every few hundred.

    One that was deleted is missing.
    """
    found: dict[int, Made] = {}
    wanted = sorted(numbers)
    for begin in range(0, len(wanted), _AT_ONCE):
        some = wanted[begin : begin + _AT_ONCE]
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), storage_ids=some), limit=len(some)
        ).records
        found |= {record.storage_id: _made(asset, record) for record in records}
    return found


def _made(asset: str, record: dg.EventLogRecord) -> Made:
    source = _SOURCES.get(asset)
    return Made(
        record.storage_id,
        datetime.fromtimestamp(record.timestamp, UTC),
        text_in(record, DIGEST),
        text_in(record, source) if source is not None else None,
    )


def counts_since(events: Materialisations, case: str, arrival: Arrival | None) -> datetime | None:
    """When the results of a case were removed: what was made before does not count.

    None where they never were, and where the case was not taken in since: a removal that was cut short has
    left them.
    """
    if arrival is None or arrival.results_removed_at is None:
        return None
    taken_in = events.latest(MANIFEST, case)
    return arrival.results_removed_at if taken_in and taken_in.at >= arrival.results_removed_at else None


def handed_over(events: Materialisations, beam: str, since: datetime | None = None) -> bool:
    """Whether the latest dose of a beam is the one that was handed over.

    Args:
        events: What was made.
        beam: Beam key.
        since: What was made before counts for nothing.
    """
    if since is None and unchanged_since_conclusion(events, split_beam_key(beam)[0], [beam]):
        return True
    return _version(events, beam, since) is not None


def results_digest(
    events: Materialisations, beams: Iterable[str], partial: bool, since: datetime | None = None
) -> str | None:
    """Digest of what the beams of a case have handed over; None where one has not handed its dose over.

    Args:
        events: What was made.
        beams: Every beam key of the case.
        partial: Whether beams or layers of the plan are missing.
        since: What was made before counts for nothing.
    """
    versions = {beam: _version(events, beam, since) for beam in beams}
    if not versions or None in versions.values():
        return None
    return digest_of(versions=versions, partial=partial)


def concluded(
    events: Materialisations,
    case: str,
    beams: Collection[str],
    arrival: Arrival | None,
    partial: Callable[[], bool],
) -> bool:
    """Whether a case was concluded with the results that its beams have now.

    Args:
        events: What was made.
        case: Case key.
        beams: Every beam key of the case.
        arrival: Of the case, None where it has not come through the inbox. A conclusion from before its
            marker was withdrawn, or its results were removed, does not count.
        partial: Whether beams or layers of the plan are missing; asked for only where that matters.
    """
    end = events.number(CONCLUDED, case)
    if end is None or not beams:
        return False
    removed_at = counts_since(events, case, arrival)
    withdrawn_at = arrival.marker_withdrawn_at if arrival is not None else None
    since = max((moment for moment in (removed_at, withdrawn_at) if moment is not None), default=None)
    if since is None and unchanged_since_conclusion(events, case, beams):
        return True
    made = events.latest(CONCLUDED, case)
    if made is None or (since is not None and made.at < since):
        return False
    results = results_digest(events, beams, partial(), removed_at)
    if results is None or made.source is not None:
        return results is not None and made.source == results
    return all(_as_concluded_without_digest(events, beam, made) for beam in beams)


def unchanged_since_conclusion(events: Materialisations, case: str, beams: Iterable[str]) -> bool:
    """Whether nothing was made since the case was concluded: that run has compared every digest itself.

    Asks for numbers alone, and so costs nothing where they are known.
    """
    end, taken_in = events.number(CONCLUDED, case), events.number(MANIFEST, case)
    if end is None or taken_in is None or taken_in > end:
        return False
    numbers = [events.number(asset, beam) for beam in beams for asset in (DOSE, HANDED_OVER)]
    return all(number is not None and number < end for number in numbers)


def _as_concluded_without_digest(events: Materialisations, beam: str, end: Made) -> bool:
    """Whether a beam has what it had when earlier code concluded its case, which did not say with what."""
    told, now = events.before(HANDED_OVER, beam, end.number), events.latest(HANDED_OVER, beam)
    return told is not None and now is not None and told.digest == now.digest


def _version(events: Materialisations, beam: str, since: datetime | None) -> str | None:
    """The dose of a beam and its hand-over; None where the latest dose was not handed over."""
    dose, handed = events.latest(DOSE, beam), events.latest(HANDED_OVER, beam)
    if dose is None or handed is None or dose.digest is None or handed.digest is None:
        return None
    if handed.source != dose.digest or (since is not None and min(dose.at, handed.at) < since):
        return None
    return f"{dose.digest}:{handed.digest}"
