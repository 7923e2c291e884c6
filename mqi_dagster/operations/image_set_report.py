"""Everything about one image set: what was asked for, what was found in it, and what its checks say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from mqi_dagster.assets.segmentation.export import CONFORMANT, ROUND_TRIP
from mqi_dagster.assets.segmentation.images import SUITABLE
from mqi_dagster.assets.segmentation.segmentation import GEOMETRY, PLAUSIBLE
from mqi_dagster.errors import KeyRejectedError, StoreError
from mqi_dagster.imaging.segmentation_files import SEGMENTATIONS, Segmentation, read_segmentations
from mqi_dagster.ledger.attempts import Attempt
from mqi_dagster.lifecycle.image_set import (
    FACTS,
    RECEIPT,
    SEGMENTATION_FILE,
    ImageSetAtWork,
    ImageSetFacts,
    StoredObjects,
    read_stored,
)
from mqi_dagster.lifecycle.jobs import segmentation_job
from mqi_dagster.lifecycle.lineage import resolve
from mqi_dagster.lifecycle.materialisations import IMAGES, SEGMENTED, STORED
from mqi_dagster.operations.course_results import made
from mqi_dagster.operations.segmentation_request import RequestStanding, standing
from mqi_dagster.operations.unit_results import (
    QualityRow,
    ResultRow,
    evaluated,
    judged,
    results_of,
    worst_first,
)
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist.board_rows import StatusRow

_CHECKS = {IMAGES: (SUITABLE,), SEGMENTED: (GEOMETRY, PLAUSIBLE), STORED: (CONFORMANT, ROUND_TRIP)}


class ImageSetDetails(StatusRow):
    """Everything about one image set, but whose it is."""

    standing: RequestStanding
    facts: ImageSetFacts | None = None
    """What was fetched; None before, and where it was removed since."""
    found: Segmentation | None = None
    """What the model has found; likewise."""
    receipt: StoredObjects | None = None
    """Of what stands in the PACS; likewise."""
    checks: tuple[QualityRow, ...] = ()
    """The worst first."""
    results: tuple[ResultRow, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    """Starts of the model, the newest first."""


def image_set_details(instance: dg.DagsterInstance, site: Site, key: str) -> ImageSetDetails:
    """Everything about one image set.

    Raises:
        InputError: Nobody has asked for it.
    """
    results = tuple(results_of(instance, site, key, segmentation_job.assets))
    digests = {one.asset: one.digest for one in results}
    fetched, segmented, stored = (
        made(site, key, asset, digests.get(asset)) for asset in (IMAGES, SEGMENTED, STORED)
    )
    whole = fetched is not None and FACTS in fetched.manifest.files
    found = segmented is not None and SEGMENTATIONS in segmented.manifest.files
    return ImageSetDetails(
        standing=standing(site, instance, key),
        facts=ImageSetAtWork(key, fetched).facts if fetched is not None and whole else None,
        found=read_segmentations(segmented.folder).segmentations[0]
        if segmented is not None and found
        else None,
        receipt=read_stored(stored) if stored is not None and RECEIPT in stored.manifest.files else None,
        checks=tuple(worst_first(judged(one) for one in evaluated(instance, key, _CHECKS))),
        results=results,
        attempts=tuple(reversed(site.ledger.attempts.history(key))),
    )


def places(details: ImageSetDetails) -> Iterator[tuple[str, Path]]:
    """Where the results of an image set lie, by what they are."""
    for one in details.results:
        if one.folder is not None:
            yield one.asset, one.folder


def segmentation_file(instance: dg.DagsterInstance, site: Site, key: str) -> Path:
    """The DICOM Segmentation as it was stored, compared with what was published.

    Raises:
        KeyRejectedError: There is none.
    """
    try:
        return resolve(instance, site.store, STORED, key, only=(SEGMENTATION_FILE,)).path(SEGMENTATION_FILE)
    except StoreError:
        raise KeyRejectedError("there is no such file") from None
