"""Everything about one case: where its files lie, its beams, their attempts and jobs, the first cause."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import dagster as dg

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.assets.proton.handover import RECEIPT_FILE
from mqi_dagster.delivery.manifest import BeamEntry
from mqi_dagster.delivery.summary import read_summary
from mqi_dagster.errors import InputError, MqiError
from mqi_dagster.handover.target import Receipt
from mqi_dagster.ledger.attempts import Attempt
from mqi_dagster.ledger.cluster_jobs import ClusterJob
from mqi_dagster.lifecycle.arrived import find_case
from mqi_dagster.lifecycle.beam import find_manifest
from mqi_dagster.operations.results import BeamRow, beam_rows, published
from mqi_dagster.partitions import CASE, beam_key
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist import BeamStatus, CaseState, CaseStatus, Worklist
from mqi_dagster.worklist.board_rows import StatusRow, job_words


class AttemptRow(StatusRow):
    """One start of the engine."""

    id: int
    """In the ledger."""
    number: int
    started_at: datetime
    ended_at: datetime | None
    outcome: str
    cause: str | None


class BeamReport(StatusRow):
    """One beam of a case, and how it came to be where it is."""

    result: BeamRow
    status: BeamStatus | None
    """Where it is, as on the boards; None of a beam that no board lists."""
    name: str
    """For people, without the patient's identity."""
    energies_mev: tuple[float, float]
    """Lowest and highest of its delivered layers."""
    gantry_deg: float | None
    delivered_layers: int
    complete: bool
    """Whether every planned layer was delivered."""
    planned_mu: float | None
    """Of the delivered layers; None where nothing was interpreted."""
    delivered_mu: float | None
    receipt: Receipt | None
    """Of its latest hand-over."""
    jobs: tuple[str, ...]
    """Its jobs on clusters, in words."""
    attempts: tuple[AttemptRow, ...]


class DeliveryReport(StatusRow):
    """One delivery with its real place."""

    number: int
    beam: int | None
    """None, like the other two, where its PlanInfo cannot be read."""
    irradiated_at: datetime | None
    layers: tuple[int, int] | None
    folder: Path


class CaseReport(StatusRow):
    """Everything about one case; the only place where real paths are shown."""

    row: CaseStatus
    machine: str | None = None
    missing_beams: tuple[int, ...] = ()
    clinical_fraction: int | None = None
    plan: Path | None = None
    deliveries: tuple[DeliveryReport, ...] = ()
    ct_images: int = 0
    ct: Path | None = None
    """Folder of the first of its CT images."""
    notes: tuple[str, ...] = ()
    beams: tuple[BeamReport, ...] = ()
    first_cause: str | None = None
    next_step: str | None = None


def case_report(instance: dg.DagsterInstance, site: Site, case: str) -> CaseReport:
    """Everything about one case, whose status is read for it alone.

    Raises:
        InputError: Nobody knows it.
    """
    work = Worklist(instance, site, PIPELINES, site.ledger)
    work.snapshot()
    row = work.case(case)
    if row is None:
        raise InputError("the case is not known here; `mqi case list` names those that are")
    return report_of(instance, site, row, work.beams_of(case))


def report_of(
    instance: dg.DagsterInstance, site: Site, row: CaseStatus, beams: Sequence[BeamStatus]
) -> CaseReport:
    """Everything about one case.

    Args:
        instance: Dagster's records.
        site: The site.
        row: Where it stands.
        beams: Where its beams stand.
    """
    case = row.case
    rows: list[CaseStatus | BeamStatus] = [row, *beams]
    listed = {beam.number: beam for beam in beams}
    broken = next((one for one in rows if one.state is CaseState.FAILED), None)
    cause, step = (broken.reason, broken.next_step) if broken is not None else (None, None)
    if not CASE.has(case):
        return CaseReport(row=row, first_cause=cause, next_step=step)
    manifest = find_manifest(instance, site.store, case)
    # After a failed intake the numbers in its errors are those of the files that stand there now.
    fallen = [one for one in rows if one.state is CaseState.FAILED]
    intake_failed = fallen == [row]
    if manifest is None or intake_failed:
        return CaseReport(row=row, deliveries=_as_it_stands(site, case), first_cause=cause, next_step=step)
    return CaseReport(
        row=row,
        machine=manifest.machine_id,
        missing_beams=manifest.missing_beams,
        clinical_fraction=manifest.clinical_fraction,
        plan=manifest.plan.path,
        deliveries=tuple(
            DeliveryReport(
                number=delivery.number,
                beam=delivery.beam_number,
                irradiated_at=delivery.irradiated_at,
                layers=(delivery.first_layer, delivery.last_layer),
                folder=delivery.folder,
            )
            for delivery in manifest.deliveries
        ),
        ct_images=len(manifest.ct_series),
        ct=manifest.ct_series[0].path.parent if manifest.ct_series else None,
        notes=manifest.notes,
        beams=tuple(
            _beam(site, manifest.beam(result.beam), result, listed.get(result.beam))
            for result in beam_rows(instance, site, case)
        ),
        first_cause=cause,
        next_step=step,
    )


def _as_it_stands(site: Site, case: str) -> tuple[DeliveryReport, ...]:
    """The deliveries of a case that has no manifest, with the numbers that its errors use."""
    try:
        found = find_case(site, case)
    except (MqiError, OSError):
        # It is not there any more, or cannot be read: the first cause says so.
        return ()
    # Without a readable plan the arrival has no case of a fraction, but its deliveries are there.
    fractions = (found.fraction,) if found.fraction is not None else found.survey.fractions
    headers = {one.folder: one for each in fractions for one in (*each.deliveries, *each.setup)}
    broken = {one.folder: one.irradiated_at for each in fractions for one in each.broken}
    folders = [folder for each in fractions for folder in each.folders]
    return tuple(
        DeliveryReport(
            number=number,
            beam=header.info.beam_number if header is not None else None,
            irradiated_at=header.irradiated_at if header is not None else broken.get(folder),
            layers=(header.info.first_layer, header.info.last_layer) if header is not None else None,
            folder=folder,
        )
        for number, folder in enumerate(folders, start=1)
        for header in (headers.get(folder),)
    )


def _beam(site: Site, entry: BeamEntry, result: BeamRow, status: BeamStatus | None) -> BeamReport:
    key = beam_key(result.case, result.beam)
    csvs, handed = (
        published(site, asset, key, result.digests.get(asset))
        for asset in ("interpreted_csvs", "handed_over")
    )
    figures = None if csvs is None else read_summary(csvs.folder)
    return BeamReport(
        result=result,
        status=status,
        name=entry.shown_name,
        energies_mev=entry.energies_mev,
        gantry_deg=entry.gantry_deg,
        delivered_layers=len(entry.layers),
        complete=entry.complete,
        planned_mu=None if figures is None else figures.planned_mu,
        delivered_mu=None if figures is None else figures.delivered_mu,
        receipt=None
        if handed is None
        else Receipt.model_validate_json(handed.path(RECEIPT_FILE).read_bytes()),
        jobs=tuple(_words(job) for job in site.ledger.jobs.all(partition=key)),
        attempts=tuple(_attempt(attempt) for attempt in site.ledger.attempts.history(key)),
    )


def places(site: Site, report: CaseReport) -> Iterator[tuple[str, Path]]:
    """Where the files of a case lie, by what they are: inputs, results in the store, logs, and the target."""
    if report.plan is not None:
        yield "RT plan", report.plan
    if report.ct is not None:
        yield "CT", report.ct
    for delivery in report.deliveries:
        yield f"delivery {delivery.number}", delivery.folder
    for beam in report.beams:
        number = beam.result.beam
        key = beam_key(report.row.case, number)
        for asset, digest in beam.result.digests.items():
            found = published(site, asset, key, digest)
            if found is not None:
                yield f"beam {number}: {asset}", found.folder
        if (site.engine_logs / key).is_dir():
            yield f"beam {number}: logs of the engine", site.engine_logs / key
        if beam.result.rt_dose is not None:
            yield f"beam {number}: RT Dose at the target", Path(beam.result.rt_dose)


def _words(job: ClusterJob) -> str:
    before = f", after {', '.join(job.retired)}" if job.retired else ""
    return f"job {job.job_id or 'not submitted'} on {job.cluster}{before}: {job_words(job)}"


def _attempt(attempt: Attempt) -> AttemptRow:
    return AttemptRow(
        id=attempt.id,
        number=attempt.number,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        outcome=attempt.outcome.value if attempt.outcome is not None else "in work",
        cause=attempt.cause,
    )
