"""Station 3: all structures of a course on the grid of its images: drawn, found by models, made of others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from mqi_dagster import __version__
from mqi_dagster.assets import radiotherapy
from mqi_dagster.compute.stage_slots import stage_slot
from mqi_dagster.courses.inventory import ImageSeries
from mqi_dagster.errors import ConfigurationError, Where
from mqi_dagster.files import sha256_file
from mqi_dagster.imaging.quality_control import structures_quality
from mqi_dagster.imaging.region import PACKAGED_REGIONS
from mqi_dagster.imaging.segmentation_files import read_segmentations
from mqi_dagster.imaging.structure_files import CourseStructures, StructureSource, read_structures
from mqi_dagster.imaging.structure_names import PACKAGED_NAMES
from mqi_dagster.lifecycle.boundary import tried_again
from mqi_dagster.lifecycle.course import CourseAtWork, load_course, series_pseudonym
from mqi_dagster.lifecycle.course_results import current_result, made_of
from mqi_dagster.lifecycle.lineage import DIGEST, checked_key, reusable
from mqi_dagster.partitions import COURSE
from mqi_dagster.resources.composed import StoreResource
from mqi_dagster.resources.site import Site
from mqi_dagster.settings.radiotherapy import Radiotherapy
from mqi_dagster.store.digests import digest_of
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import Store

CODE = "1"
STRUCTURES = "structures"
_SEGMENTATIONS = {
    "auto_segmentation": StructureSource.AUTOMATIC,
    "custom_segmentation": StructureSource.CUSTOM_MODEL,
}


@dg.asset(
    partitions_def=COURSE.definition,
    deps=["course_inventory", *_SEGMENTATIONS],
    check_specs=radiotherapy.quality_specs(STRUCTURES),
    code_version=CODE,
    group_name=radiotherapy.COURSE,
    kinds={"dicom", "numpy"},
    owners=radiotherapy.OWNERS,
)
def structures(
    context: dg.AssetExecutionContext, site: dg.ResourceParam[Site], store: StoreResource
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """All structures on one grid: clinical, automatic, custom and derived ones, and the analysis region."""
    key = checked_key(COURSE, context.partition_key).text
    with tried_again(context, Where(case=key)), stage_slot(context, site, "crop_ct"):
        course = load_course(context.instance, store.open(), site, key)
        made_before = {
            asset: current_result(context.instance, store.open(), course, asset) for asset in _SEGMENTATIONS
        }
        digest = _digest(course, made_before, site.settings.radiotherapy)
        published = reusable(store.open(), STRUCTURES, key, digest)
        if published is None:
            published = _make(site, store.open(), course, made_before, digest)
        content = read_structures(published.folder)
        context.add_asset_metadata({DIGEST: digest, **_metadata(content)})
        yield dg.MaterializeResult(data_version=dg.DataVersion(digest))
        yield from radiotherapy.quality_checks(structures_quality(content))


def _digest(course: CourseAtWork, made_before: dict[str, Published], settings: Radiotherapy) -> str:
    chosen, files = course.chosen, settings.structures
    cropping = settings.ct_cropping
    return digest_of(
        asset=STRUCTURES,
        code=CODE,
        planning=None if chosen.planning is None else course.digests_of(chosen.planning),
        others=[course.digests_of(series) for series in chosen.others],
        structure_sets=course.digests(one.found.sop_instance_uid for one in course.inventory.structure_sets),
        segmentations={asset: one.digest for asset, one in made_before.items()},
        custom_structures=_content_of(files.custom_structures, "structures.custom_structures"),
        names=_content_of(files.names, "structures.names"),
        ct_cropping=cropping.model_dump(exclude={"use_cropped_for_dvh", "use_cropped_for_radiomics"})
        if cropping.enabled
        else None,
        tables=[sha256_file(PACKAGED_NAMES), sha256_file(PACKAGED_REGIONS)],
    )


def _content_of(path: Path | None, setting: str) -> str | None:
    """SHA-256 of a file that the settings name."""
    try:
        return None if path is None else sha256_file(path)
    except OSError as error:
        raise ConfigurationError(
            f"the file of radiotherapy.{setting} cannot be read: {error.strerror}"
        ) from None


def _make(
    site: Site, store: Store, course: CourseAtWork, made_before: dict[str, Published], digest: str
) -> Published:
    # Only where structures are made: these load scipy, SimpleITK and highdicom.
    from mqi_dagster.imaging.course_structures import (
        CourseInput,
        SegmentationsInput,
        SeriesInput,
        StructureRules,
        StructureSetInput,
        make_structures,
        region_request,
    )
    from mqi_dagster.imaging.derived import read_custom_structures
    from mqi_dagster.imaging.structure_names import read_structure_names

    settings = site.settings.radiotherapy

    def of_series(series: ImageSeries) -> SeriesInput:
        in_order = sorted(series.images, key=lambda image: (image.place.path, image.place.member))
        return SeriesInput(
            series_pseudonym(site.pseudonyms, course, series),
            series.series_uid or "",
            lambda: (course.content(image.sop_instance_uid) for image in in_order),
        )

    def of_set(uid: str) -> StructureSetInput:
        return StructureSetInput(
            site.pseudonyms.keyed("structure set", uid)[:12], uid, lambda: course.content(uid)
        )

    chosen, definitions = course.chosen, settings.structures.custom_structures
    given = CourseInput(
        planning=None if chosen.planning is None else of_series(chosen.planning),
        others=tuple(map(of_series, chosen.others)),
        structure_sets=tuple(of_set(one.found.sop_instance_uid) for one in course.inventory.structure_sets),
        segmentations=tuple(
            SegmentationsInput(
                source, made_before[asset].folder, read_segmentations(made_before[asset].folder)
            )
            for asset, source in _SEGMENTATIONS.items()
        ),
    )
    rules = StructureRules(
        names=read_structure_names(settings.structures.names),
        definitions=None if definitions is None else read_custom_structures(definitions),
        region=region_request(settings.ct_cropping),
    )
    with store.stage(course.key, None, STRUCTURES) as staging:
        content = make_structures(given, rules, digest, f"mqi_dagster {__version__}", staging)
        meta = {
            "structures": len(content.structures),
            **made_of(course, series=course.analysed, structure_sets=True, results=made_before.values()),
        }
        return store.publish(staging, course.key, None, STRUCTURES, digest, meta=meta)


def _metadata(content: CourseStructures) -> dict[str, Any]:
    region = content.region
    return {
        "structures": len(content.structures),
        "structure table": _table(content),
        "analysis region": "none" if region is None else "; ".join((region.name, *region.notes)),
        "faults": "; ".join(content.faults) or "none",
        "notes": "; ".join(content.notes) or "none",
    }


def _table(content: CourseStructures) -> dg.TableMetadataValue:
    rows = [
        dg.TableRecord(
            {
                "name": one.name,
                "original": one.original_name,
                "source": one.source.value,
                "made by": one.made_by,
                "series": "planning" if one.series == content.planning else one.series,
                "volume [cm3]": round(one.volume_cm3, 3),
                "cut off [%]": "-" if one.cut_off_percent is None else f"{one.cut_off_percent:.1f}",
                "faults": "; ".join(one.faults),
            }
        )
        for one in content.structures
    ]
    return dg.MetadataValue.table(records=rows or [dg.TableRecord({"name": "none"})])
