"""Station 5: the radiomics of every structure of a course."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from mqi_dagster.assets import radiotherapy
from mqi_dagster.compute.stage_slots import stage_slot
from mqi_dagster.courses.inventory import ImageSeries
from mqi_dagster.errors import Where
from mqi_dagster.imaging.quality_control import radiomics_quality
from mqi_dagster.imaging.radiomics_choices import RadiomicsChoices, choices
from mqi_dagster.imaging.radiomics_files import CourseRadiomics, RegionStatus, read_radiomics
from mqi_dagster.imaging.radiomics_profile import Modality
from mqi_dagster.imaging.structure_files import CourseStructures, read_structures
from mqi_dagster.imaging.structure_names import read_structure_names
from mqi_dagster.lifecycle.boundary import tried_again
from mqi_dagster.lifecycle.course import CourseAtWork, load_course, series_pseudonym
from mqi_dagster.lifecycle.course_results import current_result, made_of
from mqi_dagster.lifecycle.lineage import DIGEST, checked_key, latest_digest, reusable
from mqi_dagster.partitions import COURSE
from mqi_dagster.processes.worker_counts import effective_workers, processors
from mqi_dagster.resources.composed import StoreResource
from mqi_dagster.resources.site import Site
from mqi_dagster.settings.radiotherapy import Radiotherapy
from mqi_dagster.store.digests import digest_of
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import Store

ASSET = "radiomics"
CODE = "1"
_WHOLE = "whole"
"""In the manifest: the digest of the result in which no structure has failed by what may pass."""
_SHOWN = 20
"""Failed structures that are named in the metadata."""


@dg.asset(
    partitions_def=COURSE.definition,
    deps=["course_inventory", "structures"],
    code_version=CODE,
    group_name=radiotherapy.COURSE,
    kinds={"parquet", "json"},
    owners=radiotherapy.OWNERS,
    check_specs=radiotherapy.quality_specs(ASSET),
)
def radiomics(
    context: dg.AssetExecutionContext, site: dg.ResourceParam[Site], store: StoreResource
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Features of every structure by IBSI, each in a process of its own; what has none has a reason."""
    key = checked_key(COURSE, context.partition_key).text
    with tried_again(context, Where(case=key)), stage_slot(context, site, "radiomics"):
        settings, results = site.settings.radiotherapy, store.open()
        if settings.radiomics.enabled:
            published = _features(context, site, results, load_course(context.instance, results, site, key))
        else:
            published = _nothing(settings, results, key)
        content = read_radiomics(published.folder)
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(published.digest),
            metadata={DIGEST: published.digest, **_metadata(content)},
        )
        yield from radiotherapy.quality_checks(radiomics_quality(content))


def _nothing(settings: Radiotherapy, store: Store, key: str) -> Published:
    names = read_structure_names(settings.structures.names)
    chosen = choices(settings.radiomics, {}, None, names, cropped=False)
    digest = digest_of(asset=ASSET, code=CODE, enabled=False, columns=[one.tag for one in chosen.columns])
    if (found := reusable(store, ASSET, key, digest)) is not None:
        return found
    from mqi_dagster.imaging.course_radiomics import no_radiomics

    with store.stage(key, None, ASSET) as staging:
        no_radiomics(chosen, staging)
        return store.publish(staging, key, None, ASSET, digest, meta={_WHOLE: digest})


def _features(context: dg.AssetExecutionContext, site: Site, store: Store, course: CourseAtWork) -> Published:
    settings, key = site.settings.radiotherapy, course.key
    made = current_result(context.instance, store, course, "structures")
    structures = read_structures(made.folder)
    series = {series_pseudonym(site.pseudonyms, course, one): one for one in course.analysed}
    cropping = settings.ct_cropping
    chosen = choices(
        settings.radiomics,
        {pseudonym: Modality(str(one.modality)) for pseudonym, one in series.items()},
        structures,
        read_structure_names(settings.structures.names),
        cropped=cropping.enabled and cropping.use_cropped_for_radiomics,
    )
    digest = digest_of(
        asset=ASSET,
        code=CODE,
        images=[course.digests_of(one) for one in series.values()],
        structures=made.digest,
        choices=chosen.for_digest(structures),
    )
    if (found := reusable(store, ASSET, key, digest)) is not None:
        return found
    with store.stage(key, None, ASSET) as staging:
        earlier = _unfinished(context, store, key, digest)
        content = _compute(context, settings, course, series, structures, made, chosen, staging, earlier)
        # Under the digest of the whole nobody would try again what may do better in another run.
        left = [[one.series, one.structure_id] for one in content.unfinished]
        own = digest_of(asset=ASSET, whole=digest, left=left) if left else digest
        meta = {
            _WHOLE: digest,
            "structures": len(content.regions),
            **made_of(course, series=course.analysed, results=[made]),
        }
        return store.publish(staging, key, None, ASSET, own, meta=meta)


def _unfinished(context: dg.AssetExecutionContext, store: Store, key: str, whole: str) -> Path | None:
    """The latest result, where it is this one with structures that failed by what may have passed."""
    latest = latest_digest(context.instance, ASSET, key)
    found = None if latest is None else reusable(store, ASSET, key, latest)
    return found.folder if found is not None and found.meta.get(_WHOLE) == whole else None


def _compute(
    context: dg.AssetExecutionContext,
    settings: Radiotherapy,
    course: CourseAtWork,
    series: dict[str, ImageSeries],
    structures: CourseStructures,
    made: Published,
    chosen: RadiomicsChoices,
    folder: Path,
    earlier: Path | None,
) -> CourseRadiomics:
    from mqi_dagster.imaging.course_radiomics import AnalysedSeries, Effort, course_radiomics

    asked, planning = settings.radiomics, course.chosen.planning
    frame = None if planning is None else planning.frame_of_reference_uid
    analysed = [
        AnalysedSeries(
            pseudonym, Modality(str(one.modality)), course.images(one), one.frame_of_reference_uid == frame
        )
        for pseudonym, one in series.items()
    ]
    effort = Effort(
        workers=1 if asked.sequential else _workers(settings),
        threads=asked.thread_limit,
        timeout_seconds=asked.task_timeout,
        attempts=asked.attempts,
        progress=lambda progress: context.log.info("%s", progress),
    )
    return course_radiomics(
        course.key, analysed, structures, made.folder, chosen, effort, folder, earlier=earlier
    )


def _workers(settings: Radiotherapy) -> int:
    for asked in (settings.radiomics.workers, settings.workers):
        if asked != "auto":
            return asked
    return effective_workers(None, processors())


def _metadata(content: CourseRadiomics) -> dict[str, Any]:
    if not content.enabled:
        return {"structures": 0, "not computed": "radiomics.enabled is false"}
    counts = Counter(one.status for one in content.regions)
    failed = [one for one in content.regions if one.status is RegionStatus.FAILED]
    steps = [step for one in content.series for step in one.steps]
    return {
        "structures": len(content.regions),
        **{status.value: counts[status] for status in RegionStatus},
        "why failed": "; ".join(f"{one.structure_id}: {one.reason}" for one in failed[:_SHOWN]) or "none",
        "tries that did not end well": "\n".join(steps) or "none",
        "cropped to the analysis region": any(one.cropped for one in content.series),
        "computed by": ", ".join(f"{name} {number}" for name, number in content.versions.items()),
        "seconds": round(sum(one.seconds for one in content.series), 1),
    }
