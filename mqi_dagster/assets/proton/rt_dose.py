"""Station 4: the raw dose becomes a DICOM RT Dose, checked by reading it back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from mqi_dagster import __version__
from mqi_dagster.assets import proton
from mqi_dagster.dose.grid import DoseGrid
from mqi_dagster.dose.readback import RtDoseReport, verify_rt_dose
from mqi_dagster.dose.rt_dose import EngineStamp, Irradiation, RtDoseRequest, as_written, write_rt_dose
from mqi_dagster.errors import MqiError, Where
from mqi_dagster.execution.scrub import Scrubber
from mqi_dagster.execution.site_command import run_site_command
from mqi_dagster.lifecycle import metadata
from mqi_dagster.lifecycle.arrived import inputs_away
from mqi_dagster.lifecycle.beam import BeamAtWork, load_beam, require_unchanged
from mqi_dagster.lifecycle.boundary import blames_input, is_passing, tried_again
from mqi_dagster.lifecycle.digests import RT_DOSE_CODE, rt_dose_digest
from mqi_dagster.lifecycle.lineage import DIGEST, RAW_DOSE, require_passed, resolve, reusable, store_folder
from mqi_dagster.lifecycle.raw_dose_files import RawDoseRecord, Role, read_raw_dose
from mqi_dagster.partitions import BEAM
from mqi_dagster.resources.composed import ParsedInputsResource, StoreResource
from mqi_dagster.resources.site import Site
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import Store

FILES: dict[Role, str] = {"box": "rt_dose.dcm", "plane": "rt_dose_plane.dcm"}


def _request(site: Site, beam: BeamAtWork, record: RawDoseRecord, digest: str) -> RtDoseRequest:
    options = site.settings.rt_dose
    return RtDoseRequest(
        plan_path=require_unchanged(beam.manifest.plan, "RT plan"),
        beam_number=beam.number,
        digest=digest,
        irradiation=irradiation_of(beam, site.settings.site.timezone),
        engine=EngineStamp(
            name=record.engine,
            version=record.version,
            seed=record.seed,
            histories=round(record.histories),
            uncertainty_percent=record.uncertainty_percent,
        ),
        software_versions=(f"mqi_dagster {__version__}",),
        dose_type=options.dose_type,
        summation=options.summation_type,
        rbe=options.rbe,
        bits=options.bits,
        comment=_comment(beam, record),
    )


SCAN_ENDS = "SCAN ENDS IN BODY"
DOSE_COMMENT_LENGTH = 64


def irradiation_of(beam: BeamAtWork, timezone: str) -> Irradiation:
    """When the beam was delivered, and in which fraction of the plan.

    The fraction is known where the order in which the site first saw the plan's fractions is the order in
    which they were irradiated. Counted are those the site has seen: a course that began elsewhere counts
    from 1.

    Args:
        beam: The beam.
        timezone: IANA name of the zone in which the machine writes its times.
    """
    manifest = beam.manifest
    begun = min(
        delivery.irradiated_at for delivery in manifest.deliveries if delivery.beam_number == beam.number
    )
    agree = manifest.clinical_fraction == manifest.fraction
    return Irradiation(begun.astimezone(ZoneInfo(timezone)), manifest.fraction if agree else None)


def not_simulated(beam: BeamAtWork) -> list[str]:
    """What of the beam's hardware no engine here puts into the beam."""
    return list(beam.plan_beam.not_simulated)


def _comment(beam: BeamAtWork, record: RawDoseRecord) -> str:
    """What a reader of the dose must know; Dose Comment holds 64 characters."""
    missing = not_simulated(beam)
    named = [device for device in missing if device in ("block", "MLC", "jaws")]
    if len(named) < len(missing):
        named.append("other devices")
    listed = (" and " if len(named) < 3 else ", ").join(named)
    parts = [f"WITHOUT {listed}"] if named else []
    in_ct = any(entry.axes == "patient" for entry in record.files)
    if in_ct and any(end.beam == beam.number for end in beam.manifest.scan_ends):
        parts.append(SCAN_ENDS)
    if record.hu_calibrated:
        parts.append(f"HU table {record.hu_table}")
    elif record.hu_table is not None or (in_ct and record.engine == "embedded"):
        parts.append("typical HU calibration")
    while len("; ".join(parts)) > DOSE_COMMENT_LENGTH:
        parts.pop()
    return "; ".join(parts)


def ends_of_scan(beam: BeamAtWork, record: RawDoseRecord) -> list[str]:
    """Where the scan that the dose was simulated in ends inside the body, on this beam's way first."""
    if not any(entry.axes == "patient" for entry in record.files):
        return []
    ends = beam.manifest.scan_ends
    return [end.text for end in ends if end.beam == beam.number] + [
        end.text for end in ends if end.beam is None
    ]


def verify(
    site: Site,
    beam: BeamAtWork,
    record: RawDoseRecord,
    grids: dict[Role, DoseGrid],
    folder: Path,
    digest: str,
) -> dict[Role, RtDoseReport]:
    """Open every RT Dose of a folder and check it against the raw dose."""
    request = _request(site, beam, record, digest)
    built_in = site.settings.rt_dose.command is None
    surface = record.surface_mm
    reports: dict[Role, RtDoseReport] = {}
    for role, grid in grids.items():
        path = folder / FILES[role]
        if not built_in and role == "plane" and not path.is_file():
            continue
        reports[role] = verify_rt_dose(
            path,
            plan_path=request.plan_path,
            beam_number=beam.number,
            frame=grid.frame,
            units=grid.units,
            dose_type=request.dose_type,
            summation=request.summation,
            irradiation=request.irradiation,
            expected=as_written(grid, request),
            digest=digest if built_in else None,
            water_surface_y_mm=None if surface is None else -surface,
        )
    return reports


def _make(
    site: Site,
    store: Store,
    beam: BeamAtWork,
    raw: Published,
    record: RawDoseRecord,
    grids: dict[Role, DoseGrid],
    digest: str,
) -> tuple[Published, dict[Role, RtDoseReport]]:
    request = _request(site, beam, record, digest)
    command = site.settings.rt_dose.command
    case, folder = store_folder(beam.key)
    with store.stage(case, folder, "rt_dose") as staging:
        if command is None:
            for role, grid in grids.items():
                write_rt_dose(staging / FILES[role], grid, request)
        else:
            run_site_command(
                command,
                {
                    "raw_dose": raw.folder,
                    "plan": request.plan_path,
                    "beam_number": str(beam.number),
                    "output": staging,
                },
                wanted=staging,
                scrubber=Scrubber(beam.plan.identifiers),
            )
        reports = verify(site, beam, record, grids, staging, digest)
        main = reports.get("box") or reports["plane"]
        meta = {
            RAW_DOSE: raw.digest,
            "not_simulated": not_simulated(beam),
            "units": main.units.value,
            "maximum": main.maximum,
            "r80_mm": main.r80_mm,
            "summation_type": request.summation.value,
            "fraction": request.irradiation.fraction_number,
            "hu_table": record.hu_table_name,
            "ends_of_scan": ends_of_scan(beam, record),
            "engine": record.engine,
            "engine_version": record.version,
            "histories": record.histories,
            "uncertainty_percent": record.uncertainty_percent,
        }
        return store.publish(staging, case, folder, "rt_dose", digest, meta=meta), reports


def _shown(
    reports: dict[Role, RtDoseReport], record: RawDoseRecord, grids: dict[Role, DoseGrid]
) -> dict[str, Any]:
    """What is shown of an RT Dose: figures that were read back, and pictures."""
    main = reports.get("box") or reports["plane"]
    return {
        "units": main.units.value,
        **metadata.maximum(main.maximum, main.units),
        "R80 [mm]": round(main.r80_mm, 1) if main.r80_mm is not None else "none",
        "grid": f"{main.columns} x {main.rows} x {main.frames}",
        "spacing [mm]": " x ".join(f"{step:g}" for step in main.spacing_mm),
        **metadata.of_rt_dose(grids, record),
    }


READBACK = proton.beam_check(
    "rt_dose",
    "readback",
    "Tags, references, geometry, units and values of the file equal those of plan and raw dose.",
)


@dg.asset(
    partitions_def=BEAM.definition,
    deps=["raw_dose"],
    check_specs=[READBACK],
    code_version=RT_DOSE_CODE,
    group_name=proton.BEAM,
    kinds={"dicom"},
    owners=proton.OWNERS,
)
def rt_dose(
    context: dg.AssetExecutionContext,
    site: dg.ResourceParam[Site],
    store: StoreResource,
    parsed_inputs: ParsedInputsResource,
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """DICOM RT Dose of the delivered beam: the 3-D grid, and in 2 cm mode the plane as well."""
    key = context.partition_key
    with tried_again(context, Where(beam=key), inputs_away(context.instance, site, store.open, key)):
        require_passed(context.instance, "raw_dose", "engine_output", key)
        parsed = parsed_inputs.open()
        beam = load_beam(context.instance, store.open(), site.machines, key, parsed)
        raw = resolve(context.instance, store.open(), "raw_dose", key)
        irradiation = irradiation_of(beam, site.settings.site.timezone)
        digest = rt_dose_digest(beam, raw.digest, site.settings.rt_dose, irradiation.attributes())
        record, grids = read_raw_dose(raw, parsed)
        published = reusable(store.open(), "rt_dose", key, digest)
        before = (
            metadata.shown_before(context.instance, "rt_dose", key, metadata.shown_of(published, raw))
            if published is not None
            else None
        )
        if published is None:
            published, reports = _make(site, store.open(), beam, raw, record, grids, digest)
            shown = _shown(reports, record, grids)
        elif before is None:
            shown = _shown(verify(site, beam, record, grids, published.folder, digest), record, grids)
        else:
            # Of these bytes and this raw dose: they were verified then, and are by the check below.
            shown = dict(before)
        ends = ends_of_scan(beam, record)
        for end in ends:
            context.log.warning("%s", end)
        missing = not_simulated(beam)
        if missing:
            context.log.warning(
                "the dose is that of the open beam: no engine simulates %s", " and ".join(missing)
            )
        figures = {
            DIGEST: digest,
            "beam": beam.entry.label,
            "not simulated": ", ".join(missing) or "nothing",
            "summation type": site.settings.rt_dose.summation_type.value,
            "fraction": irradiation.fraction_number or "not known",
            "HU table": record.hu_table_name,
            "ends of the scan": "; ".join(ends) or "none in the body",
            "engine": f"{record.engine} {record.version}",
            "seed": record.seed,
            "histories": record.histories,
        }
        # Not with the result: Dagster stores that metadata once more, with the output of the step.
        # In this order, so that the pictures come last.
        context.add_asset_metadata({**figures, **shown, **figures})
        mark = metadata.shown_of(published, raw)
        yield dg.MaterializeResult(data_version=dg.DataVersion(digest), tags={metadata.SHOWN_TAG: mark})
        yield _readback(site, beam, record, grids, published)


def _readback(
    site: Site,
    beam: BeamAtWork,
    record: RawDoseRecord,
    grids: dict[Role, DoseGrid],
    published: Published,
) -> dg.AssetCheckResult:
    """Opens the published RT Dose again and compares it with the raw dose."""
    try:
        published.verify()
        reports = verify(site, beam, record, grids, published.folder, published.digest)
    except MqiError as error:
        if is_passing(error) or blames_input(error):
            # Not of this dose: an input that has gone meanwhile.
            raise
        return dg.AssetCheckResult(passed=False, description=error.message)
    return dg.AssetCheckResult(
        passed=True,
        metadata={
            name: value
            for role, report in reports.items()
            for name, value in metadata.maximum(report.maximum, report.units, role).items()
        },
    )
