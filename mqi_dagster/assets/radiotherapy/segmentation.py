"""Station 2: what segmentation models find in the series of a course."""

from collections.abc import Iterator, Sequence

import dagster as dg

from mqi_dagster.assets import radiotherapy
from mqi_dagster.compute.course_models import (
    CODE,
    CourseModels,
    automatic_models,
    custom_models,
    found_segmentations,
    planned,
)
from mqi_dagster.errors import Where
from mqi_dagster.imaging.models.card import FoundModel
from mqi_dagster.imaging.models.job_files import read_record
from mqi_dagster.imaging.quality_control import segmentation_quality
from mqi_dagster.imaging.segmentation_files import CourseSegmentations, SegmentationState, read_segmentations
from mqi_dagster.ledger.leases import AtOnce
from mqi_dagster.lifecycle.boundary import tried_again
from mqi_dagster.lifecycle.course import load_course
from mqi_dagster.lifecycle.jobs import POOL
from mqi_dagster.lifecycle.lineage import DIGEST, checked_key
from mqi_dagster.partitions import COURSE
from mqi_dagster.processes.worker_counts import stage_limit
from mqi_dagster.resources.composed import GpuPoolResource, StoreResource
from mqi_dagster.resources.site import Site
from mqi_dagster.store.published import Published

AUTO, CUSTOM = "auto_segmentation", "custom_segmentation"
Results = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]


@dg.asset(
    partitions_def=COURSE.definition,
    deps=["course_inventory"],
    check_specs=radiotherapy.quality_specs(AUTO),
    code_version=CODE,
    group_name=radiotherapy.COURSE,
    kinds={"nifti", "json"},
    owners=radiotherapy.OWNERS,
    pool=POOL,
)
def auto_segmentation(
    context: dg.AssetExecutionContext,
    site: dg.ResourceParam[Site],
    gpu_pool: GpuPoolResource,
    store: StoreResource,
) -> Results:
    """Label maps of the models that `radiotherapy.segmentation` names, on the grid of each series."""
    key = checked_key(COURSE, context.partition_key).text
    with tried_again(context, Where(case=key)):
        settings = site.settings
        most = stage_limit(settings.radiotherapy, "segmentation")
        at_once = AtOnce(most, COURSE.has, "radiotherapy.segmentation.workers")
        yield from _segmented(context, site, gpu_pool, store, AUTO, automatic_models(settings), at_once)


@dg.asset(
    partitions_def=COURSE.definition,
    deps=["course_inventory"],
    check_specs=radiotherapy.quality_specs(CUSTOM),
    code_version=CODE,
    group_name=radiotherapy.COURSE,
    kinds={"nifti", "json"},
    owners=radiotherapy.OWNERS,
    pool=POOL,
)
def custom_segmentation(
    context: dg.AssetExecutionContext,
    site: dg.ResourceParam[Site],
    gpu_pool: GpuPoolResource,
    store: StoreResource,
) -> Results:
    """Label maps of the site's own models (`radiotherapy.custom_models`), on the grid of each series."""
    key = checked_key(COURSE, context.partition_key).text
    with tried_again(context, Where(case=key)):
        settings = site.settings
        most = stage_limit(settings.radiotherapy, "segmentation_custom")
        at_once = AtOnce(most, COURSE.has, "radiotherapy.custom_models.workers")
        yield from _segmented(context, site, gpu_pool, store, CUSTOM, custom_models(settings), at_once)


def _segmented(
    context: dg.AssetExecutionContext,
    site: Site,
    gpu_pool: GpuPoolResource,
    store: StoreResource,
    asset: str,
    models: Sequence[FoundModel],
    at_once: AtOnce,
) -> Results:
    results = store.open()
    course = load_course(context.instance, results, site, context.partition_key)
    options = site.settings.radiotherapy.segmentation
    here = site.settings.is_here(options.host)
    plan = planned(course, models, options, site.pseudonyms, here=here)
    published = found_segmentations(context.instance, results, asset, course.key, plan)
    if published is not None:
        content = read_segmentations(published.folder)
        context.log.info("found in the store; no model is started")
    else:
        work = CourseModels(context, site, gpu_pool.open(), results, course, asset, plan, at_once)
        published, content = work.make()
    yield dg.MaterializeResult(
        data_version=dg.DataVersion(published.digest),
        metadata={
            DIGEST: published.digest,
            **{state.value: _count(content, state) for state in SegmentationState},
            "models": ", ".join(one.name for one in models) or _none(site, asset),
            "segmentations": dg.MetadataValue.table(_rows(published, content), schema=_SCHEMA),
        },
    )
    yield from radiotherapy.quality_checks(segmentation_quality(asset, content))


def _count(content: CourseSegmentations, state: SegmentationState) -> int:
    return sum(one.state is state for one in content.segmentations)


def _none(site: Site, asset: str) -> str:
    courses = site.settings.radiotherapy
    section, name = (
        (courses.segmentation, "segmentation") if asset == AUTO else (courses.custom_models, "custom_models")
    )
    return "none" if section.enabled else f"none: radiotherapy.{name}.enabled is false"


_SCHEMA = dg.TableSchema(
    columns=[
        *(dg.TableColumn(name) for name in ("model", "version", "series", "state", "why")),
        dg.TableColumn("regions", description="With volumes [cm³]."),
        dg.TableColumn("device"),
        dg.TableColumn("program", description="What is known of the version of its program."),
        dg.TableColumn("steps", description="Tries that did not end well, and what was done instead."),
        dg.TableColumn("seconds", "float"),
    ]
)


def _rows(published: Published, content: CourseSegmentations) -> list[dg.TableRecord]:
    rows = []
    for one in content.segmentations:
        made = one.state is SegmentationState.MADE
        seconds = read_record(published.path(f"{one.folder}/segmentation.json")).seconds if made else 0.0
        regions = ", ".join(f"{region.name} {region.volume_cm3:.1f}" for region in one.regions)
        rows.append(
            dg.TableRecord(
                {
                    "model": one.model,
                    "version": one.version,
                    "series": one.series,
                    "state": one.state.value,
                    "why": one.reason,
                    "regions": regions,
                    "device": one.device,
                    "program": one.program,
                    "steps": "; ".join(one.steps),
                    "seconds": seconds,
                }
            )
        )
    return rows
