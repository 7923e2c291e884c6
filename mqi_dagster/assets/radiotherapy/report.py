"""Station 6: the page of a course for people, its quality report and its verdict."""

from typing import Any

import dagster as dg

from mqi_dagster import __version__
from mqi_dagster.assets import radiotherapy
from mqi_dagster.compute.stage_slots import stage_slot
from mqi_dagster.errors import Where
from mqi_dagster.imaging.course_facts import read_facts
from mqi_dagster.imaging.course_results import STAGES, CourseResults
from mqi_dagster.imaging.quality_control import QC_REPORT, read_qc_report
from mqi_dagster.lifecycle.boundary import tried_again
from mqi_dagster.lifecycle.course import CourseAtWork, course_in, series_pseudonym
from mqi_dagster.lifecycle.course_results import StageResults, stage_results
from mqi_dagster.lifecycle.lineage import DIGEST, checked_key, resolve, reusable
from mqi_dagster.lifecycle.materialisations import COURSE_REPORT, INVENTORY
from mqi_dagster.partitions import COURSE
from mqi_dagster.resources.composed import StoreResource
from mqi_dagster.resources.site import Site
from mqi_dagster.store.digests import digest_of
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import Store

CODE = "2"
RESULTS, VERDICT, PLANNING = "results", "verdict", "planning"
"""In the manifest of a report, beside the digest of its inventory: digests of what it was made of, by asset;
its verdict; pseudonym of the planning series."""


@dg.asset(
    partitions_def=COURSE.definition,
    deps=[INVENTORY, *STAGES],
    code_version=CODE,
    group_name=radiotherapy.COURSE,
    kinds={"html", "json"},
    owners=radiotherapy.OWNERS,
)
def course_report(
    context: dg.AssetExecutionContext, site: dg.ResourceParam[Site], store: StoreResource
) -> dg.MaterializeResult[None]:
    """One page with images, structures, doses, tables and checks of a course; and its quality report."""
    key = checked_key(COURSE, context.partition_key).text
    with tried_again(context, Where(case=key)), stage_slot(context, site, "visualize"):
        organised = resolve(context.instance, store.open(), INVENTORY, key)
        course = course_in(organised, site, key)
        results = stage_results(context.instance, store.open(), course, STAGES)
        digest = digest_of(
            asset=COURSE_REPORT,
            code=CODE,
            version=__version__,
            inventory=course.digest,
            results=results.digests,
            missing=results.missing,
            qc=site.settings.radiotherapy.qc,
        )
        published = reusable(store.open(), COURSE_REPORT, key, digest)
        if published is None:
            published = _made(site, store.open(), course, organised, results, digest)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(digest),
            # Whether a course is concluded is told by the inventory that its report is of.
            metadata={DIGEST: digest, INVENTORY: course.digest, **_metadata(published, results)},
        )


def _made(
    site: Site,
    store: Store,
    course: CourseAtWork,
    organised: Published,
    results: StageResults,
    digest: str,
) -> Published:
    from mqi_dagster.imaging.course_report import CourseSource, write_report

    planning = course.chosen.planning
    inventory = [(INVENTORY, course.digest)]
    source = CourseSource(
        key=course.key,
        inventory=course.inventory,
        facts=read_facts(organised.folder, course.inventory),
        content=course.content,
        planning=None if planning is None else series_pseudonym(site.pseudonyms, course, planning),
        results=CourseResults({asset: one.folder for asset, one in results.made.items()}, results.missing),
        qc=site.settings.radiotherapy.qc,
        provenance=[(f"digest of {asset}", value) for asset, value in [*inventory, *results.digests.items()]],
    )
    with store.stage(course.key, None, COURSE_REPORT) as staging:
        quality = write_report(source, staging)
        meta = {
            INVENTORY: course.digest,
            RESULTS: results.digests,
            VERDICT: quality.overall_status.value,
            PLANNING: source.planning,
        }
        return store.publish(staging, course.key, None, COURSE_REPORT, digest, meta=meta)


def _metadata(published: Published, results: StageResults) -> dict[str, Any]:
    from mqi_dagster.imaging.course_report import DVH_PICTURE, SLICES_PICTURE
    from mqi_dagster.pictures.style import as_markdown

    report = read_qc_report(published.path(QC_REPORT))
    pictures = {
        name: dg.MetadataValue.md(as_markdown(published.path(file).read_bytes(), alt))
        for name, file, alt in (
            ("slices", SLICES_PICTURE, "axial, coronal and sagittal slice with outlines of structures"),
            ("dose and volume", DVH_PICTURE, "cumulative dose-volume histogram"),
        )
        if file in published.manifest.files
    }
    checks = [
        dg.TableRecord(
            {
                "result": one.verdict.value,
                "check": f"{one.asset}: {one.name}",
                "found": one.text,
                "what to do": one.advice,
            }
        )
        for one in report.checks
    ]
    missing = "; ".join(f"{asset} {why}" for asset, why in results.missing.items())
    return {
        VERDICT: report.overall_status.value,
        "checks": dg.MetadataValue.table(checks, schema=_CHECKS),
        "missing": missing or "nothing",
        **pictures,
    }


_CHECKS = dg.TableSchema(
    columns=[dg.TableColumn(name, "string") for name in ("result", "check", "found", "what to do")]
)
