"""Station 1: what belongs to a course, why, and what was set aside."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import dagster as dg

from mqi_dagster.assets import radiotherapy
from mqi_dagster.compute.stage_slots import stage_slot
from mqi_dagster.courses.chosen_series import chosen_series
from mqi_dagster.courses.inventory import CourseInventory, ImageSeries, read_inventory, write_inventory
from mqi_dagster.errors import Where
from mqi_dagster.imaging.course_facts import read_facts, write_facts
from mqi_dagster.imaging.quality_checks import counted
from mqi_dagster.imaging.quality_control import inventory_quality, worst
from mqi_dagster.lifecycle.boundary import tried_again
from mqi_dagster.lifecycle.course import (
    CONTENTS_FILE,
    INVENTORY_FILE,
    dicom_root,
    find_course,
    read_once,
    write_contents,
)
from mqi_dagster.lifecycle.lineage import DIGEST, checked_key, reusable
from mqi_dagster.lifecycle.materialisations import INVENTORY
from mqi_dagster.partitions import COURSE
from mqi_dagster.resources.composed import StoreResource
from mqi_dagster.resources.site import Site
from mqi_dagster.store.digests import digest_of

CODE = "1"


@dg.asset(
    partitions_def=COURSE.definition,
    code_version=CODE,
    group_name=radiotherapy.COURSE,
    kinds={"dicom", "json"},
    owners=radiotherapy.OWNERS,
    check_specs=radiotherapy.quality_specs(INVENTORY),
)
def course_inventory(
    context: dg.AssetExecutionContext, site: dg.ResourceParam[Site], store: StoreResource
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """What belongs to a course and why: images, structure sets, plans, doses, and what was set aside."""
    key = checked_key(COURSE, context.partition_key).text
    with tried_again(context, Where(case=key)), stage_slot(context, site, "organize"):
        inventory = find_course(site, key)
        contents, facts = read_once(dicom_root(site), inventory, key)
        digest = digest_of(
            asset=INVENTORY,
            code=CODE,
            contents=contents,
            # Where the files lie is part of an inventory, and no digest tells where.
            inventory=site.pseudonyms.keyed("inventory", inventory.fingerprint),
        )
        published = reusable(store.open(), INVENTORY, key, digest)
        if published is None:
            with store.open().stage(key, None, INVENTORY) as staging:
                write_inventory(inventory, staging / INVENTORY_FILE)
                write_contents(contents, staging / CONTENTS_FILE)
                write_facts(facts, staging)
                published = store.open().publish(
                    staging, key, None, INVENTORY, digest, meta={"objects": len(contents)}
                )
        # On what was published: what a later step reads.
        inventory = read_inventory(published.path(INVENTORY_FILE))
        results = inventory_quality(
            inventory, read_facts(published.folder, inventory), site.settings.radiotherapy.qc
        )
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(digest),
            metadata={DIGEST: digest, "quality": worst(results).value, **_metadata(inventory)},
        )
        yield from radiotherapy.quality_checks(results)


def _metadata(inventory: CourseInventory) -> dict[str, Any]:
    chosen = chosen_series(inventory)
    aside = Counter(one.reason for one in inventory.set_aside)
    return {
        "plans": len(inventory.plans),
        "doses": len(inventory.doses),
        "structure sets": len(inventory.structure_sets),
        "image series": len(inventory.image_series),
        "analysed series": _shown(chosen.planning),
        "chosen because": chosen.reason,
        "dose rules": ", ".join(decision.rule.value for decision in inventory.dose_decisions) or "none",
        "set aside": ", ".join(one.counted(number) for one, number in sorted(aside.items())) or "none",
        "findings": "; ".join(finding.text for finding in inventory.findings) or "none",
    }


def _shown(series: ImageSeries | None) -> str:
    return "none" if series is None else f"{series.modality}, {counted(len(series.images), 'image')}"
