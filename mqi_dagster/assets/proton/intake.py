"""Station 1: an arrived case becomes a checked inventory."""

from typing import Any

import dagster as dg

from mqi_dagster.assets import proton
from mqi_dagster.delivery.manifest import CaseManifest, InputFile, beam_inputs
from mqi_dagster.delivery.validation import build_manifest
from mqi_dagster.errors import DeliveryError, MqiError, Where
from mqi_dagster.execution.scrub import Scrubber
from mqi_dagster.lifecycle import case_facts
from mqi_dagster.lifecycle.arrived import ArrivedCase, find_case, inputs_away
from mqi_dagster.lifecycle.beam import MANIFEST_FILE, hu_table_of, read_manifest, require_unchanged
from mqi_dagster.lifecycle.boundary import Boundary, is_passing, tried_again
from mqi_dagster.lifecycle.digests import CASE_MANIFEST_CODE
from mqi_dagster.lifecycle.lineage import DIGEST, checked_key, reusable
from mqi_dagster.partitions import CASE
from mqi_dagster.plan.model import IonPlan
from mqi_dagster.resources.composed import StoreResource
from mqi_dagster.resources.site import Site
from mqi_dagster.store.digests import digest_of

_LONGEST_NAME = 64


def every_file(manifest: CaseManifest) -> list[tuple[str, InputFile]]:
    """Every input of a case with its role."""
    files = [("RT plan", manifest.plan)]
    files += [("CT image", entry) for entry in manifest.ct_series]
    for delivery in manifest.deliveries:
        files += [("PlanInfo", delivery.plan_info), ("PlanRange", delivery.plan_range)]
        files += [("delivery file", entry) for entry in delivery.files]
    return files


def manifest_digest(site: Site, manifest: CaseManifest) -> str:
    """Digest of an inventory: the content of its files and, under the site's key, where they stand.

    A case folder that was moved gives a new inventory, and leaves every beam's results as they are.
    """
    return digest_of(
        asset="case_manifest",
        code=CASE_MANIFEST_CODE,
        beams=[beam_inputs(manifest, beam.number) for beam in manifest.beams],
        files=sorted(entry.sha256 for _, entry in every_file(manifest)),
        places=[
            site.pseudonyms.keyed("file", str(path))
            for path in sorted(str(entry.path) for _, entry in every_file(manifest))
        ],
        machine=manifest.machine_id,
        missing_beams=list(manifest.missing_beams),
        clinical_fraction=manifest.clinical_fraction,
        # What a dose says of its scan stands here: an inventory without it must not be taken for this one.
        **({"scan_ends": [str(end) for end in manifest.scan_ends]} if manifest.scan_ends else {}),
    )


def _metadata(manifest: CaseManifest) -> dict[str, Any]:
    return {
        case_facts.MACHINE: manifest.machine_id,
        case_facts.PLAN_LABEL: manifest.plan_label,
        "fraction": manifest.fraction,
        "clinical fraction": manifest.clinical_fraction or 0,
        case_facts.PARTIAL: manifest.partial,
        case_facts.MISSING: ", ".join(str(number) for number in manifest.missing_beams) or "none",
        "deliveries": len(manifest.deliveries),
        "files": len(every_file(manifest)),
        "CT images": len(manifest.ct_series),
        case_facts.BEAM_TABLE: dg.MetadataValue.table(
            records=[
                dg.TableRecord(
                    {
                        case_facts.BEAM: beam.number,
                        case_facts.NAME: beam.shown_name,
                        case_facts.LOWEST: round(beam.energies_mev[0], 2),
                        case_facts.HIGHEST: round(beam.energies_mev[1], 2),
                        case_facts.GANTRY: (
                            case_facts.UNKNOWN if beam.gantry_deg is None else f"{beam.gantry_deg:g}"
                        ),
                        case_facts.COMPLETE: beam.complete,
                        "layers": len(beam.layers),
                        "planned MU": round(sum(layer.planned_mu for layer in beam.layers), 3),
                        "delivered MU": round(sum(layer.delivered_mu for layer in beam.layers), 3),
                    }
                )
                for beam in sorted(manifest.beams, key=lambda beam: beam.number)
            ]
            or [dg.TableRecord({case_facts.BEAM: 0})]
        ),
        "notes": "; ".join(manifest.notes) or "none",
    }


def _mu_ratios(manifest: CaseManifest) -> dict[str, float]:
    return {
        f"beam {beam.number}": sum(layer.delivered_mu for layer in beam.layers)
        / sum(layer.planned_mu for layer in beam.layers)
        for beam in manifest.beams
    }


def _outside(site: Site, ratios: dict[str, float]) -> str:
    """What is wrong with the monitor units of the beams; empty where nothing is."""
    limits = site.settings.interpretation
    outside = [
        f"{beam}: {ratio:.4f}"
        for beam, ratio in ratios.items()
        if not limits.mu_ratio_minimum <= ratio <= limits.mu_ratio_maximum
    ]
    allowed = f"{limits.mu_ratio_minimum:g} to {limits.mu_ratio_maximum:g}"
    setting = f"(interpretation.mu_ratio_minimum, mu_ratio_maximum: {allowed})"
    return f"logged/planned MU outside the limits: {', '.join(outside)} {setting}" if outside else ""


def _build(site: Site, found: ArrivedCase) -> CaseManifest:
    profile = site.settings.engine.in_use()
    manifest = build_manifest(found.survey, found.fraction, found.case, found.number, site.machines, profile)
    # Here and not in the check alone: a case that fails has no materialisation to stand green in the pages.
    fault = _outside(site, _mu_ratios(manifest))
    if fault:
        raise DeliveryError(fault)
    source = found.survey.source
    return manifest if source is None else _for_people(manifest, source.plan)


def _for_people(manifest: CaseManifest, plan: IonPlan) -> CaseManifest:
    """The inventory with what is shown beside the keys of its beams."""
    scrubber = Scrubber(plan.identifiers)

    def shown(text: str) -> str:
        line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
        return scrubber.text(line)[:_LONGEST_NAME]

    beams = []
    for entry in manifest.beams:
        gantry = plan.beam(entry.number).gantry_angle_deg
        beams.append(entry.model_copy(update={"shown_name": shown(entry.name), "gantry_deg": gantry}))
    return manifest.model_copy(update={"beams": tuple(beams), "plan_label": shown(plan.label)})


@dg.asset(
    partitions_def=CASE.definition,
    code_version=CASE_MANIFEST_CODE,
    group_name=proton.CASE,
    kinds={"dicom", "json"},
    owners=proton.OWNERS,
)
def case_manifest(
    context: dg.AssetExecutionContext, site: dg.ResourceParam[Site], store: StoreResource
) -> dg.MaterializeResult[None]:
    """The validated inventory of a case: plan, fraction, deliveries, beams, layers, every file by SHA-256."""
    case = context.partition_key
    with tried_again(context, Where(case=case), inputs_away(context.instance, site, store.open, case)):
        manifest = _build(site, find_case(site, checked_key(CASE, case).text))
        # Asked here, so that a scanner without a table is refused before anything is computed.
        hu_table = hu_table_of(site, manifest)
        digest = manifest_digest(site, manifest)
        published = reusable(store.open(), "case_manifest", case, digest)
        if published is None:
            with store.open().stage(case, None, "case_manifest") as staging:
                (staging / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
                meta = {"beams": len(manifest.beams), "partial": manifest.partial}
                store.open().publish(staging, case, None, "case_manifest", digest, meta=meta)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(digest),
            metadata={
                DIGEST: digest,
                **_metadata(manifest),
                "HU table": "none" if hu_table is None else hu_table.name,
            },
        )


@dg.asset_check(
    asset="case_manifest",
    partitions_def=CASE.definition,
    blocking=True,
    description="Every listed file still has its content, and each beam's MU ratio is inside the limits.",
)
def integrity(
    context: dg.AssetCheckExecutionContext, site: dg.ResourceParam[Site], store: StoreResource
) -> dg.AssetCheckResult:
    """Opens the published manifest and every file it lists again."""
    case = context.partition_key
    away = inputs_away(context.instance, site, store.open, case)
    with Boundary(Where(case=case), inputs_away=away):
        try:
            manifest = read_manifest(context.instance, store.open(), case)
            for kind, entry in every_file(manifest):
                require_unchanged(entry, kind)
        except MqiError as error:
            if is_passing(error) or away():
                raise
            return dg.AssetCheckResult(passed=False, description=str(error))
        ratios = _mu_ratios(manifest)
        fault = _outside(site, ratios)
        digits = {beam: round(ratio, 4) for beam, ratio in ratios.items()}
        return dg.AssetCheckResult(passed=not fault, description=fault or None, metadata=digits)
