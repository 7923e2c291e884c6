"""Station 4: how much of each structure gets how much dose."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from mqi_dagster.assets import radiotherapy
from mqi_dagster.compute.stage_slots import stage_slot
from mqi_dagster.errors import DicomError, ImageError, Where
from mqi_dagster.imaging.dvh_files import CURVES, METRICS, CourseDvh, DoseUsed, read_dvh
from mqi_dagster.imaging.quality_checks import counted
from mqi_dagster.imaging.quality_control import dvh_quality
from mqi_dagster.imaging.structure_files import CourseStructures, StructureSource, read_structures
from mqi_dagster.lifecycle import metadata
from mqi_dagster.lifecycle.boundary import tried_again
from mqi_dagster.lifecycle.course import CourseAtWork, load_course
from mqi_dagster.lifecycle.course_results import current_result, made_of
from mqi_dagster.lifecycle.lineage import DIGEST, checked_key, reusable
from mqi_dagster.partitions import COURSE
from mqi_dagster.resources.composed import StoreResource
from mqi_dagster.resources.site import Site
from mqi_dagster.settings.radiotherapy import Radiotherapy
from mqi_dagster.store.digests import digest_of
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import Store

ASSET, STRUCTURES = "dvh", "structures"
CODE = "2"
SWITCHED_OFF = "radiotherapy.dvh.enabled is false"
PICTURES_AT_MOST = 3
"""Of so many doses the curves are drawn; every picture is read with the metadata of the asset."""
ROWS_AT_MOST = 150
"""Of the table that is shown; drawn structures stand first."""
_SHOWN = ("DmeanGy", "D95Gy", "D2Gy", "V95%Rx (%)")


@dg.asset(
    partitions_def=COURSE.definition,
    deps=["course_inventory", STRUCTURES],
    check_specs=radiotherapy.quality_specs(ASSET),
    code_version=CODE,
    group_name=radiotherapy.COURSE,
    kinds={"parquet", "polars"},
    owners=radiotherapy.OWNERS,
)
def dvh(
    context: dg.AssetExecutionContext, site: dg.ResourceParam[Site], store: StoreResource
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Dose-volume figures and curves of every structure and dose of a course, and its clinical goals."""
    key = checked_key(COURSE, context.partition_key).text
    with tried_again(context, Where(case=key)), stage_slot(context, site, "dvh"):
        options = site.settings.radiotherapy
        digest, published = _result(context, site, store.open(), key, options)
        content = read_dvh(published.folder)
        shown = metadata.shown_of(published)
        before = metadata.shown_before(context.instance, ASSET, key, shown)
        pictures = metadata.pictures_in(before) if before is not None else _pictures(content, published)
        context.add_asset_metadata({DIGEST: digest, **_metadata(content, published), **pictures})
        yield dg.MaterializeResult(data_version=dg.DataVersion(digest), tags={metadata.SHOWN_TAG: shown})
        published.verify()
        yield from radiotherapy.quality_checks(dvh_quality(content))


def _result(
    context: dg.AssetExecutionContext, site: Site, store: Store, key: str, options: Radiotherapy
) -> tuple[str, Published]:
    """The digest of what is wanted, and the result: an earlier one, or made now."""
    from mqi_dagster.imaging.course_dvh import write_empty

    if not options.dvh.enabled:
        digest = digest_of(asset=ASSET, code=CODE, enabled=False)
        published = reusable(store, ASSET, key, digest)
        if published is None:
            with store.stage(key, None, ASSET) as staging:
                write_empty(SWITCHED_OFF, staging)
                published = store.publish(staging, key, None, ASSET, digest, meta={"rows": 0})
        return digest, published
    course = load_course(context.instance, store, site, key)
    structures = current_result(context.instance, store, course, STRUCTURES)
    return _measured(context, site, store, course, structures, options)


def _measured(
    context: dg.AssetExecutionContext,
    site: Site,
    store: Store,
    course: CourseAtWork,
    structures: Published,
    options: Radiotherapy,
) -> tuple[str, Published]:
    from mqi_dagster.imaging.clinical_goals import read_protocol
    from mqi_dagster.imaging.course_dvh import DvhRequest, make_dvh

    inventory, found = course.inventory, read_structures(structures.folder)
    protocol = None if options.dvh.goals is None else read_protocol(options.dvh.goals)
    crop = options.ct_cropping.enabled and options.ct_cropping.use_cropped_for_dvh
    digest = digest_of(
        asset=ASSET,
        code=CODE,
        structures=structures.digest,
        doses=course.digests(one.found.sop_instance_uid for one in inventory.doses),
        plans=course.digests(one.found.sop_instance_uid for one in inventory.plans),
        structure_sets=course.digests(_sets_of(found)),
        # The rules that made them of these objects may change.
        decisions=inventory.dose_decisions,
        prescriptions=inventory.prescriptions,
        goals=protocol,
        settings={"curve_step_gy": options.dvh.curve_step_gy, "use_cropped_for_dvh": crop},
    )
    published = reusable(store, ASSET, course.key, digest)
    if published is not None:
        return digest, published
    grid, why = None, "the course has no series of a CT or MR"
    if course.chosen.planning is not None:
        from mqi_dagster.imaging.image_volume import read_grid

        try:
            grid = read_grid(course.images(course.chosen.planning))
        except (DicomError, ImageError) as error:
            why = f"the images of the planning series lie in no regular grid: {error.message}"
    not_found = ("there is no analysis region: figures are of whole structures",)
    context.log.info("measuring %d structures", len(found.structures))
    with store.stage(course.key, None, ASSET) as staging:
        content = make_dvh(
            DvhRequest(
                course=course.key,
                inventory=course.inventory_to_show,
                structures=found,
                structures_folder=structures.folder,
                grid=grid,
                no_grid_because=why,
                content=course.content,
                dose_id=site.pseudonyms.dose,
                step_gy=options.dvh.curve_step_gy,
                region=found.region if crop else None,
                protocol=protocol,
                faults=not_found if crop and found.region is None else (),
            ),
            staging,
        )
        made = made_of(course, doses=True, results=[structures])
        meta = {"rows": len(content.figures), "doses": len(content.doses), **made}
        return digest, store.publish(staging, course.key, None, ASSET, digest, meta=meta)


def _sets_of(structures: CourseStructures) -> set[str]:
    """UIDs of the structure sets whose contours are read again."""
    return {
        one.structure_set_uid
        for one in structures.structures
        if one.structure_set_uid is not None and one.source is StructureSource.CLINICAL
    }


def _metadata(content: CourseDvh, published: Published) -> dict[str, Any]:
    verdicts = Counter(goal.verdict for goal in content.goals)
    return {
        "doses": "; ".join(map(_dose_text, content.doses)) or "none",
        "doses not used": "; ".join(Counter(one.reason for one in content.not_used)) or "none",
        "not measured": content.empty_because or _not_measured(content),
        "clinical goals": ", ".join(f"{n} {verdict}" for verdict, n in sorted(verdicts.items())) or "none",
        "faults": "; ".join(content.faults) or "none",
        "rows": len(content.figures),
        "table": _table(published),
    }


def _dose_text(dose: DoseUsed) -> str:
    prescribed = dose.prescription_source
    if dose.prescription_gy is not None:
        prescribed = f"{dose.prescription_gy:g} Gy ({prescribed})"
    return (
        f"{dose.label}: {dose.rule.value}, {dose.dose_type or 'DoseType not stated'},"
        f" maximum {dose.maximum_gy:.4g} Gy, prescribed: {prescribed}"
    )


def _not_measured(content: CourseDvh) -> str:
    reasons = Counter(one.reason for one in content.figures if one.reason)
    told = [f"{counted(count, 'structure')}: {reason}" for reason, count in reasons.most_common()]
    return "; ".join(told) or "none"


def _table(published: Published) -> dg.TableMetadataValue:
    import polars as pl

    wanted = ["dose_label", "ROI_Name", "Segmentation_Source", "Volume (cm³)", *_SHOWN]
    wanted += ["dose_coverage_percent", "dose_metric_status"]
    rows = pl.read_parquet(published.path(METRICS), columns=wanted).head(ROWS_AT_MOST).iter_rows(named=True)
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    "dose": row["dose_label"],
                    "structure": row["ROI_Name"],
                    "source": row["Segmentation_Source"],
                    "volume [cm³]": _digits(row["Volume (cm³)"]),
                    "Dmean [Gy]": _digits(row["DmeanGy"]),
                    "D95 [Gy]": _digits(row["D95Gy"]),
                    "D2 [Gy]": _digits(row["D2Gy"]),
                    "V95% [%]": _digits(row["V95%Rx (%)"]),
                    "coverage [%]": _digits(row["dose_coverage_percent"]),
                    "status": row["dose_metric_status"],
                }
            )
            for row in rows
        ]
        or [dg.TableRecord({"structure": "none"})]
    )


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _pictures(content: CourseDvh, published: Published) -> metadata.Metadata:
    """The curves of the first doses, drawn structures first and then by their highest dose."""
    import polars as pl

    from mqi_dagster.pictures.dvh import DvhCurve, dvh_curves
    from mqi_dagster.pictures.style import as_markdown

    metrics = pl.read_parquet(
        published.path(METRICS),
        columns=["dose_id", "structure_id", "ROI_Name", "Segmentation_Source", "DmaxGy"],
    )
    curves = pl.read_parquet(published.path(CURVES))
    found: metadata.Metadata = {}
    for dose in content.doses[:PICTURES_AT_MOST]:
        of_dose = curves.filter(pl.col("dose_id") == dose.dose_id)
        rows = metrics.filter((pl.col("dose_id") == dose.dose_id) & pl.col("DmaxGy").is_not_null())
        drawn = rows.sort(
            pl.col("Segmentation_Source") != StructureSource.CLINICAL.value, -pl.col("DmaxGy")
        ).iter_rows(named=True)
        lines: Sequence[DvhCurve] = [
            DvhCurve(
                row["ROI_Name"],
                *of_dose.filter(pl.col("structure_id") == row["structure_id"])
                .select("dose_gy", "volume_percent")
                .to_numpy()
                .T,
            )
            for row in drawn
        ]
        if lines:
            png = dvh_curves(lines, dose.label, dose.prescription_gy)
            found[f"DVH {dose.label}"] = dg.MetadataValue.md(
                as_markdown(png, f"dose-volume curves of {dose.label}")
            )
    return found
