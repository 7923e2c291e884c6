"""The proton pipeline: a case is taken in, its beams are simulated and handed over, and it is concluded."""

import dagster as dg

from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.lifecycle.beam import beams_of, find_manifest
from mqi_dagster.lifecycle.case_status import concluded
from mqi_dagster.lifecycle.jobs import beam_job, conclusion_job, intake_job
from mqi_dagster.lifecycle.materialisations import CONCLUDED, DOSE, HANDED_OVER, MANIFEST
from mqi_dagster.lifecycle.pipeline import Level, Pipeline
from mqi_dagster.partitions import BEAM, CASE
from mqi_dagster.store.store import Store


def _beams_of(instance: dg.DagsterInstance, store: Store, case: str) -> dict[int, str] | None:
    """The beams of a case, as its manifest has them."""
    manifest = find_manifest(instance, store, case)
    return None if manifest is None else beams_of(manifest)


PROTON = Pipeline(
    "proton",
    sensors=("case_arrivals", "beams_to_simulate", "cases_to_conclude"),
    units=Level(CASE, (intake_job, conclusion_job), AlarmKind.CASE_FAILED),
    parts=Level(BEAM, (beam_job,), AlarmKind.BEAM_FAILED),
    parts_of=_beams_of,
    status_assets=(MANIFEST, DOSE, HANDED_OVER, CONCLUDED),
    concluded=concluded,
)
