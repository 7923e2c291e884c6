"""Cases that stand under a name that holds the patient's identity, and the removal of all they have left."""

import shutil
from collections.abc import Collection, Iterable
from enum import Enum

import dagster as dg

from mqi_dagster.delivery.survey import Survey
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.lifecycle.jobs import PARTITION_TAG
from mqi_dagster.lifecycle.lineage import latest_record
from mqi_dagster.lifecycle.record_retention import remove_records, runs_of
from mqi_dagster.lifecycle.retention import beam_partitions, forget_partitions
from mqi_dagster.partitions import CASE, case_key, parts_of
from mqi_dagster.pseudonyms import folder_name_key
from mqi_dagster.resources.site import Site


class Removal(Enum):
    """How far a removal has come."""

    IN_WORK = "a run is in work"
    PARTIAL = "records or folders on clusters are left"
    WHOLE = "nothing in reach is left"


_TICKS = "ticks of sensors in Dagster's records, which go by themselves after at most 90 days"


def remove_identifying(
    instance: dg.DagsterInstance, site: Site, seen: Survey, instead: str, present: Collection[str] = ()
) -> Removal:
    """Remove what stands of an arrival under names that identify; nothing of the inbox is touched.

    What is out of reach is told by an alarm, which names none of it.

    Args:
        instance: Dagster's.
        site: The site.
        seen: The arrival: its deliveries say under which names it was taken in.
        instead: Key under which the arrival is shown: the alarm's, and that of older notices.
        present: Keys of the cases that the arrival holds, which stay.

    Returns:
        How far it has come; what is in the way passes by itself.
    """
    found = _identifying(site, seen, present)
    if not found:
        return Removal.WHOLE
    left = [words for case in found for words in _remove(instance, site, case, instead)]
    words = (
        "what stood here under a folder name that identifies the patient is removed; the case is taken in"
        f" again under a name that does not. Of the old name there may be left: {'; '.join(_once(left))}."
        " Dismiss this once nothing of it is"
    )
    site.ledger.alarms.raise_(AlarmKind.IDENTITY_LEFT, instead, words)
    if _IN_WORK in left:
        return Removal.IN_WORK
    return Removal.PARTIAL if {_RUNS, _ON_CLUSTERS} & set(left) else Removal.WHOLE


_IN_WORK = "its runs in work, at whose end the rest is removed"
_HANDED_OVER = "its folder at the hand-over target: remove or rename it there"
_ON_CLUSTERS = "folders of its jobs on clusters: `mqi cluster clean`"
_RUNS = "its runs in Dagster's records, which go once another run is newer"


def _identifying(site: Site, seen: Survey, present: Collection[str]) -> list[str]:
    """Keys under which the deliveries of an arrival are known and that hold its patient's identity."""
    if seen.source is None:
        return []
    plan, folder = seen.source.plan, seen.arrival.folder.name
    of_folder = folder_name_key(folder) if plan.identity.named_in(folder) else None
    stay = {CASE.key(case).stem for case in present} | {site.pseudonyms.plan(plan.sop_instance_uid)}
    identities = [one for fraction in seen.fractions for one in fraction.identities]
    known = site.ledger.fractions.known_under([site.pseudonyms.keyed("delivery", one) for one in identities])
    return [
        case_key(name, number)
        for name, number in known
        if name not in stay and (name == of_folder or plan.identity.named_in(name))
    ]


def _remove(instance: dg.DagsterInstance, site: Site, case: str, instead: str) -> list[str]:
    """Remove a case with everything that bears its key; what is left of it, in words."""
    runs = runs_of(instance, case)
    keys = {run.tags[PARTITION_TAG] for run in runs}
    row = site.ledger.arrivals.get(case)
    handed = (row is not None and row.results_removed_at is not None) or any(
        latest_record(instance, asset, key) for key in keys for asset in ("handed_over", "case_handed_over")
    )
    left = [_HANDED_OVER, _TICKS] if handed else [_TICKS]
    # First: nothing more is asked for under this key.
    site.ledger.arrivals.forget(case)
    if any(not run.is_finished for run in runs):
        return [_IN_WORK, *left]
    forget_partitions(instance, case, beam_partitions(instance, case))
    site.store.discard(site.settings.paths.data / "cases" / case)
    for folder in (site.engine_logs, site.work):
        for of_beam in parts_of(case, (path.name for path in folder.glob("*"))):
            shutil.rmtree(folder / of_beam)
    on_clusters = site.ledger.forget_case(case, instead)
    gone = remove_records(instance, site, case)
    if gone and not on_clusters:
        # Last: by its number it is found again until everything is done.
        key = CASE.key(case)
        site.ledger.fractions.forget(key.stem, key.number)
    return [*left, *([_ON_CLUSTERS] if on_clusters else []), *([] if gone else [_RUNS])]


def _once(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))
