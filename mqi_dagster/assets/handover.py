"""Stations 5 and 6: a beam's results at the target, and the case's summary and completion marker last."""

import json
from pathlib import Path
from typing import Any

import dagster as dg

from mqi_dagster.assets import appearance
from mqi_dagster.assets.beam import read_manifest
from mqi_dagster.assets.boundary import Boundary
from mqi_dagster.assets.digests import HANDED_OVER_CODE
from mqi_dagster.assets.lineage import DIGEST, require_passed, resolve, reusable, store_place
from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.delivery.summary import read_summary
from mqi_dagster.errors import StoreError, Where
from mqi_dagster.handover.naming import beam_folder, case_folder
from mqi_dagster.handover.target import Receipt
from mqi_dagster.partitions import BEAMS, CASES, LINEAGE_ONLY, beam_key, split_beam_key
from mqi_dagster.resources.site import Site
from mqi_dagster.store.digests import digest_of

TRY_AGAIN = dg.RetryPolicy(max_retries=5, delay=5, backoff=dg.Backoff.EXPONENTIAL)
"""A target that is away for less than three minutes costs nobody a click."""
RECEIPT_FILE = "receipt.json"
SUMMARY_FILE = "summary.json"
COMPLETE_MARKER = "_COMPLETE"


def _files(instance: dg.DagsterInstance, site: Site, key: str) -> dict[str, Path]:
    """What the settings say is handed over, by name at the target."""
    wanted = site.settings.handover
    folders = {"": "rt_dose"}
    if wanted.raw_dose:
        folders["raw_dose/"] = "raw_dose"
    if wanted.tps_file:
        folders["tps_file/"] = "tps_file"
    if wanted.csv:
        folders["csv/"] = "interpreted_csvs"
    files: dict[str, Path] = {}
    for prefix, asset in folders.items():
        published = resolve(instance, site, asset, key)
        for name in published.content_digests():
            if asset != "rt_dose" or name.endswith(".dcm"):
                files[prefix + name] = published.path(name)
    return files


@dg.asset(
    partitions_def=BEAMS,
    deps=["rt_dose"],
    code_version=HANDED_OVER_CODE,
    retry_policy=TRY_AGAIN,
    group_name=appearance.BEAM,
    kinds={"file"},
    owners=appearance.OWNERS,
)
def handed_over(
    context: dg.AssetExecutionContext, site: dg.ResourceParam[Site]
) -> dg.MaterializeResult[None]:
    """This beam's results at the target, each read back there and listed in a receipt."""
    key = context.partition_key
    case, number = split_beam_key(key)
    with Boundary(Where(case=case, beam=key)):
        require_passed(context.instance, "rt_dose", "readback", key)
        files = _files(context.instance, site, key)
        folder = beam_folder(site.settings.handover.template, case, key, number)
        receipt = site.target.deliver(folder, files)
        digest = digest_of(
            asset="handed_over",
            code=HANDED_OVER_CODE,
            target=receipt.target,
            files={name: _entry_sha(receipt, folder, name) for name in sorted(files)},
        )
        if reusable(site, "handed_over", key, digest) is None:
            place, beam = store_place(key)
            with site.store.stage(place, beam, "handed_over") as staging:
                (staging / RECEIPT_FILE).write_text(
                    receipt.model_dump_json(indent=1) + "\n", encoding="utf-8"
                )
                site.store.publish(staging, place, beam, "handed_over", digest, meta={"files": len(files)})
        return dg.MaterializeResult(
            data_version=dg.DataVersion(digest),
            metadata={
                DIGEST: digest,
                "files": len(receipt.entries),
                "receipt": dg.MetadataValue.table(
                    records=[
                        dg.TableRecord({"name": entry.name, "bytes": entry.size, "sha256": entry.sha256})
                        for entry in receipt.entries
                    ]
                ),
            },
        )


def _entry_sha(receipt: Receipt, folder: str, name: str) -> str:
    for entry in receipt.entries:
        if entry.name == f"{folder}/{name}":
            return entry.sha256
    raise StoreError("the receipt lacks a file that was handed over", where=Where(kind="receipt"))


def _beam_summary(instance: dg.DagsterInstance, site: Site, key: str) -> dict[str, Any]:
    number = split_beam_key(key)[1]
    interpreted = read_summary(resolve(instance, site, "interpreted_csvs", key).folder)
    raw = resolve(instance, site, "raw_dose", key)
    dose = resolve(instance, site, "rt_dose", key)
    receipt = Receipt.model_validate_json(
        resolve(instance, site, "handed_over", key).path(RECEIPT_FILE).read_bytes()
    )
    return {
        "beam": number,
        "layers": len(interpreted.layers),
        "delivered_mu": interpreted.delivered_mu,
        "planned_mu": interpreted.planned_mu,
        "mu_ratio": interpreted.ratio,
        "raw_dose": {"digest": raw.digest, **raw.meta},
        "rt_dose": {"digest": dose.digest, **dose.meta},
        "files": [entry.model_dump() for entry in receipt.entries],
    }


def case_summary(instance: dg.DagsterInstance, site: Site, manifest: CaseManifest) -> dict[str, Any]:
    """What the hand-over says of a case; without identifiers, paths and times."""
    return {
        "case": manifest.case,
        "site": site.settings.site.name,
        "machine": manifest.machine_id,
        "partial": manifest.partial,
        "missing_beams": list(manifest.missing_beams),
        "beams": [
            _beam_summary(instance, site, beam_key(manifest.case, entry.number))
            for entry in sorted(manifest.beams, key=lambda beam: beam.number)
        ],
    }


@dg.asset(
    partitions_def=CASES,
    deps=["case_manifest", dg.AssetDep("handed_over", partition_mapping=LINEAGE_ONLY)],
    code_version=HANDED_OVER_CODE,
    retry_policy=TRY_AGAIN,
    group_name=appearance.CASE,
    kinds={"file", "json"},
    owners=appearance.OWNERS,
)
def case_handed_over(
    context: dg.AssetExecutionContext, site: dg.ResourceParam[Site]
) -> dg.MaterializeResult[None]:
    """The case's summary and, last of all, its completion marker at the target."""
    case = context.partition_key
    with Boundary(Where(case=case)):
        manifest = read_manifest(context.instance, site, case)
        summary = case_summary(context.instance, site, manifest)
        content = json.dumps(summary, indent=1, sort_keys=True).encode() + b"\n"
        folder = case_folder(site.settings.handover.template, case)
        # A marker beside an older summary would lie while the new one is written.
        site.target.withdraw(folder, COMPLETE_MARKER)
        entry = site.target.state(folder, SUMMARY_FILE, content)
        site.target.state(folder, COMPLETE_MARKER, f"{entry.sha256}  {SUMMARY_FILE}\n".encode())
        digest = digest_of(asset="case_handed_over", code=HANDED_OVER_CODE, summary=entry.sha256)
        if reusable(site, "case_handed_over", case, digest) is None:
            with site.store.stage(case, None, "case_handed_over") as staging:
                (staging / SUMMARY_FILE).write_bytes(content)
                site.store.publish(
                    staging, case, None, "case_handed_over", digest, meta={"partial": manifest.partial}
                )
        return dg.MaterializeResult(
            data_version=dg.DataVersion(digest),
            metadata={
                DIGEST: digest,
                "beams": len(manifest.beams),
                "partial": manifest.partial,
                "summary": dg.MetadataValue.json(summary),
            },
        )
