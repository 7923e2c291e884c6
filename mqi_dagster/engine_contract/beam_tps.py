"""The TPS file of one beam: what the site's settings, the engine and the machine put into it."""

from __future__ import annotations

from dataclasses import dataclass

from mqi_dagster.engine_contract.tps import field_of, parse_value, validated
from mqi_dagster.engine_contract.tps_keys import TpsFile
from mqi_dagster.errors import EngineInputError, Where
from mqi_dagster.machine import Machine
from mqi_dagster.settings import Engine, EngineProfile, Phantom

BEAM_NUMBER = 1
"""BeamNumber of the one beam in the reduced plan and in the TPS file, whatever it is in the case's plan.

moqui's forks take it as an index into the beams or into the folders of CSVs, others as a number: with one
beam, one folder and the number 1 all of them mean the same beam.
"""

MOQUI_PLANE_BOX = Phantom(
    two_centimeter_mode=True, dimension=(400, 400, 400), unit_mm=(1, 1, 1), position_mm=(-200, -200, -380)
)
"""moqui's geometry in 2 cm mode is fixed; these are the numbers its own platform writes for it."""

MULTI_GPU_FOLDER = "multi_gpu"
"""In the output folder, which exists wherever the engine runs: moqui makes folders one level deep only."""

_WHERE = Where(kind="TPS file")


@dataclass(frozen=True, slots=True)
class EnginePaths:
    """Folders as the engine sees them."""

    parent_dir: str
    dicom_path: str
    log_path: str
    output_dir: str
    beam_model_file: str


def phantom_of(engine: Engine, profile: EngineProfile) -> Phantom:
    """The water phantom an engine really has: as set, but moqui's own one in its fixed 2 cm mode."""
    if engine.phantom.two_centimeter_mode and not profile.reads_beam_model:
        return MOQUI_PLANE_BOX
    return engine.phantom


def _further_keys(profile: EngineProfile, taken: dict[str, object]) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, text in profile.extra_keys.items():
        name = field_of(key)
        if name is None:
            raise EngineInputError(f"extra_keys: key {key} is unknown", where=_WHERE)
        if name in taken or name in values:
            raise EngineInputError(f"extra_keys: {key} is set by the platform or stands twice", where=_WHERE)
        values[name] = parse_value(name, text)
    return values


def _gantry(profile: EngineProfile, machine: Machine) -> int | None:
    if machine.gantry_number is None and not profile.reads_beam_model:
        raise EngineInputError(
            f"the engine has no model of machine {machine.id} (gantry_number of its machine file is null)",
            where=_WHERE,
        )
    return machine.gantry_number


def tps_for_beam(
    engine: Engine,
    profile: EngineProfile,
    machine: Machine,
    particles_per_history: float,
    gpus: tuple[int, ...],
    paths: EnginePaths,
    *,
    patient_ct: bool = False,
) -> TpsFile:
    """The TPS file of one beam.

    Args:
        engine: The site's settings of the simulation.
        profile: The engine.
        machine: The beam's machine.
        particles_per_history: See `histories.request_histories`.
        gpus: GPUs among those the engine sees, (0,) without a GPU; over several its layers are spread.
        paths: Folders as the engine sees them.
        patient_ct: Simulate in the CT that lies beside the plan instead of water.

    Raises:
        EngineInputError: The engine does not know the machine, or a key is missing, unknown or out of range.
    """
    values: dict[str, object] = {
        "gpu_id": gpus[0],
        "random_seed": engine.seed,
        "use_absolute_path": profile.absolute_paths,
        "total_threads": -1,
        "max_histories_per_batch": engine.histories_per_batch,
        "verbosity": 0,
        "parent_dir": paths.parent_dir,
        "dicom_path": paths.dicom_path,
        "dicom_dir": paths.dicom_path.rsplit("/", 1)[-1],
        # With relative paths moqui puts ParentDir before logFilePath as well.
        "log_file_path": paths.log_path if profile.absolute_paths else paths.log_path.rsplit("/", 1)[-1],
        "gantry_num": _gantry(profile, machine),
        "using_phantom_geo": not patient_ct,
        "two_centimeter_mode": not patient_ct and engine.phantom.two_centimeter_mode,
        "scorer": "Dose",
        "supress_std": True,
        "read_structure": False,
        "source_type": "FluenceMap",
        "simulation_type": "perBeam",
        "beam_numbers": (BEAM_NUMBER,),
        "particles_per_history": float(particles_per_history),
        "score_to_ct_grid": True,
        "output_dir": paths.output_dir,
        "output_format": profile.output_format.value,
        "overwrite_results": True,
    }
    if not patient_ct:
        phantom = phantom_of(engine, profile)
        for part, numbers in (
            ("dim", phantom.dimension),
            ("unit", phantom.unit_mm),
            ("position", phantom.position_mm),
        ):
            values.update({f"phantom_{part}_{axis}": n for axis, n in zip("xyz", numbers, strict=True)})
    if profile.reads_beam_model:
        values["beam_model_file"] = paths.beam_model_file
        values["embedded_shards"] = engine.embedded.shards
    if len(gpus) > 1:
        values["enable_multi_gpu"] = True
        values["allowed_gpu_ids"] = ",".join(str(gpu) for gpu in gpus)
        # As moqui's own platform writes it: as many workers as there are GPUs.
        values["multi_gpu_workers"] = 0
        values["multi_gpu_temp_root"] = f"{paths.output_dir}/{MULTI_GPU_FOLDER}"
    return validated({**values, **_further_keys(profile, values)})
