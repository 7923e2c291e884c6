"""One beam's job as its engine sees it: what it is given, what has to come back, and under which names."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mqi_dagster.engine_contract.tps_keys import TpsFile
from mqi_dagster.errors import EngineInputError, InfrastructureError, Where
from mqi_dagster.settings import EngineProfile

TPS_NAME = "moqui_tps.in"
VIEW_NAME = "view.json"
BEAM_MODEL_NAME = "Log_csv/beam_model.json"
OUTPUT_FOLDER = "Dose"

_BOX_CHILD = 1
_PLANE_CHILD = 2
_FIELD_NUMBER = re.compile(r"\d+G\d{3}")
_WHERE = Where(kind="engine input")
_START_MARK = ".started"


class JobView(BaseModel):
    """One beam as its engine sees it, and what has to come back."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    directory: Path
    beam_name: str
    tps: TpsFile
    manifest: dict[str, str]
    """SHA-256 of every input by path relative to ``directory``."""
    argv: tuple[str, ...]
    box_stem: str | None
    """Output file without suffix of the 3-D dose, if the engine leaves one."""
    plane_stem: str | None
    """The same for the plane of 2 cm mode."""
    with_header: bool
    """Whether each output has an ``.mhd`` beside its ``.raw``."""
    protons: float
    particles_per_history: float
    expected_histories: float
    dose_factor: float
    """Raw values times this are the dose of all ``protons``."""

    @property
    def tps_path(self) -> Path:
        """The TPS file."""
        return self.directory / TPS_NAME

    @property
    def outputs(self) -> tuple[str, ...]:
        """Wanted outputs, relative to ``directory``."""
        suffixes = (".mhd", ".raw") if self.with_header else (".raw",)
        stems = [stem for stem in (self.box_stem, self.plane_stem) if stem is not None]
        return tuple(f"{OUTPUT_FOLDER}/{stem}{suffix}" for stem in stems for suffix in suffixes)


def engine_beam_name(name: str) -> str:
    """A beam's name as every engine can make files of it: its own, wherever it can be one.

    '/' and control characters become '_', as do a '.', '-' or blank at the beginning and a blank at the end.

    Raises:
        EngineInputError: It is empty.
    """
    if not name:
        raise EngineInputError("the beam has no name, and the engine names its output by it", where=_WHERE)
    return re.sub(r"[/\x00-\x1f\x7f]|^[.\-\s]|\s$", "_", name)


def log_folder_name(beam_name: str) -> str:
    """The folder of a beam's CSVs: the sanitised name, or the raw one where only that is found by it."""
    sanitised = re.sub(r"[^A-Za-z0-9_-]", "_", beam_name)
    by_number = _FIELD_NUMBER.search(beam_name)
    by_folder = _FIELD_NUMBER.search(sanitised)
    if by_number and by_folder and by_number[0] == by_folder[0]:
        return sanitised
    return sanitised if sanitised == beam_name else beam_name


def output_stems(name: str, profile: EngineProfile, tps: TpsFile) -> tuple[str | None, str | None]:
    """Stems of the 3-D dose and of the plane: `<BeamName>_<child>_<scorer>` (docs/formats.md 9).

    moqui leaves only the plane in 2 cm mode; the embedded engine leaves both.
    """
    box, plane = f"{name}_{_BOX_CHILD}_{tps.scorer}", f"{name}_{_PLANE_CHILD}_{tps.scorer}"
    if profile.output_child is not None:
        only = f"{name}_{profile.output_child}_{tps.scorer}"
        return (None, only) if tps.two_centimeter_mode else (only, None)
    if not tps.two_centimeter_mode:
        return box, None
    return (box, plane) if profile.reads_beam_model else (None, plane)


def mark_start(view: JobView) -> int:
    """The time before which no output of this start can be [ns], by the clock of the folder's file system.

    Raises:
        InfrastructureError: The folder cannot be written.
    """
    mark = view.directory / _START_MARK
    try:
        mark.write_bytes(b"")
        return mark.stat().st_mtime_ns
    except OSError as error:
        raise disk_error("written", error) from error


def disk_error(done: str, error: OSError) -> InfrastructureError:
    """The error of a work folder that cannot be read or written, without its path."""
    return InfrastructureError(f"the work folder cannot be {done}: {error.strerror}", where=_WHERE)
