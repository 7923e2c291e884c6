"""The pipeline of segmentation on request: images are fetched, segmented, and stored again, in one run."""

from collections.abc import Callable, Collection

from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.lifecycle.jobs import segmentation_job
from mqi_dagster.lifecycle.materialisations import IMAGES, STORED, Materialisations
from mqi_dagster.lifecycle.pipeline import Inventory, Level, Pipeline
from mqi_dagster.partitions import IMAGE_SET


def _concluded(
    events: Materialisations,
    key: str,
    parts: Collection[str],
    arrival: Arrival | None,
    inventory: Callable[[], Inventory],
) -> bool:
    """Whether what is stored was made of the images that the set has now."""
    stored, images = events.latest(STORED, key), events.latest(IMAGES, key)
    return stored is not None and images is not None and stored.source == images.digest


SEGMENTATION = Pipeline(
    "segmentation",
    sensors=("image_sets",),
    units=Level(IMAGE_SET, (segmentation_job,)),
    status_assets=(IMAGES, STORED),
    concluded=_concluded,
    command="segmentation",
    room_of_its_own=True,
)
