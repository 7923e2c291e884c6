"""Finding what earlier steps published: by the digest in Dagster's event log, verified in the store."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import dagster as dg

from mqi_dagster.dagster_internals import PartitionKeyFilter
from mqi_dagster.delivery.summary import SUMMARY_NAME
from mqi_dagster.errors import KeyRejectedError, StoreError, Where
from mqi_dagster.lifecycle.raw_dose_files import RECORD_FILE, read_record
from mqi_dagster.partitions import BEAM, CASE, PartitionKey, PartitionKind, beam_folder, root_of, whole_kind
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import COHORT, Store

DIGEST = "digest"
RAW_DOSE = "raw_dose"
RT_DOSE = "rt_dose"
TPS_FILE = "tps_file"
_RECENT = 20
"""Materialisations and checks of one partition that are looked through."""
_AT_ONCE = 500
"""Materialisations that one question asks for; SQLite takes no more than some hundreds of values."""


def store_folder(key: str) -> tuple[str, str | None]:
    """Case and beam folder in the store of a key; what has no beams stands in place of a case.

    Raises:
        KeyRejectedError: It is none.
    """
    if whole_kind(key) is not CASE or key == COHORT:
        return key, None
    if key == root_of(key):
        return checked_key(CASE, key).text, None
    beam = checked_key(BEAM, key)
    return beam.root, beam_folder(beam.number)


def checked_key(kind: PartitionKind, key: str) -> PartitionKey:
    """The key of a partition, taken apart.

    Raises:
        KeyRejectedError: Somebody has added a partition of another name.
    """
    try:
        return kind.key(key)
    except KeyRejectedError as error:
        raise KeyRejectedError(f"{error.message}; remove this partition") from None


def latest_record(
    instance: dg.DagsterInstance, asset: str, key: str, *, before: int | None = None
) -> dg.EventLogRecord | None:
    """The latest materialisation of an asset's partition.

    Args:
        instance: Dagster's records.
        asset: Name of the asset.
        key: Of the partition.
        before: Only those with a lower number in the event log.
    """
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[key], before_storage_id=before),
        limit=1,
    ).records
    return records[0] if records else None


def records_of(
    instance: dg.DagsterInstance, asset: str, numbers: Collection[int]
) -> Iterator[dg.EventLogRecord]:
    """Many materialisations of an asset, in one question for every few hundred; deleted ones are missing.

    Args:
        instance: Dagster's records.
        asset: Name of the asset.
        numbers: Of the materialisations in the event log.
    """
    wanted = sorted(numbers)
    for begin in range(0, len(wanted), _AT_ONCE):
        some = wanted[begin : begin + _AT_ONCE]
        yield from instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), storage_ids=some), limit=len(some)
        ).records


def text_in(record: dg.EventLogRecord, name: str) -> str | None:
    """A metadata value of a materialisation; None where a person only reported it in the pages."""
    made = record.asset_materialization
    value = None if made is None else made.metadata.get(name)
    return None if value is None else str(value.value)


def digest_in(record: dg.EventLogRecord) -> str | None:
    """The digest that a materialisation names; None where a person only reported it in the pages."""
    return text_in(record, DIGEST)


def latest_digest(instance: dg.DagsterInstance, asset: str, key: str) -> str | None:
    """Digest of the latest materialisation of an asset's partition, None if nothing was made."""
    record = latest_record(instance, asset, key)
    return None if record is None else digest_in(record)


def resolve(
    instance: dg.DagsterInstance, store: Store, asset: str, key: str, *, only: Collection[str] | None = None
) -> Published:
    """The published result that the event log names, verified against its manifest.

    Args:
        instance: Dagster's records.
        store: Where it was published.
        asset: Name of the asset.
        key: Case or beam key.
        only: Names of the files that will be read, where it is not all of them.

    Raises:
        StoreError: It was never made, is gone, or differs from its manifest.
    """
    case, beam = store_folder(key)
    place = Where(case=case, beam=key if beam else None, kind=asset)
    digest = latest_digest(instance, asset, key)
    if digest is None:
        raise StoreError(f"{asset} has not been made yet; materialise it first", where=place)
    return store.resolve(case, beam, asset, digest, only=only)


def reusable(store: Store, asset: str, key: str, digest: str) -> Published | None:
    """A result that was made before and is still what its manifest says; a damaged one is set aside."""
    case, beam = store_folder(key)
    try:
        found = store.find(case, beam, asset, digest)
        if found is not None:
            found.verify()
        return found
    except StoreError:
        store.set_aside(case, beam, asset, digest)
        return None


def latest_has_passed(instance: dg.DagsterInstance, asset: str, check: str, key: str) -> bool:
    """Whether a check has looked at the latest materialisation of a partition itself, and passed it.

    What starts anything asks this: a materialisation event alone proves nothing.
    """
    made = latest_record(instance, asset, key)
    if made is None:
        return False
    checked = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey(asset), check), limit=1, partition_filter=PartitionKeyFilter(key=key)
    )
    if not checked or checked[0].event is None or checked[0].event.asset_check_evaluation is None:
        return False
    evaluation = checked[0].event.asset_check_evaluation
    target = evaluation.target_materialization_data
    return bool(evaluation.passed) and target is not None and target.storage_id == made.storage_id


def latest_with_digest(
    instance: dg.DagsterInstance, asset: str, key: str, digest: str
) -> dg.EventLogRecord | None:
    """The latest materialisation of a content; None where it is not recorded."""
    made = latest_record(instance, asset, key)
    while made is not None and digest_in(made) != digest:
        made = latest_record(instance, asset, key, before=made.storage_id)
    return made


def content_has_passed(instance: dg.DagsterInstance, asset: str, check: str, key: str) -> bool:
    """Whether a check has passed the latest content of a partition, in whichever materialisation it saw it.

    What is at work asks this. Two runs of one beam publish the same content: the check of either may have
    looked at the materialisation of the other, or not have looked yet at the second one.
    """
    made = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[key]), limit=_RECENT
    ).records
    digests = {record.storage_id: digest_in(record) for record in made}
    present = digests.get(made[0].storage_id) if made else None
    if present is None:
        return False
    history = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey(asset), check),
        limit=_RECENT,
        partition_filter=PartitionKeyFilter(key=key),
    )
    for record in history:
        # A check that another run has only planned says nothing.
        evaluation = record.event.asset_check_evaluation if record.event is not None else None
        target = evaluation.target_materialization_data if evaluation is not None else None
        if evaluation is not None and target is not None and digests.get(target.storage_id) == present:
            return bool(evaluation.passed)
    return False


def require_passed(instance: dg.DagsterInstance, asset: str, check: str, key: str) -> None:
    """Stop a step whose input has not passed its check.

    Raises:
        StoreError: The content of the latest materialisation was not checked, or failed.
    """
    if not content_has_passed(instance, asset, check, key):
        case, beam = store_folder(key)
        raise StoreError(
            f"the latest {asset} has not passed the check {check}; materialise it again",
            where=Where(case=case, beam=key if beam else None, kind=asset),
        )


@dataclass(frozen=True, slots=True)
class Ancestry:
    """One beam's results, each made from the one before; files are verified by whoever reads them."""

    interpreted_csvs: Published
    """Its summary is verified."""
    tps_file: Published
    raw_dose: Published
    """Its record is verified."""
    rt_dose: Published


def ancestry(instance: dg.DagsterInstance, store: Store, key: str) -> Ancestry:
    """The present RT Dose of a beam and what it was made from.

    Raises:
        StoreError: One of them was never made or is gone.
    """
    case, beam = store_folder(key)

    def made_from(asset: str, digest: object, only: Collection[str]) -> Published:
        return store.resolve(case, beam, asset, str(digest), only=only)

    dose = resolve(instance, store, RT_DOSE, key, only=())
    raw = made_from(RAW_DOSE, dose.meta[RAW_DOSE], (RECORD_FILE,))
    return Ancestry(
        interpreted_csvs=made_from("interpreted_csvs", read_record(raw).interpreted_csvs, (SUMMARY_NAME,)),
        tps_file=made_from(TPS_FILE, raw.meta[TPS_FILE], ()),
        raw_dose=raw,
        rt_dose=dose,
    )
