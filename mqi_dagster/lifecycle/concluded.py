"""Whether a case is concluded with what stands there now, and since when."""

from datetime import UTC, datetime

import dagster as dg

from mqi_dagster.errors import StoreError
from mqi_dagster.lifecycle.beam import read_manifest
from mqi_dagster.lifecycle.lineage import digest_in, latest_record
from mqi_dagster.partitions import BEAMS, beam_key, is_beam_key
from mqi_dagster.resources.site import Site

_RECENT = 20
"""Hand-overs of a beam that are looked through."""


def concluded_before(instance: dg.DagsterInstance, site: Site, case: str, limit: datetime) -> bool:
    """Whether a case is concluded with what its beams have now, and all that is old.

    What the case consists of its present manifest says: a beam that has come late is no partition yet, and
    after an earlier removal no beam is one.

    Args:
        instance: Dagster's records.
        site: The site.
        case: Case key.
        limit: What was made before it is old.
    """
    concluded = _made_at(instance, "case_handed_over", case)
    taken_in = _made_at(instance, "case_manifest", case)
    if concluded is None or concluded >= limit or taken_in is None or taken_in > concluded:
        return False
    arrival = site.ledger.arrival(case)
    if (
        arrival is not None
        and arrival.fingerprint != arrival.requested_fingerprint
        and arrival.changed_at > taken_in
    ):
        return False
    if arrival is not None and (arrival.marker_withdrawn_at or concluded) > concluded:
        return False
    try:
        beams = {beam_key(case, entry.number) for entry in read_manifest(instance, site, case).beams}
    except StoreError:
        return False
    # A partition that somebody has invented was never handed over, and keeps nothing.
    beams |= {
        key
        for key in beam_partitions(instance, case)
        if is_beam_key(key) and latest_record(instance, "handed_over", key) is not None
    }
    return all(_handed_over_as(instance, beam, concluded, limit) for beam in beams)


def _handed_over_as(instance: dg.DagsterInstance, beam: str, concluded: datetime, limit: datetime) -> bool:
    """Whether what the conclusion told of a beam is what was handed over last, and that is old as well."""
    made = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey("handed_over"), asset_partitions=[beam]), limit=_RECENT
    ).records
    times = [datetime.fromtimestamp(record.timestamp, UTC) for record in made]
    since = sum(time > concluded for time in times)
    if since == len(made) or times[0] >= limit:
        return False
    told = digest_in(made[since])
    return since == 0 or (told is not None and all(digest_in(record) == told for record in made[:since]))


def beam_partitions(instance: dg.DagsterInstance, case: str) -> list[str]:
    """The beam keys of a case that are partitions now."""
    return [key for key in instance.get_dynamic_partitions(str(BEAMS.name)) if key.startswith(f"{case}__")]


def _made_at(instance: dg.DagsterInstance, asset: str, key: str) -> datetime | None:
    record = latest_record(instance, asset, key)
    return datetime.fromtimestamp(record.timestamp, UTC) if record is not None else None
