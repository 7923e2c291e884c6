"""Station 3: the segmentation as DICOM in the PACS, read back there."""

from collections.abc import Iterator

import dagster as dg

from mqi_dagster.assets import segmentation as pipeline
from mqi_dagster.assets.segmentation.segmentation import GEOMETRY
from mqi_dagster.compute.segmentation_run import LABEL_MAP
from mqi_dagster.dicom.dciodvfy import complaints
from mqi_dagster.dicom.pacs import repeated, store_proven
from mqi_dagster.dicom.storage_commitment import committed
from mqi_dagster.errors import Where
from mqi_dagster.imaging.segmentation_files import read_segmentations
from mqi_dagster.lifecycle.boundary import tried_again
from mqi_dagster.lifecycle.image_set import (
    REPORT_FILE,
    SEGMENTATION_FILE,
    StoredObjects,
    load_image_set,
    read_stored,
)
from mqi_dagster.lifecycle.lineage import DIGEST, checked_key, require_passed, resolve, reusable
from mqi_dagster.lifecycle.materialisations import IMAGES, SEGMENTED, STORED
from mqi_dagster.lifecycle.stages import WorkPhase
from mqi_dagster.partitions import IMAGE_SET
from mqi_dagster.resources.composed import PacsResource, StoreResource
from mqi_dagster.resources.site import Site
from mqi_dagster.store.digests import digest_of
from mqi_dagster.store.published import Published

CODE = "1"
CONFORMANT, ROUND_TRIP = "conformant", "round_trip"
_STORING_PERCENT = 90.0


@dg.asset(
    partitions_def=IMAGE_SET.definition,
    deps=[IMAGES, SEGMENTED],
    check_specs=[
        pipeline.check(STORED, CONFORMANT, "dciodvfy finds no error in what was stored.", blocking=False),
        pipeline.check(
            STORED, ROUND_TRIP, "The PACS gives back the very voxels of the label map.", blocking=True
        ),
    ],
    code_version=CODE,
    group_name=pipeline.GROUP,
    kinds={"dicom"},
    owners=pipeline.OWNERS,
)
def segmentation_stored(
    context: dg.AssetExecutionContext,
    site: dg.ResourceParam[Site],
    store: StoreResource,
    pacs: PacsResource,
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """DICOM Segmentation in the PACS, with the receipt of what was read back there."""
    from mqi_dagster.imaging.segmentation_export import SegmentedImages

    key = checked_key(IMAGE_SET, context.partition_key).text
    with tried_again(context, Where(case=key)):
        results, wanted, opened = store.open(), site.settings.on_request, pacs.open()
        require_passed(context.instance, SEGMENTED, GEOMETRY, key)
        images = load_image_set(context.instance, results, key)
        segmented = resolve(context.instance, results, SEGMENTED, key)
        (record,) = read_segmentations(segmented.folder).segmentations
        found = SegmentedImages(images.files(images.main_role), segmented.path(LABEL_MAP), record)
        # By it the objects are named: what else is wanted of the PACS makes no others.
        objects = digest_of(code=CODE, images=images.published.digest, segmentation=segmented.digest)
        digest = digest_of(
            asset=STORED,
            objects=objects,
            report=wanted.structured_report,
            commitment=wanted.commitment is not None,
        )
        published = reusable(results, STORED, key, digest)
        if published is None:
            site.ledger.progress.record(key, context.run.run_id, WorkPhase.STORING, percent=_STORING_PERCENT)
            with results.stage(key, None, STORED) as staging:
                report = staging / REPORT_FILE if wanted.structured_report else None
                files = found.write(staging / SEGMENTATION_FILE, report, objects)
                stored = {path.name: store_proven(opened, path.read_bytes()) for path in files}
                receipt = StoredObjects(stored=stored, commitment=committed(wanted.commitment, files))
                receipt.write(staging)
                meta = {"objects": sorted(stored), "commitment": receipt.commitment}
                published = results.publish(staging, key, None, STORED, digest, meta=meta)
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(digest),
            metadata={
                DIGEST: digest,
                IMAGES: images.published.digest,
                "objects": ", ".join(published.meta["objects"]) or "none: nothing was found",
                "commitment": published.meta["commitment"],
                # A voxel is no measure.
                **{f"{one.name} [mm³]": round(one.volume_cm3 * 1000, 1) for one in record.regions},
            },
        )
        yield _conformant(published)
        stored, differing = read_stored(published).stored, list[str]()
        if SEGMENTATION_FILE in stored:
            differing = found.differing(repeated(lambda: opened.file(stored[SEGMENTATION_FILE])))
        yield pipeline.checked(
            STORED,
            ROUND_TRIP,
            [f"{name} differs in the PACS" for name in differing],
            "equal" if stored else "nothing was found",
            advice="look at the PACS: who has changed it there",
        )


def _conformant(published: Published) -> dg.AssetCheckResult:
    said = {name: complaints(published.path(name)) for name in read_stored(published).stored}
    unseen = "not looked at: dciodvfy is not installed (Debian's package dicom3tools)"
    return pipeline.checked(
        STORED,
        CONFORMANT,
        [f"{name}: {', '.join(dict.fromkeys(errors))}" for name, errors in said.items() if errors],
        unseen if None in said.values() else "no errors",
        advice="report it: some programs may refuse the object",
        warns=True,
    )
