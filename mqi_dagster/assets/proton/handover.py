"""Stations 5 and 6: a beam's results at the target, and the case's summary and completion marker last."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from mqi_dagster.assets import proton
from mqi_dagster.compute.retried_target import RetriedTarget
from mqi_dagster.delivery.compared_beam import verdict_of
from mqi_dagster.delivery.manifest import BeamEntry, CaseManifest
from mqi_dagster.delivery.summary import InterpretedBeam, read_summary
from mqi_dagster.delivery.verdict import AS_PLANNED
from mqi_dagster.errors import StoreError, Where
from mqi_dagster.handover.naming import beam_folder, case_folder
from mqi_dagster.handover.target import Receipt
from mqi_dagster.lifecycle.beam import beams_of, inventory_of, read_manifest, require_beam
from mqi_dagster.lifecycle.boundary import tried_again
from mqi_dagster.lifecycle.case_status import results_digest, why_not_handed_over
from mqi_dagster.lifecycle.conclusion_request import DELIVERY, NOT_COMPARED
from mqi_dagster.lifecycle.digests import HANDED_OVER_CODE
from mqi_dagster.lifecycle.lineage import (
    DIGEST,
    RT_DOSE,
    Ancestry,
    ancestry,
    latest_digest,
    latest_with_digest,
    require_passed,
    resolve,
    reusable,
    store_folder,
    text_in,
)
from mqi_dagster.lifecycle.materialisations import INPUTS, INTEGRITY, MANIFEST, RESULTS, EventLog
from mqi_dagster.lifecycle.stages import WorkPhase
from mqi_dagster.partitions import BEAM, CASE, LINEAGE_ONLY, beam_key, root_of
from mqi_dagster.resources.composed import ParsedInputsResource, StoreResource, TargetResource
from mqi_dagster.resources.site import Site
from mqi_dagster.store.digests import digest_of
from mqi_dagster.store.store import Store

RECEIPT_FILE = "receipt.json"
SUMMARY_FILE = "summary.json"
COMPLETE_MARKER = "_COMPLETE"


def _files(site: Site, made: Ancestry) -> dict[str, tuple[Path, str]]:
    """What the settings say is handed over, and its SHA-256, by name at the target.

    Raw dose, TPS file and CSVs are those that the RT Dose was made from, whatever is newer.
    """
    wanted = site.settings.handover
    chosen = {"": made.rt_dose}
    if wanted.raw_dose:
        chosen["raw_dose/"] = made.raw_dose
    if wanted.tps_file:
        chosen["tps_file/"] = made.tps_file
    if wanted.csv:
        chosen["csv/"] = made.interpreted_csvs
    files: dict[str, tuple[Path, str]] = {}
    for prefix, published in chosen.items():
        published.verify()
        for name, sha256 in published.content_digests().items():
            if published is not made.rt_dose or name.endswith(".dcm"):
                files[prefix + name] = (published.path(name), sha256)
    return files


def _inputs(instance: dg.DagsterInstance, key: str, made: Ancestry) -> dict[str, str]:
    """Which inputs a dose was made from; nothing where earlier code has interpreted them."""
    record = latest_with_digest(instance, "interpreted_csvs", key, made.interpreted_csvs.digest)
    inputs = None if record is None else text_in(record, INPUTS)
    return {} if inputs is None else {INPUTS: inputs}


@dg.asset(
    partitions_def=BEAM.definition,
    deps=["rt_dose"],
    code_version=HANDED_OVER_CODE,
    group_name=proton.BEAM,
    kinds={"file"},
    owners=proton.OWNERS,
)
def handed_over(
    context: dg.AssetExecutionContext,
    site: dg.ResourceParam[Site],
    store: StoreResource,
    parsed_inputs: ParsedInputsResource,
    target: TargetResource,
) -> dg.MaterializeResult[None]:
    """This beam's results at the target, each read back there and listed in a receipt."""
    key = context.partition_key
    with tried_again(context, Where(case=root_of(key), beam=key)):
        case, number, _, entry = require_beam(context.instance, store.open(), key, parsed_inputs.open())
        require_passed(context.instance, "rt_dose", "readback", key)
        made = ancestry(context.instance, store.open(), key)
        files, dose = _files(site, made), made.rt_dose.digest
        template = site.settings.handover.template
        waiting = RetriedTarget(context, site, target.open(), WorkPhase.SIMULATED)
        digest = digest_of(
            asset="handed_over",
            code=HANDED_OVER_CODE,
            target=waiting.name,
            rt_dose=dose,
            files={name: sha256 for name, (_, sha256) in sorted(files.items())},
        )
        if latest_digest(context.instance, "handed_over", key) != digest:
            # The case is not complete at the target until its summary tells of this dose. Noted first: where
            # this hand-over fails and the former dose comes back, the marker has to come back too.
            site.ledger.arrivals.mark_marker_withdrawn(case)
            waiting.withdraw(case_folder(template, case), COMPLETE_MARKER)
        receipt = waiting.deliver(
            beam_folder(template, case, key, number), {name: path for name, (path, _) in files.items()}
        )
        if reusable(store.open(), "handed_over", key, digest) is None:
            case, beam = store_folder(key)
            with store.open().stage(case, beam, "handed_over") as staging:
                (staging / RECEIPT_FILE).write_text(
                    receipt.model_dump_json(indent=1) + "\n", encoding="utf-8"
                )
                meta = {"files": len(files), RT_DOSE: dose}
                store.open().publish(staging, case, beam, "handed_over", digest, meta=meta)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(digest),
            metadata={
                DIGEST: digest,
                "beam": entry.label,
                RT_DOSE: dose,
                **_inputs(context.instance, key, made),
                "files": len(receipt.entries),
                "receipt": dg.MetadataValue.table(
                    records=[
                        dg.TableRecord({"name": entry.name, "bytes": entry.size, "sha256": entry.sha256})
                        for entry in receipt.entries
                    ]
                ),
            },
        )


def _delivery(interpreted: InterpretedBeam, site: Site) -> dict[str, Any]:
    """Whether the beam was delivered as planned, or which layer, where and how much."""
    verdict = verdict_of(interpreted, site.settings.delivery_check, site.machines)
    if verdict is None:
        return {"as_planned": None, "text": NOT_COMPARED, "findings": [], "layers": []}
    return {
        **verdict.model_dump(mode="json"),
        "layers": [
            layer.delivery.model_dump(mode="json", exclude={"spot_mu"})
            for layer in interpreted.layers
            if layer.delivery is not None
        ],
    }


def _case_delivery(beams: Sequence[Mapping[str, Any]]) -> str:
    """The beams' verdicts in one sentence."""
    wrong = [
        f"beam {beam['beam']}, {beam['delivery']['text']}" for beam in beams if beam["delivery"]["findings"]
    ]
    if wrong:
        return "; ".join(wrong)
    compared = all(beam["delivery"]["as_planned"] for beam in beams)
    return AS_PLANNED if compared else NOT_COMPARED


def _beam_summary(
    instance: dg.DagsterInstance, site: Site, store: Store, manifest: CaseManifest, entry: BeamEntry
) -> dict[str, Any]:
    number = entry.number
    key = beam_key(manifest.case, number)
    handed = resolve(instance, store, "handed_over", key)
    made = ancestry(instance, store, key)
    # Looked at anew: another dose may have been made since the results were taken for handed over.
    if handed.meta[RT_DOSE] != made.rt_dose.digest:
        raise StoreError(
            "the present rt_dose is not the one that was handed over; materialise handed_over",
            where=Where(beam=key, kind="handed_over"),
        )
    interpreted = read_summary(made.interpreted_csvs.folder)
    receipt = Receipt.model_validate_json(handed.path(RECEIPT_FILE).read_bytes())
    return {
        "beam": number,
        "name": entry.shown_name,
        "energies_mev": list(entry.energies_mev),
        "gantry_deg": entry.gantry_deg,
        "layers": len(interpreted.layers),
        "delivered_mu": interpreted.delivered_mu,
        "planned_mu": interpreted.planned_mu,
        "mu_ratio": interpreted.ratio,
        "delivery": _delivery(interpreted, site),
        "raw_dose": {"digest": made.raw_dose.digest, **made.raw_dose.meta},
        "rt_dose": {"digest": made.rt_dose.digest, **made.rt_dose.meta},
        "files": [entry.model_dump() for entry in receipt.entries],
    }


def case_summary(
    instance: dg.DagsterInstance, site: Site, store: Store, manifest: CaseManifest
) -> dict[str, Any]:
    """What the hand-over says of a case; without identifiers, paths and times."""
    beams = [
        _beam_summary(instance, site, store, manifest, entry)
        for entry in sorted(manifest.beams, key=lambda beam: beam.number)
    ]
    return {
        "case": manifest.case,
        "site": site.settings.site.name,
        "machine": manifest.machine_id,
        "partial": manifest.partial,
        "missing_beams": list(manifest.missing_beams),
        "delivery": _case_delivery(beams),
        "beams": beams,
    }


def _results(instance: dg.DagsterInstance, manifest: CaseManifest) -> str:
    """Digest of what every beam of a case has handed over.

    Raises:
        StoreError: One has not handed over the dose of its present files.
    """
    events, inventory = EventLog(instance), inventory_of(manifest)
    beams = beams_of(manifest).values()
    for beam in beams:
        if why := why_not_handed_over(events, beam, lambda: inventory):
            raise StoreError(why, where=Where(beam=beam, kind="handed_over"))
    results = results_digest(events, beams, inventory)
    if results is None:
        raise StoreError("it has no beam", where=Where(case=manifest.case))
    return results


@dg.asset(
    partitions_def=CASE.definition,
    deps=["case_manifest", dg.AssetDep("handed_over", partition_mapping=LINEAGE_ONLY)],
    code_version=HANDED_OVER_CODE,
    group_name=proton.CASE,
    kinds={"file", "json"},
    owners=proton.OWNERS,
)
def case_handed_over(
    context: dg.AssetExecutionContext,
    site: dg.ResourceParam[Site],
    store: StoreResource,
    target: TargetResource,
) -> dg.MaterializeResult[None]:
    """The case's summary and, last of all, its completion marker at the target."""
    case = context.partition_key
    with tried_again(context, Where(case=case)):
        manifest = read_manifest(context.instance, store.open(), case)
        require_passed(context.instance, MANIFEST, INTEGRITY, case)
        # Before the summary: a beam that hands over more in between is concluded once more.
        results = _results(context.instance, manifest)
        summary = case_summary(context.instance, site, store.open(), manifest)
        content = json.dumps(summary, indent=1, sort_keys=True).encode() + b"\n"
        folder = case_folder(site.settings.handover.template, case)
        waiting = RetriedTarget(context, site, target.open(), WorkPhase.CONCLUDING)
        # A marker beside an older summary would lie while the new one is written.
        waiting.withdraw(folder, COMPLETE_MARKER)
        entry = waiting.state(folder, SUMMARY_FILE, content)
        waiting.state(folder, COMPLETE_MARKER, f"{entry.sha256}  {SUMMARY_FILE}\n".encode())
        digest = digest_of(asset="case_handed_over", code=HANDED_OVER_CODE, summary=entry.sha256)
        if reusable(store.open(), "case_handed_over", case, digest) is None:
            with store.open().stage(case, None, "case_handed_over") as staging:
                (staging / SUMMARY_FILE).write_bytes(content)
                store.open().publish(
                    staging, case, None, "case_handed_over", digest, meta={"partial": manifest.partial}
                )
        return dg.MaterializeResult(
            data_version=dg.DataVersion(digest),
            metadata={
                DIGEST: digest,
                RESULTS: results,
                "beams": len(manifest.beams),
                "partial": manifest.partial,
                DELIVERY: summary["delivery"],
                "summary": dg.MetadataValue.json(summary),
            },
        )
