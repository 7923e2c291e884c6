"""Whether a case is concluded with what stands there now, and has been for long."""

from datetime import datetime

import dagster as dg

from mqi_dagster.errors import StoreError
from mqi_dagster.lifecycle.beam import read_manifest
from mqi_dagster.lifecycle.run_requests import latest_run_succeeded
from mqi_dagster.lifecycle.status import CONCLUDED, DOSE, HANDED_OVER, MANIFEST, EventLog, concluded
from mqi_dagster.partitions import BEAMS, beam_key, is_beam_key
from mqi_dagster.resources.site import Site


def concluded_before(instance: dg.DagsterInstance, site: Site, case: str, limit: datetime) -> bool:
    """Whether a case is concluded with what its beams have now, none has failed since, and all is old.

    What the case consists of its present manifest says: a beam that has come late is no partition yet, and
    after an earlier removal no beam is one.

    Args:
        instance: Dagster's records.
        site: The site.
        case: Case key.
        limit: What was made before it is old.
    """
    events, arrival = EventLog(instance), site.ledger.arrival(case)
    taken_in = events.latest(MANIFEST, case)
    if taken_in is None or events.number(CONCLUDED, case) is None:
        return False
    more_came = arrival is not None and arrival.fingerprint != arrival.requested_fingerprint
    if arrival is not None and more_came and arrival.changed_at > taken_in.at:
        return False
    try:
        manifest = read_manifest(instance, site, case)
    except StoreError:
        return False
    beams = [beam_key(case, entry.number) for entry in manifest.beams]
    if not concluded(events, case, beams, arrival, lambda: manifest.partial):
        return False
    if not all(latest_run_succeeded(instance, beam) for beam in beams):
        return False
    # A partition that somebody has invented was never handed over, and keeps nothing.
    others = [
        key
        for key in beam_partitions(instance, case)
        if is_beam_key(key) and key not in beams and events.number(HANDED_OVER, key) is not None
    ]
    made = [events.latest(asset, key) for key in (*beams, *others) for asset in (DOSE, HANDED_OVER)]
    made += [taken_in, events.latest(CONCLUDED, case)]
    return all(one is None or one.at < limit for one in made)


def beam_partitions(instance: dg.DagsterInstance, case: str) -> list[str]:
    """The beam keys of a case that are partitions now."""
    return [key for key in instance.get_dynamic_partitions(str(BEAMS.name)) if key.startswith(f"{case}__")]
