"""From a TPS file to raw doses on disk: what `mqi-engine` does between its first line and its last."""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mqi_dagster.embedded_engine import bdl, ct_series, driver, output, patient, phantom, plan_file, spots
from mqi_dagster.embedded_engine.dose import SimulatedDose, combine
from mqi_dagster.embedded_engine.install import Installation
from mqi_dagster.embedded_engine.progress import ShardProgress, say
from mqi_dagster.embedded_engine.volume import Volume
from mqi_dagster.engine_contract.beam_model import EngineBeamModel, read_beam_model
from mqi_dagster.engine_contract.tps import parse_tps
from mqi_dagster.engine_contract.tps_keys import TpsFile
from mqi_dagster.errors import EngineInputError, Where
from mqi_dagster.hu_table import HuCurves
from mqi_dagster.plan.model import PlanBeam
from mqi_dagster.plan.reading import read_ion_plan
from mqi_dagster.plan.requirements import (
    shifter_count_fault,
    shifter_distance_mm,
    shifter_fault,
    tilt_fault,
)

DEFAULT_SHARDS = 4
_TPS = Where(kind="TPS file")
_PLAN = Where(kind="RT plan")
_HISTORIES_TOLERANCE = 0.001
_SCRATCH = ".mcsquare-"


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that defines one simulation, read and checked."""

    tps: TpsFile
    beam: PlanBeam
    model: EngineBeamModel
    layers: Sequence[spots.SpotLayer]
    volume: Volume
    field: plan_file.Field
    parts: Sequence[driver.Shard]

    @property
    def protons(self) -> float:
        """Protons of the beam, or their relative number where the beam model is not commissioned."""
        return math.fsum(float(layer.protons.sum()) for layer in self.layers)


def read_request(tps_path: Path) -> Request:
    """Read the TPS file and all it names, and check it before anything starts.

    Raises:
        EngineInputError: Something is missing, unknown, or outside what the engine can do.
        PlanError: The plan cannot be read.
    """
    try:
        tps = parse_tps(tps_path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise EngineInputError("cannot be read", where=_TPS) from error
    _require_supported(tps)
    assert tps.beam_model_file is not None
    base = Path() if tps.use_absolute_path else Path(tps.parent_dir)
    dicom = Path(tps.dicom_path) if tps.use_absolute_path else base / tps.dicom_dir
    model = read_beam_model(Path(tps.beam_model_file))
    beam = _beam(dicom, tps.beam_numbers[0])
    layers = spots.read_layers(base / tps.log_file_path, beam, model)
    if tps.using_phantom_geo:
        volume = phantom.water_phantom(tps)
        gantry, couch, isocenter = 0.0, 0.0, (0.0, 0.0, 0.0)
    else:
        _require(tilt_fault(beam))
        volume = patient.patient_volume(ct_series.read_ct_series(dicom), _hu_table(model))
        gantry, couch, isocenter = beam.gantry_angle_deg, beam.couch_angle_deg, beam.isocenter_mm
    field = plan_file.Field(gantry, couch, volume.to_mcsquare(isocenter), _range_shifter(beam, model))
    protons = math.fsum(float(layer.protons.sum()) for layer in layers)
    wanted = protons * tps.particles_per_history
    shards = tps.embedded_shards if tps.embedded_shards is not None else DEFAULT_SHARDS
    parts = driver.plan_parts(round(wanted), shards, tps.random_seed)
    planned = sum(part.histories for part in parts)
    if abs(planned - wanted) > max(_HISTORIES_TOLERANCE * wanted, driver.VECTOR):
        raise EngineInputError(f"{wanted:g} histories cannot be simulated in {shards} parts", where=_TPS)
    return Request(tps, beam, model, layers, volume, field, parts)


def simulate(request: Request, installation: Installation, at_once: int) -> None:
    """Simulate, check and write; the progress goes to standard output.

    Raises:
        EngineError: MCsquare failed or its dose is not valid.
        EngineInputError: Results are there already and may not be overwritten.
        OSError: The output or the working folder cannot be written.
    """
    started = time.monotonic()
    tps = request.tps
    target = Path(tps.output_dir)
    names = [output.stem(request.beam.name, child, tps.scorer) for child in (1, 2)]
    if not tps.overwrite_results and any((target / f"{name}.raw").exists() for name in names):
        raise EngineInputError("results are there already and OverwriteResults is false", where=_TPS)
    if request.beam.not_simulated:
        say(f"Note: not simulated: {', '.join(request.beam.not_simulated)}")
    histories = [part.histories for part in request.parts]
    with _scratch(target.parent) as folder:
        _write_inputs(folder, request)
        progress = ShardProgress(histories)
        progress.begin()
        shifter = request.field.shifter
        thickness = 0.0 if shifter is None else shifter.water_equivalent_thickness_mm
        driver.run_parts(installation, folder, list(request.parts), at_once, thickness, progress.update)
        dose = combine(folder, request.volume, request.parts, request.protons)
        progress.finish()
    _write_outputs(target, names, request, dose)
    say(f"Total beamlets (Spots) : {sum(len(layer.protons) for layer in request.layers)}")
    say(f"Total histories (Particles) : {sum(histories)}")
    say(f"Uncertainty (mean above half maximum) : {dose.uncertainty_percent:.2f} %")
    say(f"Time taken by MC engine: {1000 * (time.monotonic() - started):.1f} milli-seconds")


def _require_supported(tps: TpsFile) -> None:
    wrong = []
    if tps.beam_model_file is None:
        wrong.append("BeamModelFile is missing")
    if len(tps.beam_numbers) != 1:
        wrong.append("BeamNumbers must name exactly one beam")
    if tps.simulation_type != "perBeam":
        wrong.append("SimulationType must be perBeam")
    if tps.scorer != "Dose":
        wrong.append("Scorer must be Dose")
    if tps.output_format not in ("raw", "mhd"):
        wrong.append("OutputFormat must be raw or mhd")
    if not tps.score_to_ct_grid:
        wrong.append("ScoreToCTGrid must be true")
    if tps.scoring_mask:
        wrong.append("ScoringMask is not supported")
    if tps.embedded_shards == 1:
        wrong.append("EmbeddedShards must be at least 2: the uncertainty is the spread between them")
    if wrong:
        raise EngineInputError("; ".join(wrong), where=_TPS)


def _beam(dicom: Path, number: int) -> PlanBeam:
    try:
        paths = sorted(path for path in dicom.iterdir() if path.name.startswith("RP"))
    except OSError as error:
        raise EngineInputError(f"DICOM folder: {error.strerror}", where=_PLAN) from error
    if len(paths) != 1:
        raise EngineInputError(f"{len(paths)} plans (RP*) instead of one", where=_PLAN)
    plan = read_ion_plan(paths[0])
    try:
        return plan.beam(number)
    except KeyError as error:
        raise EngineInputError(f"the plan has no beam {number}", where=_PLAN) from error


def _require(fault: str) -> None:
    if fault:
        raise EngineInputError(fault, where=_PLAN)


def _hu_table(model: EngineBeamModel) -> HuCurves:
    if model.hu_table is None:
        raise EngineInputError("no HU table for the CT", where=Where(kind="beam model"))
    return model.hu_table


def _range_shifter(beam: PlanBeam, model: EngineBeamModel) -> bdl.RangeShifterInBeam | None:
    """The beam's range shifter: the machine's thickness, at the plan's distance where it gives one."""
    if not beam.range_shifters:
        return None
    _require(shifter_count_fault(beam))
    planned = beam.range_shifters[0]
    known = model.range_shifters.get(planned.shifter_id)
    if known is None:
        raise EngineInputError(f"no range shifter {planned.shifter_id}", where=Where(kind="beam model"))
    _require(shifter_fault(beam, model.range_shifters, model.range_shifter_offset_mm))
    return bdl.RangeShifterInBeam(
        known.water_equivalent_thickness_mm, shifter_distance_mm(beam, model.range_shifter_offset_mm)
    )


def _write_inputs(folder: Path, request: Request) -> None:
    model, layers = request.model, request.layers
    request.volume.write(folder)
    library = bdl.render_bdl(
        model.tables, model.sad_mm, [layer.energy_mev for layer in layers], request.field.shifter
    )
    (folder / "bdl.txt").write_text(library, encoding="ascii")
    nozzle = model.tables.nozzle_to_isocenter_mm
    aim = [plan_file.aimed(layer.positions_mm, model.sad_mm, nozzle) for layer in layers]
    plan_file.write_plan(folder / "plan.txt", layers, request.field, aim)


def _write_outputs(target: Path, names: Sequence[str], request: Request, dose: SimulatedDose) -> None:
    tps, volume = request.tps, request.volume
    header = tps.output_format == "mhd"
    if not tps.using_phantom_geo:
        x, y, z = (first - step / 2 for first, step in zip(volume.first_mm, volume.spacing_mm, strict=True))
        output.write(target, names[0], output.OutputGrid(dose.values, (x, y, z), volume.spacing_mm), header)
        return
    values = phantom.to_engine_axes(dose.values)
    x, y, z = (float(edge) for edge in tps.phantom_position_mm)
    ux, uy, uz = (float(unit) for unit in tps.phantom_unit_mm)
    if tps.two_centimeter_mode:
        index = phantom.plane_index(tps)
        plane = output.OutputGrid(values[index : index + 1], (x, y, z + index * uz), (ux, uy, uz))
        output.write(target, names[1], plane, header)
    output.write(target, names[0], output.OutputGrid(values, (x, y, z), (ux, uy, uz)), header)


@contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    """A working folder that goes in any case; what a killed run left behind goes too."""
    beside.mkdir(parents=True, exist_ok=True)
    for old in beside.glob(f"{_SCRATCH}*"):
        if _abandoned(old):
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=beside))
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _abandoned(folder: Path) -> bool:
    """Whether no living process holds the folder's lock."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
