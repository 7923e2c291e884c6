"""What each result depends on: the only place that decides when something is computed again.

Never in a digest: case key, GPU, host, executor, paths, dates of the work, run, attempt.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mqi_dagster.execution.processes import resolve_program
from mqi_dagster.files import sha256_file
from mqi_dagster.hu_table import HuTable
from mqi_dagster.lifecycle.beam import BeamAtWork
from mqi_dagster.plan.model import ScanMode
from mqi_dagster.settings import Engine, EngineProfile, Interpretation, RtDose, SiteCommand
from mqi_dagster.store.digests import digest_of

INTERPRETED_CSVS_CODE = "1"
SIMULATION_CODE = "1"
RT_DOSE_CODE = "2"
CASE_MANIFEST_CODE = "1"
HANDED_OVER_CODE = "1"
SHOWN_CODE = "3"
"""Of figures and pictures in the metadata: no part of a result, but shown again for it while this stays."""


def _command(command: SiteCommand | None) -> list[str] | None:
    """A site's command by content: programs and scripts by their SHA-256, never by where they lie."""
    if command is None:
        return None
    program, *arguments = command.argv
    return [sha256_file(resolve_program(program)), *(_argument(argument) for argument in arguments)]


def _argument(argument: str) -> str:
    option, mark, value = argument.rpartition("=")
    if not value.startswith("/"):
        return argument
    path = Path(value)
    return option + mark + (sha256_file(path) if path.is_file() else path.name)


def interpreted_csvs_digest(beam: BeamAtWork, options: Interpretation, profile: EngineProfile) -> str:
    """Digest of a beam's interpreted CSVs."""
    machine = beam.machine
    mode = beam.plan_beam.scan_mode
    return digest_of(
        # Only the timeline of a beam that stops at its spots is another than that of a scanned line.
        **({} if mode is ScanMode.LINE else {"scan_mode": mode.value}),
        asset="interpreted_csvs",
        code=INTERPRETED_CSVS_CODE,
        inputs=beam.inputs,
        settings={
            **options.model_dump(mode="json", exclude={"mu_ratio_minimum", "mu_ratio_maximum", "command"}),
            "command": _command(options.command),
            # In the digest of every result in the stores of sites.
            "log_csv": True,
            "csv_dialect": profile.csv_dialect.value,
        },
        machine=machine.model_dump(
            mode="json",
            include={"id", "record", "preset", "timing", "monitor_full_scale_na", "exports_aperture"},
        ),
    )


def engine_settings(engine: Engine, profile: EngineProfile, version: str) -> dict[str, Any]:
    """The settings that change what an engine computes."""
    return {
        "profile": engine.profile,
        "version": version,
        "histories": engine.histories,
        "seed": engine.seed,
        "histories_per_batch": engine.histories_per_batch,
        "phantom": engine.phantom.model_dump(mode="json"),
        "shards": engine.embedded.shards if profile.reads_beam_model else None,
        "behaviour": profile.model_dump(
            mode="json",
            exclude={
                "command",
                "version_command",
                "version",
                "absolute_paths",
                "success_exit_codes",
                "needs_gpu",
                "gpus_per_beam",
                "gpu_memory_mb",
            },
        ),
    }


def simulation_inputs(
    beam: BeamAtWork, csvs: str, engine: Engine, version: str, hu_table: HuTable | None
) -> dict[str, Any]:
    """What TPS file and raw dose depend on.

    Args:
        hu_table: The table of the CT's scanner, where a beam is simulated with one.
    """
    profile = engine.in_use()
    in_a_ct = {} if hu_table is None else {"hu_table": hu_table.curves.model_dump(mode="json")}
    return {
        **in_a_ct,
        "code": SIMULATION_CODE,
        "interpreted_csvs": csvs,
        "plan": beam.manifest.plan.sha256,
        "beam": beam.number,
        "ct": sorted(entry.sha256 for entry in beam.manifest.ct_series) if profile.patient_ct else [],
        "settings": engine_settings(engine, profile, version),
        "machine": beam.machine.model_dump(
            mode="json",
            include={
                "id",
                "sad_mm",
                "range_shifter_offset_mm",
                "range_shifters",
                "gantry_number",
                "beam_model",
                "record",
            },
        ),
    }


def raw_dose_digest(
    beam: BeamAtWork, csvs: str, engine: Engine, version: str, hu_table: HuTable | None
) -> str:
    """Digest of a beam's raw dose."""
    return digest_of(asset="raw_dose", **simulation_inputs(beam, csvs, engine, version, hu_table))


def tps_file_digest(
    beam: BeamAtWork,
    csvs: str,
    engine: Engine,
    version: str,
    hu_table: HuTable | None,
    content: Mapping[str, object],
) -> str:
    """Digest of a beam's TPS file.

    Args:
        content: The file's keys with GPU and paths as placeholders (`TpsFile.for_digest`).
    """
    inputs = simulation_inputs(beam, csvs, engine, version, hu_table)
    return digest_of(asset="tps_file", content=content, **inputs)


def rt_dose_digest(
    beam: BeamAtWork, raw_dose: str, options: RtDose, irradiation: Mapping[str, str | int]
) -> str:
    """Digest of a beam's RT Dose.

    Args:
        irradiation: The machine's time of delivery and the fraction, as they stand in the file.
    """
    return digest_of(
        asset="rt_dose",
        code=RT_DOSE_CODE,
        raw_dose=raw_dose,
        plan=beam.manifest.plan.sha256,
        beam=beam.number,
        irradiation=irradiation,
        **({"scan_ends": True} if any(end.beam == beam.number for end in beam.manifest.scan_ends) else {}),
        settings={
            **options.model_dump(mode="json", exclude={"command"}),
            "command": _command(options.command),
        },
        commissioned=beam.machine.beam_model.commissioned,
    )
