"""The folder an engine is given for one beam, in which its addressing cannot go wrong.

    moqui_tps.in
    Log_csv/plan/RP.dcm           the plan reduced to this beam, as BeamNumber 1, blanked
    Log_csv/plan/CT_0001.dcm ...  the blanked CT, where the engine simulates in it
    Log_csv/log/<one folder>/     the beam's CSVs, copied and verified
    Log_csv/beam_model.json       for engines that read it
    Dose/                         empty
    view.json                     what was asked; by it the folder of a job is told from any other

Forks of moqui find a beam's folder by its place in the alphabet, by a number like ``1G180`` in the name, by
equal names or by a part of the name, and a beam by number or by index (docs/formats.md 7): with one beam, one
folder and the number 1 every way ends at the same beam.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.delivery.manifest import InputFile
from mqi_dagster.delivery.summary import InterpretedBeam, InterpretedLayer
from mqi_dagster.engine_contract.beam_model import beam_model_for
from mqi_dagster.engine_contract.beam_tps import BEAM_NUMBER, EnginePaths, tps_for_beam
from mqi_dagster.engine_contract.ct_copy import blanked_ct
from mqi_dagster.engine_contract.histories import read_counts, request_histories
from mqi_dagster.engine_contract.job_view import (
    BEAM_MODEL_NAME,
    OUTPUT_FOLDER,
    TPS_NAME,
    VIEW_NAME,
    JobView,
    disk_error,
    engine_beam_name,
    log_folder_name,
    mark_start,
    output_stems,
)
from mqi_dagster.engine_contract.tps import render
from mqi_dagster.errors import EngineInputError, Where
from mqi_dagster.files import sha256_file, sync_file, sync_folder
from mqi_dagster.hu_table import HuCurves
from mqi_dagster.machine import Machine
from mqi_dagster.plan.model import PlanBeam
from mqi_dagster.plan.positions import beam_position_fault
from mqi_dagster.plan.reduced import write_reduced_plan
from mqi_dagster.plan.requirements import beam_faults
from mqi_dagster.settings import Engine, EngineProfile, OutputFormat

__all__ = ["JobView", "mark_start", "prepare_view", "require_simulable"]

_WHERE = Where(kind="engine input")


def prepare_view(
    directory: Path,
    *,
    profile: EngineProfile,
    plan_source: Path,
    plan_beam: PlanBeam,
    machine: Machine,
    interpreted_dir: Path,
    interpreted: InterpretedBeam,
    ct_files: Sequence[InputFile],
    hu_table: HuCurves | None = None,
    engine: Engine,
    gpu_index: int = 0,
    gpu_count: int = 1,
    seen_as: PurePosixPath | None = None,
) -> JobView:
    """Write the folder of a job; an earlier one of the same name is replaced as a whole.

    Args:
        directory: The folder to make; it appears complete or not at all.
        profile: The engine.
        plan_source: The RT Ion Plan of the case.
        plan_beam: The beam in it.
        machine: The beam's machine.
        interpreted_dir: The published interpretation of the beam.
        interpreted: Its summary.
        ct_files: The CT of the case; used where the engine can simulate in it.
        hu_table: What the values of the CT mean, for an engine that has no table of its own.
        engine: The site's settings of the simulation.
        gpu_index: GPU among those the engine will see.
        gpu_count: How many of them simulate the beam together, counted from 0; ``gpu_index`` where 1.
        seen_as: ``directory`` as the engine sees it, where that is another machine.

    Raises:
        EngineInputError: The engine cannot be asked for this beam; the message says why.
        InfrastructureError: The disk did not take the folder.
    """
    name = engine_beam_name(plan_beam.name)
    patient_ct = bool(ct_files) and profile.patient_ct
    layers = _same_beam(profile, plan_beam, machine, interpreted, patient_ct)
    request = request_histories(
        layers,
        machine,
        profile,
        histories=engine.histories,
        counts_divided_by=interpreted.dose_dividing_factor,
        counts_of=lambda number: _counts(interpreted_dir, interpreted, number),
    )
    seen = seen_as or PurePosixPath(directory.resolve())
    paths = EnginePaths(
        parent_dir=f"{seen}/Log_csv",
        dicom_path=f"{seen}/Log_csv/plan",
        log_path=f"{seen}/Log_csv/log",
        output_dir=f"{seen}/{OUTPUT_FOLDER}",
        beam_model_file=f"{seen}/{BEAM_MODEL_NAME}",
    )
    ratio = request.particles_per_history
    gpus = range(gpu_count) if gpu_count > 1 else (gpu_index,)
    tps = tps_for_beam(engine, profile, machine, ratio, tuple(gpus), paths, patient_ct=patient_ct)
    contents = {TPS_NAME: render(tps).encode()}
    if profile.reads_beam_model:
        model = beam_model_for(
            machine, plan_beam, interpreted.dose_dividing_factor, hu_table if patient_ct else None
        )
        contents[BEAM_MODEL_NAME] = model.render().encode()
    partial = directory.with_name(f".{directory.name}.partial")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        (partial / OUTPUT_FOLDER).mkdir(parents=True)
        manifest = {relative: _write(partial / relative, text) for relative, text in contents.items()}
        manifest |= _copy_csvs(partial, interpreted_dir, layers, name)
        manifest |= _copy_dicom(partial, plan_source, plan_beam.number, name, ct_files if patient_ct else ())
        box, plane = output_stems(name, profile, tps)
        view = JobView(
            directory=directory,
            beam_name=name,
            tps=tps,
            manifest=dict(sorted(manifest.items())),
            argv=_argv(profile, f"{seen}/{TPS_NAME}"),
            box_stem=box,
            plane_stem=plane,
            with_header=profile.output_format is OutputFormat.MHD,
            protons=request.protons,
            particles_per_history=request.particles_per_history,
            expected_histories=request.expected_histories,
            dose_factor=request.dose_factor,
        )
        _write(partial / VIEW_NAME, view.model_dump_json(indent=1).encode())
        _replace(partial, directory)
    except OSError as error:
        raise disk_error("written", error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return view


def require_simulable(
    plan_beam: PlanBeam, machine: Machine, profile: EngineProfile, *, in_images: bool
) -> None:
    """Refuse a beam that the engine cannot be asked for: also one whose dose lies in the store already.

    Raises:
        EngineInputError: The beam asks for something, or lies in a position, that is not handled.
    """
    fault = beam_position_fault(plan_beam, in_images=in_images)
    if fault:
        raise EngineInputError(f"the beam {fault}", where=_WHERE)
    for fault in beam_faults(plan_beam, machine, beam_model=profile.reads_beam_model, in_images=in_images):
        raise EngineInputError(f"the beam: {fault}", where=_WHERE)


def _same_beam(
    profile: EngineProfile,
    plan_beam: PlanBeam,
    machine: Machine,
    interpreted: InterpretedBeam,
    patient_ct: bool,
) -> tuple[InterpretedLayer, ...]:
    if interpreted.number != plan_beam.number or interpreted.machine_id != machine.id:
        raise EngineInputError("the interpreted CSVs are of another beam or machine", where=_WHERE)
    require_simulable(plan_beam, machine, profile, in_images=patient_ct)
    if interpreted.dialect is not profile.csv_dialect:
        raise EngineInputError(
            f"the CSVs are in the dialect {interpreted.dialect}, the engine reads {profile.csv_dialect}",
            where=_WHERE,
        )
    numbers = [layer.number for layer in interpreted.layers]
    if not numbers or len(set(numbers)) != len(numbers):
        raise EngineInputError("the interpreted CSVs hold no layer, or one twice", where=_WHERE)
    return interpreted.layers


def _counts(interpreted_dir: Path, interpreted: InterpretedBeam, number: int) -> NDArray[np.int64]:
    layer = next(layer for layer in interpreted.layers if layer.number == number)
    return read_counts(interpreted_dir / layer.file, interpreted.dialect)


def _argv(profile: EngineProfile, tps_path: str) -> tuple[str, ...]:
    argv = tuple(part.replace("{tps}", tps_path) for part in profile.command)
    if any(re.search(r"[{}<>]", part) for part in argv):
        raise EngineInputError("a placeholder is left in the engine's command", where=_WHERE)
    return argv


def _replace(partial: Path, directory: Path) -> None:
    if directory.exists():
        if any(directory.iterdir()) and not (directory / VIEW_NAME).is_file():
            raise EngineInputError("the work folder holds something else than a job", where=_WHERE)
        shutil.rmtree(directory)
    partial.rename(directory)
    sync_folder(directory.parent)


def _write(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    sync_file(path)
    return hashlib.sha256(content).hexdigest()


def _copy_csvs(
    partial: Path, interpreted_dir: Path, layers: Sequence[InterpretedLayer], beam_name: str
) -> dict[str, str]:
    manifest = {}
    for layer in layers:
        source = interpreted_dir / layer.file
        relative = f"Log_csv/log/{log_folder_name(beam_name)}/{source.name}"
        if relative in manifest:
            raise EngineInputError("two layers have a CSV of the same name", where=Where(layer=layer.number))
        manifest[relative] = _write(partial / relative, source.read_bytes())
        if manifest[relative] != layer.sha256:
            raise EngineInputError("the CSV is not the published one", where=Where(layer=layer.number))
    return manifest


def _copy_dicom(
    partial: Path, plan_source: Path, beam_number: int, beam_name: str, ct_files: Sequence[InputFile]
) -> dict[str, str]:
    relative = "Log_csv/plan/RP.dcm"
    target = partial / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    write_reduced_plan(plan_source, target, beam_number, as_number=BEAM_NUMBER, as_name=beam_name)
    manifest = {relative: sha256_file(target)}
    for number, entry in enumerate(sorted(ct_files, key=lambda entry: entry.sha256), start=1):
        content = entry.path.read_bytes()
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise EngineInputError("a slice has changed since it was checked", where=Where(kind="CT"))
        name = f"Log_csv/plan/CT_{number:04d}.dcm"
        manifest[name] = _write(partial / name, blanked_ct(content))
    return manifest
