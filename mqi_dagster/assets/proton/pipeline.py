"""The proton pipeline: a case is taken in, its beams are simulated and handed over, and it is concluded."""

from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.lifecycle.jobs import beam_job, conclusion_job, intake_job
from mqi_dagster.lifecycle.pipeline import Level, Pipeline
from mqi_dagster.partitions import BEAM, CASE

PROTON = Pipeline(
    "proton",
    sensors=("case_arrivals", "beams_to_simulate", "cases_to_conclude"),
    units=Level(CASE, (intake_job, conclusion_job), AlarmKind.CASE_FAILED),
    parts=Level(BEAM, (beam_job,), AlarmKind.BEAM_FAILED),
)
