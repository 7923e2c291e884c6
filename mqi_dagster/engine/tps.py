"""The engine's input file ``moqui_tps.in``: written from typed values, read back without moqui's silences.

Syntax (docs/formats.md 6): one ``Key value`` per line, the first blank separates, ``#`` starts a comment
anywhere, keys are case-insensitive, booleans are ``true`` or a non-zero number, lists split at a comma.
moqui ignores unknown keys, takes the first of two equal ones, reads ``-199.5`` as the integer -199 and any
odd word as false, and crashes on a line of blanks; here each of these is an error that names the key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from mqi_dagster.engine.tps_keys import KEYS, TpsFile
from mqi_dagster.errors import EngineInputError, Where
from mqi_dagster.machine import Machine
from mqi_dagster.settings import Engine, EngineProfile, Phantom

__all__ = [
    "BEAM_NUMBER",
    "KEYS",
    "EnginePaths",
    "TpsFile",
    "parse_tps",
    "parse_value",
    "render",
    "tps_for_beam",
    "validated",
]

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
_FIELD_OF = {key.name.lower(): name for name, key in KEYS.items()}
_INTEGER = re.compile(r"[+-]?[0-9]+")
_UNSAFE_TEXT = re.compile(r"[\x00-\x1f\x7f#]")
_PLACEHOLDER = re.compile(r"[{}<>]")


def _written(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    if isinstance(value, float):
        return repr(value)
    text = str(value)
    key = KEYS[name].name
    if not text or text != text.strip() or _UNSAFE_TEXT.search(text):
        raise EngineInputError(
            f"{key}: the value is empty or holds a character that the TPS file cannot carry"
            " ('#', a control character, or a blank at an end)",
            where=_WHERE,
        )
    if _PLACEHOLDER.search(text):
        raise EngineInputError(f"{key}: an unresolved placeholder is left in the value", where=_WHERE)
    return text


def render(tps: TpsFile) -> str:
    """The file's text: every key that has a value, in fixed order, groups separated by empty lines.

    Raises:
        EngineInputError: A text cannot be written, or holds an unresolved ``{}`` or ``<>``; names the key.
    """
    lines: list[str] = []
    group: int | None = None
    for name, key in KEYS.items():
        value = getattr(tps, name)
        if value is None:
            continue
        if group is not None and key.group != group:
            lines.append("")
        group = key.group
        lines.append(f"{key.name} {_written(name, value)}")
    return "\n".join(lines) + "\n"


def _kind(name: str) -> Any:
    annotation = TpsFile.model_fields[name].annotation
    options = [part for part in get_args(annotation) if part is not NoneType]
    if get_origin(annotation) is Literal:
        return str
    if get_origin(annotation) is tuple:
        return tuple
    return options[0] if options else annotation


def parse_value(name: str, text: str) -> object:
    """The typed value of a field from its text in the file.

    Raises:
        EngineInputError: The text is no such value; names the key.
    """
    kind, key = _kind(name), KEYS[name].name
    if kind is str:
        return text
    if kind is bool:
        return _boolean(key, text)
    if kind is tuple:
        return tuple(_integer(key, part.strip()) for part in text.split(","))
    if kind is int:
        return _integer(key, text)
    try:
        return float(text)
    except ValueError as error:
        raise EngineInputError(f"{key}: not a number", where=_WHERE) from error


def _integer(key: str, text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise EngineInputError(f"{key}: not an integer (moqui would cut it off in silence)", where=_WHERE)
    return int(text)


def _boolean(key: str, text: str) -> bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text) != 0
    except ValueError as error:
        raise EngineInputError(f"{key}: neither true, false nor a number", where=_WHERE) from error


def validated(values: dict[str, object]) -> TpsFile:
    """The TPS file of these field values.

    Raises:
        EngineInputError: A required key is missing or a value is out of range; names the keys.
    """
    try:
        return TpsFile.model_validate(values)
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False, include_input=False):
            name = str(item["loc"][0]) if item["loc"] else ""
            if item["type"] == "missing":
                lines.append(f"required key {KEYS[name].name} is missing")
            else:
                lines.append(f"{KEYS[name].name}: {item['msg']}" if name in KEYS else item["msg"])
        raise EngineInputError("; ".join(lines), where=_WHERE) from error


def parse_tps(text: str) -> TpsFile:
    """Read a TPS file.

    Raises:
        EngineInputError: An unknown, repeated or missing key, a value that does not fit, or a line of
            blanks only (moqui crashes on it); the message names the key or the line.
    """
    values: dict[str, object] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if line and not line.strip():
            raise EngineInputError(f"line {number} holds only blanks", where=_WHERE)
        content = line.split("#", 1)[0].strip()
        if not content:
            continue
        key, *rest = content.split(maxsplit=1)
        name = _FIELD_OF.get(key.lower())
        if name is None:
            raise EngineInputError(f"key {key} on line {number} is unknown", where=_WHERE)
        if name in values:
            raise EngineInputError(f"key {KEYS[name].name} stands twice", where=_WHERE)
        if not rest:
            raise EngineInputError(f"key {KEYS[name].name} has no value", where=_WHERE)
        values[name] = parse_value(name, rest[0])
    return validated(values)


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
        name = _FIELD_OF.get(key.lower())
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
