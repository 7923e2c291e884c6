"""Engine profiles: how each Monte Carlo engine is called, what it reads, what it leaves behind."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from mqi_dagster.settings.choices import CsvDialect, OutputFormat
from mqi_dagster.settings.section import Section
from mqi_dagster.yaml_file import read_yaml

_PACKAGED = Path(__file__).parents[1] / "config" / "engines"


class EngineProfile(Section):
    """One Monte Carlo engine: how it is called, what it reads, what it leaves behind."""

    command: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="Program and arguments; `{tps}` is replaced by the path of the TPS file."
    )
    version_command: tuple[str, ...] | None = Field(None, description="Prints the engine's version.")
    version: str | None = Field(None, description="The engine's version where it cannot be asked.")
    csv_dialect: CsvDialect = Field(CsvDialect.ROWS, description="`rows` or `flat`.")
    output_format: OutputFormat = Field(OutputFormat.MHD, description="`raw` or `mhd` (with header).")
    output_child: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Index in the output's name `<beam>_<index>_<scorer>`; null: see engine.md.",
    )
    absolute_paths: bool = Field(True, description="`UseAbsolutePath` of the TPS file.")
    histories_scale_power: Annotated[int, Field(ge=0, le=2)] = Field(
        0, description="The raw dose is divided by ParticlesPerHistory to this power (engine.md)."
    )
    reports_histories: bool = Field(True, description="Prints `Total histories (Particles)`.")
    reads_beam_model: bool = Field(False, description="Reads the beam model of the machine file.")
    success_exit_codes: tuple[int, ...] = Field((0,), description="Exit codes worth looking at the output.")
    patient_ct: bool = Field(False, description="Can simulate in a patient CT given as DICOM.")
    needs_gpu: bool = Field(False, description="Whether it needs a GPU rather than a CPU slot.")
    gpus_per_beam: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="GPUs that simulate one beam together; above 1 its layers are spread over them."
    )
    gpu_memory_mb: Annotated[int, Field(ge=0)] = Field(
        0, description="Free memory that it needs on each GPU [MB]; 0: any. One with less is not free."
    )
    extra_keys: dict[str, str] = Field(
        default_factory=dict, description="Further keys of the TPS file for this engine, from the known ones."
    )

    @model_validator(mode="after")
    def _addressed(self) -> Self:
        if not any("{tps}" in part for part in self.command):
            raise ValueError("command must name the TPS file as {tps}")
        if not self.needs_gpu and (self.gpus_per_beam > 1 or self.gpu_memory_mb):
            raise ValueError("gpus_per_beam and gpu_memory_mb are of an engine with needs_gpu")
        return self


@cache
def built_in_profiles() -> dict[str, EngineProfile]:
    """The profiles that every site has, by name: a file each in `config/engines/`."""
    return {
        path.stem: EngineProfile.model_validate(read_yaml(path, f"engine profile {path.name}"))
        for path in sorted(_PACKAGED.glob("*.yaml"))
    }
