"""The radiotherapy pipeline: a course is organised, segmented, measured and reported, in one run."""

from collections.abc import Callable, Collection

from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.lifecycle.jobs import course_job
from mqi_dagster.lifecycle.materialisations import COURSE_REPORT, INVENTORY, Materialisations
from mqi_dagster.lifecycle.pipeline import Inventory, Level, Pipeline
from mqi_dagster.partitions import COURSE


def _concluded(
    events: Materialisations,
    course: str,
    parts: Collection[str],
    arrival: Arrival | None,
    inventory: Callable[[], Inventory],
) -> bool:
    """Whether a course has a report on the inventory that it has now."""
    report, organised = events.latest(COURSE_REPORT, course), events.latest(INVENTORY, course)
    return report is not None and organised is not None and report.source == organised.digest


RADIOTHERAPY = Pipeline(
    "radiotherapy",
    sensors=("dicom_arrivals", "cohort"),
    units=Level(COURSE, (course_job,)),
    status_assets=(INVENTORY, COURSE_REPORT),
    concluded=_concluded,
    command="course",
    room_of_its_own=True,
)
