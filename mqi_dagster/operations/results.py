"""What came of cases and their beams, as rows for JSON and for whoever shows them."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg
from pydantic import Field

from mqi_dagster.assets.proton.handover import RECEIPT_FILE
from mqi_dagster.delivery.compared_beam import verdict_of
from mqi_dagster.delivery.manifest import BeamEntry
from mqi_dagster.delivery.summary import read_summary
from mqi_dagster.handover.target import Receipt
from mqi_dagster.lifecycle.beam import read_manifest
from mqi_dagster.lifecycle.case_reading import read_case, run_facts
from mqi_dagster.lifecycle.case_status import PartitionStatus
from mqi_dagster.lifecycle.lineage import latest_digest, store_folder
from mqi_dagster.lifecycle.runs import RunState, latest_value
from mqi_dagster.lifecycle.stages import CaseState, Stage
from mqi_dagster.operations.sites import shown_path
from mqi_dagster.partitions import beam_key
from mqi_dagster.resources.site import Site
from mqi_dagster.store.published import Published
from mqi_dagster.worklist.board_rows import StatusRow


class BeamRow(StatusRow):
    """What came of one beam; figures of the dose only where its latest run has succeeded."""

    case: str
    beam: int
    """DICOM BeamNumber."""
    label: str = ""
    """Its name, energies and gantry angle."""
    status: RunState
    error: str | None = None
    """First cause of the latest run's failure."""
    layers: int | None = None
    mu_ratio: float | None = None
    """Logged to planned monitor units."""
    delivery: str | None = None
    """``as planned``, or which layer was not, where and how much; None where it was not compared."""
    histories: float | None = None
    r80_mm: float | None = None
    uncertainty_percent: float | None = None
    units: str | None = None
    rt_dose: str | None = None
    """Path at the hand-over target, relative to the site's folder where it lies below it.

    None where what stands there is another dose than the latest."""
    digests: dict[str, str] = Field(default_factory=dict)
    """Of the assets that were made."""
    computed: bool | None = None
    """Whether the latest run has started the engine."""


def beam_rows(instance: dg.DagsterInstance, site: Site, case: str) -> list[BeamRow]:
    """The beams of a case that has a manifest, by number.

    Raises:
        StoreError: The case has no manifest.
    """
    manifest = read_manifest(instance, site.store, case)
    status = read_case(instance, site, case).beams
    beams = sorted(manifest.beams, key=lambda beam: beam.number)
    return [_row(instance, site, case, beam, status.get(beam.number)) for beam in beams]


def published(site: Site, asset: str, key: str, digest: str | None) -> Published | None:
    """A result as it stands in the store; None where there is none of this digest.

    Raises:
        StoreError: It stands there, and its manifest is damaged.
    """
    if digest is None:
        return None
    return site.store.find(*store_folder(key), asset, digest)


def _row(
    instance: dg.DagsterInstance, site: Site, case: str, beam: BeamEntry, status: PartitionStatus | None
) -> BeamRow:
    number, key = beam.number, beam_key(case, beam.number)
    run = run_facts(instance, site.ledger, key)
    assets = ("interpreted_csvs", "tps_file", "raw_dose", "rt_dose", "handed_over")
    digests = {asset: digest for asset in assets if (digest := latest_digest(instance, asset, key))}
    if run.state is not RunState.DONE:
        return BeamRow(
            case=case,
            beam=number,
            label=beam.label,
            status=run.state,
            error=run.failure.cause if run.failure is not None else None,
            digests=digests,
        )
    csvs, dose, receipt = (
        published(site, asset, key, digests.get(asset))
        for asset in ("interpreted_csvs", "rt_dose", "handed_over")
    )
    figures = dose.meta if dose is not None else {}
    return BeamRow(
        case=case,
        beam=number,
        label=beam.label,
        status=run.state,
        layers=csvs.meta["layers"] if csvs is not None else None,
        mu_ratio=csvs.meta["mu_ratio"] if csvs is not None else None,
        delivery=_delivery(site, csvs),
        histories=figures.get("histories"),
        r80_mm=figures.get("r80_mm"),
        uncertainty_percent=figures.get("uncertainty_percent"),
        units=figures.get("units"),
        rt_dose=_at_target(site, receipt)
        if status is not None and status.stage is Stage.HANDED_OVER
        else None,
        digests=digests,
        computed=latest_value(instance, "raw_dose", key, "computed in this run"),
    )


def _delivery(site: Site, csvs: Published | None) -> str | None:
    if csvs is None:
        return None
    verdict = verdict_of(read_summary(csvs.folder), site.settings.delivery_check, site.machines)
    return None if verdict is None else verdict.text


def _at_target(site: Site, receipt: Published | None) -> str | None:
    """Where the 3-D RT Dose was handed over, or the plane where there is no other."""
    if receipt is None:
        return None
    entries = Receipt.model_validate_json(receipt.path(RECEIPT_FILE).read_bytes()).entries
    doses = [entry.name for entry in entries if entry.name.endswith(".dcm")]
    if not doses:
        return None
    path = site.settings.handover.folder / min(doses, key=lambda name: (len(Path(name).name), name))
    return shown_path(path, site.settings_file.resolve().parent)


class CaseResult(StatusRow):
    """What came of one case of the folder."""

    case: str
    status: CaseState
    error: str | None = None
    """First cause of a failure of the case itself; those of its beams stand with the beams."""
    missing_beams: tuple[int, ...] = ()
    beams: tuple[BeamRow, ...] = ()


def overall(results: Sequence[CaseResult]) -> CaseState:
    """What came of the whole folder: it is as bad as its worst case."""
    verdicts = {result.status for result in results}
    for verdict in (CaseState.FAILED, CaseState.PARTIAL):
        if verdict in verdicts:
            return verdict
    return CaseState.COMPLETE if verdicts else CaseState.FAILED
