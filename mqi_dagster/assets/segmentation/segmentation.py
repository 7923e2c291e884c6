"""Station 2: what the model finds in the images of a set."""

from collections.abc import Iterator
from dataclasses import asdict

import dagster as dg

from mqi_dagster.assets import segmentation as pipeline
from mqi_dagster.assets.segmentation.images import SUITABLE
from mqi_dagster.compute.course_models import Way, way_asked
from mqi_dagster.compute.segmentation_run import LABEL_MAP, ModelRuns, ModelTask
from mqi_dagster.errors import ImageError, Where
from mqi_dagster.imaging.models.card import Model, ModelCard
from mqi_dagster.imaging.models.model_errors import ModelError
from mqi_dagster.imaging.models.program_version import program_version, version_words
from mqi_dagster.imaging.segmentation_files import (
    CourseSegmentations,
    Segmentation,
    SegmentationState,
    read_segmentations,
    write_segmentations,
)
from mqi_dagster.ledger.leases import AtOnce
from mqi_dagster.lifecycle.boundary import tried_again
from mqi_dagster.lifecycle.image_set import ImageSetAtWork, host_of, load_image_set, model_for
from mqi_dagster.lifecycle.jobs import POOL
from mqi_dagster.lifecycle.lineage import DIGEST, checked_key, latest_digest, require_passed, reusable
from mqi_dagster.lifecycle.materialisations import IMAGES, SEGMENTED
from mqi_dagster.partitions import IMAGE_SET
from mqi_dagster.resources.composed import GpuPoolResource, StoreResource
from mqi_dagster.resources.gpu_pool import GpuPool
from mqi_dagster.resources.site import Site
from mqi_dagster.store.digests import digest_of
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import Store

CODE = "1"
ASKED, SECONDS = "asked", "seconds"
"""In what is kept with a result: digest of how it was asked for, and how long the model took."""
GEOMETRY, PLAUSIBLE = "geometry", "plausible"


@dg.asset(
    partitions_def=IMAGE_SET.definition,
    deps=[IMAGES],
    check_specs=[
        pipeline.check(SEGMENTED, GEOMETRY, "Its voxels are those of the images.", blocking=True),
        pipeline.check(
            SEGMENTED,
            PLAUSIBLE,
            "Every region was found, with a volume and in pieces as its card says.",
            blocking=False,
        ),
    ],
    code_version=CODE,
    group_name=pipeline.GROUP,
    kinds={"nifti", "json"},
    owners=pipeline.OWNERS,
    pool=POOL,
)
def segmentation(
    context: dg.AssetExecutionContext,
    site: dg.ResourceParam[Site],
    gpu_pool: GpuPoolResource,
    store: StoreResource,
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """The label map of the model on the grid of the first series."""
    key = checked_key(IMAGE_SET, context.partition_key).text
    with tried_again(context, Where(case=key)):
        results = store.open()
        require_passed(context.instance, IMAGES, SUITABLE, key)
        images = load_image_set(context.instance, results, key)
        model = model_for(site, key, images.facts.card)
        published = _made(context, site, gpu_pool.open(), results, images, model)
        (record,) = read_segmentations(published.folder).segmentations
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(published.digest),
            metadata={
                DIGEST: published.digest,
                "model": f"{record.model} {record.version}",
                "device": record.device,
                SECONDS: published.meta[SECONDS],
                **{f"{one.name} [cm³]": round(one.volume_cm3, 3) for one in record.regions},
                "steps": "; ".join(record.steps) or "none",
            },
        )
        yield from _checks(published, record, images, model.card)


def _made(
    context: dg.AssetExecutionContext,
    site: Site,
    pool: GpuPool,
    results: Store,
    images: ImageSetAtWork,
    model: Model,
) -> Published:
    """The segmentation as it was asked for: found, or made, with less where it was too much."""
    key, card, wanted = images.key, model.card, site.settings.on_request
    host = host_of(site, key)
    options = site.settings.radiotherapy.segmentation.model_copy(update={"host": host})
    program = program_version(model) if site.settings.slurm_of(host) is None else {}
    way = way_asked(card, options, program)
    asked = digest_of(
        asset=SEGMENTED, code=CODE, images=images.published.digest, card=card.digest(), way=asdict(way)
    )
    latest = latest_digest(context.instance, SEGMENTED, key)
    for digest in dict.fromkeys((latest or asked, asked)):
        found = reusable(results, SEGMENTED, key, digest)
        if found is not None and found.meta.get(ASKED) == asked:
            context.log.info("found in the store; no model is started")
            return found
    at_once = AtOnce(wanted.workers, IMAGE_SET.has, "on_request.workers")
    runs = ModelRuns.of(context, site, pool, options, at_once)
    given = {role: images.image(role) for role in images.facts.roles}
    with results.stage(key, None, SEGMENTED) as staging:
        tried = runs.run(ModelTask(key, card.name, "1 of 1", asked, model, given), staging)
        if tried.record is None:
            raise ModelError(tried.reason)
        made = tried.record
        record = Segmentation(
            series=IMAGE_SET.key(key).stem,
            model=card.name,
            version=card.version,
            state=SegmentationState.MADE,
            regions=tried.regions,
            steps=tuple(str(step) for step in tried.steps),
            device=made.device,
            program=version_words(made.program),
            isolated=made.isolated,
            limits=card.limits,
            family="Rule-based" if card.rules is not None else "Artificial Intelligence",
        )
        write_segmentations(CourseSegmentations(segmentations=(record,)), staging)
        # What was made with less has other voxels, and is another result.
        done = Way(made.device_used, made.in_pieces, made.program)
        digest = asked if done == way else digest_of(asked=asked, way=asdict(done))
        meta = {ASKED: asked, SECONDS: made.seconds}
        return results.publish(staging, key, None, SEGMENTED, digest, meta=meta)


def _checks(
    published: Published, record: Segmentation, images: ImageSetAtWork, card: ModelCard
) -> Iterator[dg.AssetCheckResult]:
    from mqi_dagster.imaging.segmentation_export import SegmentedImages

    beside, odd, counted = list[str](), list[str](), list[str]()
    try:
        found = SegmentedImages(images.files(images.main_role), published.path(LABEL_MAP), record)
        pieces = {one.name: count for one, count in found.pieces()}
    except ImageError as error:
        beside.append(error.message)
    yield pipeline.checked(
        SEGMENTED, GEOMETRY, beside, "the grid of the images", advice="look at what the model has left"
    )
    for one in () if beside else card.regions:
        made = next(made for made in record.regions if made.name == one.name)
        low, high = one.volume_cm3
        if made.name not in pieces:
            odd += [] if card.may_find_nothing else [f"{one.name} was not found"]
            continue
        counted.append(f"{one.name}: {made.volume_cm3:.3g} cm³ in {pieces[one.name]}")
        if not low <= made.volume_cm3 <= high:
            odd.append(f"{one.name} has {made.volume_cm3:.3g} cm³, not {low:g} to {high:g}")
        if one.pieces is not None and pieces[one.name] > one.pieces:
            odd.append(f"{one.name} is in {pieces[one.name]} pieces, not in {one.pieces}")
    yield pipeline.checked(
        SEGMENTED,
        PLAUSIBLE,
        beside or odd,
        "; ".join(counted) or "nothing was found",
        advice="look at it before it is used",
        warns=True,
    )
