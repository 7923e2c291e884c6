"""Station 1: the series of an image set, fetched whole from the PACS and proven to be what a model takes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import numpy as np

from mqi_dagster.assets import segmentation as pipeline
from mqi_dagster.dicom.elements import text_of
from mqi_dagster.dicom.pacs import PacsSeries, fetch_series
from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.errors import ImageError, InputError, Where
from mqi_dagster.files import sha256_file, write_whole
from mqi_dagster.imaging.image_grid import ImageGrid
from mqi_dagster.imaging.image_volume import read_volume
from mqi_dagster.imaging.models.job_files import write_series_image
from mqi_dagster.imaging.models.suitability import ImageFacts, nearest_plane, unsuitable
from mqi_dagster.lifecycle.boundary import tried_again
from mqi_dagster.lifecycle.image_set import (
    FACTS,
    ImageSetAtWork,
    ImageSetFacts,
    model_for,
    present_series,
    read_source,
)
from mqi_dagster.lifecycle.lineage import DIGEST, checked_key, reusable
from mqi_dagster.lifecycle.materialisations import IMAGES
from mqi_dagster.lifecycle.stages import WorkPhase
from mqi_dagster.partitions import IMAGE_SET
from mqi_dagster.resources.composed import PacsResource, StoreResource
from mqi_dagster.resources.site import Site
from mqi_dagster.store.digests import digest_of

CODE = "1"
SUITABLE = "suitable"
_TOLERANCE_MM = 0.01
_FETCHED_PERCENT = 30.0
"""Of the whole way of an image set, as far as anybody can say."""


@dg.asset(
    partitions_def=IMAGE_SET.definition,
    check_specs=[
        pipeline.check(
            IMAGES,
            SUITABLE,
            "Contrast agent, orientation and spacing of each series are what the card asks for.",
            blocking=True,
        )
    ],
    code_version=CODE,
    group_name=pipeline.GROUP,
    kinds={"dicom", "nifti"},
    owners=pipeline.OWNERS,
)
def image_set(
    context: dg.AssetExecutionContext,
    site: dg.ResourceParam[Site],
    store: StoreResource,
    pacs: PacsResource,
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """The series that a segmentation is made of: every image proven, roles told apart, one regular grid."""
    key = checked_key(IMAGE_SET, context.partition_key).text
    with tried_again(context, Where(case=key)):
        card, opened, results = model_for(site, key).card, pacs.open(), store.open()
        present = present_series(site, opened, card, read_source(site, key).series)
        if present.key != key:
            raise InputError("the series are not those that were asked for: ask for them again")
        with results.stage(key, None, IMAGES) as staging:
            contents, grids, facts = dict[str, list[str]](), dict[str, ImageGrid](), dict[str, ImageFacts]()
            for number, (role, series) in enumerate(present.roles.items()):
                told = _progress(context, site, number, len(present.roles))
                files = fetch_series(opened, series, staging / "dicom" / role, told=told)
                contents[role] = sorted(sha256_file(path) for path in files)
                grids[role], facts[role] = _converted(files, series, staging / f"{role}.nii.gz")
            _require_one_grid(grids)
            content = ImageSetFacts(model=card.name, card=card.digest(), roles=facts)
            write_whole(staging / FACTS, content.model_dump_json(indent=1).encode())
            digest = digest_of(asset=IMAGES, code=CODE, contents=contents, card=content.card)
            published = reusable(results, IMAGES, key, digest)
            if published is None:
                counts = {role: one.images for role, one in facts.items()}
                published = results.publish(staging, key, None, IMAGES, digest, meta={"images": counts})
        images = ImageSetAtWork(key, published)
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(digest), metadata={DIGEST: digest, **_metadata(images.facts)}
        )
        asked = {one.role: one for one in card.inputs}
        faults = [fault for role, one in images.facts.roles.items() for fault in unsuitable(asked[role], one)]
        yield pipeline.checked(
            IMAGES, SUITABLE, faults, "as the card asks", advice="ask with other series, or another model"
        )


def _metadata(facts: ImageSetFacts) -> dict[str, str | int]:
    return {
        "model": facts.model,
        **{f"images of {role}": one.images for role, one in facts.roles.items()},
        "spacing [mm]": "; ".join(
            " × ".join(f"{value:.4g}" for value in one.spacing_mm) for one in facts.roles.values()
        ),
    }


def _converted(files: list[Path], series: PacsSeries, target: Path) -> tuple[ImageGrid, ImageFacts]:
    """Write the images of a role as one NIfTI image; its grid, and what is known of them."""
    volume = read_volume(files)
    write_series_image(volume, target)
    named = any(
        text_of(read_dicom(path, only=("ContrastBolusAgent",)), "ContrastBolusAgent") for path in files
    )
    facts = ImageFacts(
        images=len(volume.instance_uids),
        spacing_mm=volume.grid.spacing_mm,
        plane=nearest_plane(volume.grid),
        contrast=named,
    )
    return volume.grid, facts


def _progress(
    context: dg.AssetExecutionContext, site: Site, number: int, roles: int
) -> Callable[[int, int], None]:
    """What tells how many images of a series are here, at every tenth of them."""
    key, run, last = context.partition_key, context.run.run_id, -1

    def told(done: int, everything: int) -> None:
        nonlocal last
        if (tenth := 10 * done // everything) > last:
            last = tenth
            percent = _FETCHED_PERCENT * (number + done / everything) / roles
            message = f"{done} of {everything} images"
            site.ledger.progress.record(key, run, WorkPhase.FETCHING, percent=percent, message=message)

    return told


def _require_one_grid(grids: dict[str, ImageGrid]) -> None:
    """Check that the voxels of every role are those of the first: nothing is resampled without a word.

    Raises:
        ImageError: They are not.
    """
    (first, grid), *others = grids.items()
    for role, other in others:
        if other.shape != grid.shape or not _alike(grid, other):
            raise ImageError(f"the images of {role} do not lie on the grid of {first}")


def _alike(one: ImageGrid, other: ImageGrid) -> bool:
    if one.frame_of_reference_uid != other.frame_of_reference_uid:
        return False
    ends = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (np.array(one.shape) - 1)
    return bool(np.abs(one.to_patient(ends) - other.to_patient(ends)).max() <= _TOLERANCE_MM)
