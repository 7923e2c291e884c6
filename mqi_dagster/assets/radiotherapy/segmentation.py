"""Station 2: what segmentation models find in the series of a course."""

from collections.abc import Callable, Iterator

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
from mqi_dagster.settings import Settings
from mqi_dagster.store.published import Published


def _segmentation(
    asset: str, section: str, stage: str, models_of: Callable[[Settings], list[FoundModel]], description: str
) -> dg.AssetsDefinition:
    """An asset of label maps.

    Args:
        asset: Its name.
        section: Of `radiotherapy`, where its models are chosen.
        stage: Of `processes.worker_counts.STAGES`.
        models_of: Its models, usable or not.
        description: For people.
    """

    @dg.asset(
        name=asset,
        description=description,
        partitions_def=COURSE.definition,
        deps=["course_inventory"],
        check_specs=radiotherapy.quality_specs(asset),
        code_version=CODE,
        group_name=radiotherapy.COURSE,
        kinds={"nifti", "json"},
        owners=radiotherapy.OWNERS,
        pool=POOL,
    )
    def segmented(
        context: dg.AssetExecutionContext,
        site: dg.ResourceParam[Site],
        gpu_pool: GpuPoolResource,
        store: StoreResource,
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        key = checked_key(COURSE, context.partition_key).text
        with tried_again(context, Where(case=key)):
            results, courses, models = store.open(), site.settings.radiotherapy, models_of(site.settings)
            at_once = AtOnce(stage_limit(courses, stage), COURSE.has, f"radiotherapy.{section}.workers")
            course = load_course(context.instance, results, site, context.partition_key)
            options = courses.segmentation
            here = site.settings.is_here(options.host)
            plan = planned(course, models, options, site.pseudonyms, here=here)
            published = found_segmentations(context.instance, results, asset, course.key, plan)
            if published is not None:
                content = read_segmentations(published.folder)
                context.log.info("found in the store; no model is started")
            else:
                work = CourseModels(context, site, gpu_pool.open(), results, course, asset, plan, at_once)
                published, content = work.make()
            off = "" if getattr(courses, section).enabled else f": radiotherapy.{section}.enabled is false"
            yield dg.MaterializeResult(
                data_version=dg.DataVersion(published.digest),
                metadata={
                    DIGEST: published.digest,
                    **{state.value: _count(content, state) for state in SegmentationState},
                    "models": ", ".join(one.name for one in models) or f"none{off}",
                    "segmentations": dg.MetadataValue.table(_rows(published, content), schema=_SCHEMA),
                },
            )
            yield from radiotherapy.quality_checks(segmentation_quality(asset, content))

    return segmented


auto_segmentation = _segmentation(
    "auto_segmentation",
    "segmentation",
    "segmentation",
    automatic_models,
    "Label maps of the models that `radiotherapy.segmentation` names, on the grid of each series.",
)
custom_segmentation = _segmentation(
    "custom_segmentation",
    "custom_models",
    "segmentation_custom",
    custom_models,
    "Label maps of the site's own models (`radiotherapy.custom_models`), on the grid of each series.",
)


def _count(content: CourseSegmentations, state: SegmentationState) -> int:
    return sum(one.state is state for one in content.segmentations)


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
