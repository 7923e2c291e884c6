"""The site's configuration: one YAML file, typed, without unknown keys.

Relative paths resolve against the folder of the file, never against the working directory.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mqi_dagster.errors import ConfigurationError

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of the settings: immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CaseNames(StrEnum):
    """How a case is called."""

    PSEUDONYM = "pseudonym"
    FOLDER = "folder"


class Ready(StrEnum):
    """When an arrival counts as complete."""

    MARKER = "marker"
    STABLE = "stable"


class CsvDialect(StrEnum):
    """How the engine wants its CSVs: a row per sample, or all samples in one line."""

    ROWS = "rows"
    FLAT = "flat"


class Samples(StrEnum):
    """Which samples of a record become protons."""

    BEAM_ON = "beam_on"
    ALL = "all"


class OutputFormat(StrEnum):
    """What the engine writes."""

    RAW = "raw"
    MHD = "mhd"


class DoseType(StrEnum):
    """DICOM Dose Type of the RT Dose."""

    PHYSICAL = "PHYSICAL"
    EFFECTIVE = "EFFECTIVE"


class Site(Section):
    """Who and where this installation is."""

    name: str = Field("MQI site", description="Shown on pages and in hand-over summaries.")
    timezone: str = Field(description="IANA name of the zone in which the machines write their times.")
    case_names: CaseNames = Field(
        CaseNames.PSEUDONYM,
        description="`pseudonym` (keyed hash of the plan's UID) or `folder` (the arrival's folder name).",
    )
    secret_file: Path = Field(
        Path("secret"), description="Key of the pseudonyms, mode 0600. Losing it renames all cases."
    )

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"{value!r} is no IANA time zone") from error
        return value


class Paths(Section):
    """Folders of the site."""

    inbox: Path = Field(Path("inbox"), description="Where plans and deliveries arrive. Never written to.")
    data: Path = Field(Path("data"), description="The store: results by case, beam, asset and digest.")
    state: Path = Field(Path("state"), description="Ledger, work folders and logs.")
    machines: Path = Field(Path("config/machines"), description="The machine files (`*.yaml`).")
    dagster_home: Path = Field(Path("dagster"), description="Dagster's own instance folder.")


class Intake(Section):
    """When an arrival is taken."""

    ready: Ready = Field(Ready.STABLE, description="`marker` waits for a file, `stable` for quiet files.")
    marker: str = Field(
        "_CASE_READY", pattern=r"^[A-Za-z0-9._-]+$", description="Name of the marker file (`ready: marker`)."
    )
    stable_seconds: Annotated[float, Field(ge=0)] = Field(
        60.0, description="How long nothing may have changed (`ready: stable`)."
    )
    fraction_window_minutes: Annotated[float, Field(gt=0)] = Field(
        60.0, description="Deliveries within this time of a fraction's first one belong to it."
    )
    scan_interval_seconds: Annotated[int, Field(ge=1)] = Field(30, description="How often the sensors look.")


class SiteCommand(Section):
    """A site's own program in place of a built-in conversion, called with the paths as arguments."""

    argv: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="Program and arguments; `{input}`-like placeholders are replaced, see docs/settings.md."
    )
    timeout_seconds: Seconds = Field(600.0, description="The command is ended after this time.")


class Interpretation(Section):
    """Delivery records to the engine's CSVs."""

    samples: Samples = Field(
        Samples.BEAM_ON, description="`beam_on`: samples with both beam bits; `all`: every sample."
    )
    dose_dividing_factor: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Counts are divided by this before they are written."
    )
    log_csv: bool = Field(True, description="Write the delivered beam's CSVs (needed for simulation).")
    plan_csv: bool = Field(False, description="Also write the planned beam's CSVs.")
    mu_ratio_minimum: float = Field(0.9, description="Least logged/planned MU of a beam.")
    mu_ratio_maximum: float = Field(1.1, description="Greatest logged/planned MU of a beam.")
    command: SiteCommand | None = Field(None, description="The site's own interpreter.")

    @model_validator(mode="after")
    def _something_to_write(self) -> Self:
        if not (self.log_csv or self.plan_csv):
            raise ValueError("log_csv and plan_csv are both off: at least one must be on")
        if self.mu_ratio_minimum >= self.mu_ratio_maximum:
            raise ValueError("mu_ratio_minimum must be below mu_ratio_maximum")
        return self


class Phantom(Section):
    """The water phantom and scoring grid, in the engine's frame (beam along -z), in whole mm."""

    two_centimeter_mode: bool = Field(
        True, description="Water surface 20 mm above the isocentre; the plane at 20 mm depth is scored too."
    )
    dimension: tuple[Count, Count, Count] = Field((200, 200, 200), description="Voxels in x, y, z.")
    unit_mm: tuple[Count, Count, Count] = Field((2, 2, 2), description="Voxel size in x, y, z [mm].")
    position_mm: tuple[int, int, int] = Field(
        (-200, -200, -379), description="Lower edge of the grid in x, y, z [mm]."
    )


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
        description="Index in the output's name `<beam>_<index>_<scorer>`; null: see docs.",
    )
    absolute_paths: bool = Field(True, description="`UseAbsolutePath` of the TPS file.")
    histories_scale_power: Annotated[int, Field(ge=0, le=2)] = Field(
        0, description="The raw dose is divided by ParticlesPerHistory to this power (physics.md 5)."
    )
    reports_histories: bool = Field(True, description="Prints `Total histories (Particles)`.")
    reads_beam_model: bool = Field(False, description="Reads the beam model of the machine file.")
    success_exit_codes: tuple[int, ...] = Field(
        (0,), description="Exit codes worth looking at the output."
    )
    patient_ct: bool = Field(False, description="Can simulate in a patient CT given as DICOM.")
    needs_gpu: bool = Field(False, description="Whether it needs a GPU rather than a CPU slot.")
    extra_keys: dict[str, str] = Field(
        default_factory=dict, description="Further keys of the TPS file for this engine, from the known ones."
    )

    @model_validator(mode="after")
    def _addressed(self) -> Self:
        if not any("{tps}" in part for part in self.command):
            raise ValueError("command must name the TPS file as {tps}")
        return self


def built_in_profiles() -> dict[str, EngineProfile]:
    """The profiles every site has: the embedded engine and moqui as its public forks behave."""
    return {
        "embedded": EngineProfile(
            command=("mqi-engine", "{tps}"),
            version_command=("mqi-engine", "--version"),
            reads_beam_model=True,
            patient_ct=True,
        ),
        "moqui": EngineProfile(
            command=("moqui_SMC", "{tps}"),
            version="unknown",
            csv_dialect=CsvDialect.FLAT,
            output_format=OutputFormat.RAW,
            histories_scale_power=2,
            needs_gpu=True,
        ),
    }


class Embedded(Section):
    """The embedded engine (MCsquare)."""

    shards: Count = Field(
        4, description="Independent single-thread parts of a simulation; fixed, so that results repeat."
    )
    cache: Path | None = Field(
        None, description="Where the engine is unpacked; null: user cache."
    )


class Engine(Section):
    """The Monte Carlo simulation."""

    profile: str = Field("embedded", description="Name of the engine profile in use.")
    histories: Annotated[float, Field(ge=1000, le=1e11)] = Field(
        1e6, description="Histories per beam; sets ParticlesPerHistory."
    )
    seed: int = Field(-1932780356, ge=-(2**31), lt=2**31, description="RandomSeed of the TPS file.")
    histories_per_batch: Count = Field(10_000_000, description="MaxHistoriesPerBatch of the TPS file.")
    timeout_seconds: Seconds = Field(14_400.0, description="The engine is ended after this time.")
    uncertainty_maximum_percent: Annotated[float, Field(gt=0)] = Field(
        30.0, description="Greatest mean uncertainty above half of the maximum dose."
    )
    phantom: Phantom = Field(default_factory=lambda: Phantom.model_validate({}))
    embedded: Embedded = Field(default_factory=lambda: Embedded.model_validate({}))
    profiles: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], EngineProfile] = Field(
        default_factory=dict, description="Further profiles, or changes of the built-in ones as a whole."
    )

    def in_use(self) -> EngineProfile:
        """The profile that simulations use."""
        return {**built_in_profiles(), **self.profiles}[self.profile]

    @model_validator(mode="after")
    def _known_profile(self) -> Self:
        known = {**built_in_profiles(), **self.profiles}
        if self.profile not in known:
            raise ValueError(f"profile {self.profile!r} is unknown (known: {', '.join(sorted(known))})")
        return self


class Execution(Section):
    """How much runs at once on this machine."""

    max_runs: Count = Field(10, description="Dagster runs at once.")
    slots: Count = Field(1, description="Simulations at once on this machine without a GPU.")
    threads_per_slot: Annotated[int, Field(ge=0)] = Field(
        0, description="Processes of the embedded engine in a slot; 0: the cores divided by the slots."
    )
    pool_buffer: Annotated[int, Field(ge=0)] = Field(
        2, description="Runs allowed beyond the slots, so that conversions overlap simulations."
    )
    attempts: Count = Field(3, description="Engine failures after which a beam is given up.")
    heartbeat_seconds: Seconds = Field(5.0, description="How often a lease is renewed.")
    stale_seconds: Seconds = Field(60.0, description="A lease without renewal for this long is stale.")
    lease_poll_seconds: Seconds = Field(2.0, description="How often a waiting beam looks for a free slot.")

    @model_validator(mode="after")
    def _stale_after_heartbeats(self) -> Self:
        if self.stale_seconds < 3 * self.heartbeat_seconds:
            raise ValueError("stale_seconds must be at least three times heartbeat_seconds")
        return self


class RtDose(Section):
    """Raw dose to DICOM RT Dose."""

    bits: Annotated[int, Field(multiple_of=16, ge=16, le=32)] = Field(
        32, description="Bits per pixel: 16 or 32."
    )
    dose_type: DoseType = Field(DoseType.PHYSICAL, description="`PHYSICAL`, or `EFFECTIVE` (times `rbe`).")
    rbe: Annotated[float, Field(gt=0)] = Field(1.1, description="Constant RBE for `EFFECTIVE`.")
    command: SiteCommand | None = Field(None, description="The site's own converter.")


class Handover(Section):
    """Where results go."""

    folder: Path = Field(Path("handover"), description="Target folder.")
    template: str = Field("<case>/<beam>/", description="Folder of a beam below the target.")
    raw_dose: bool = Field(False, description="Also hand over the raw dose.")
    tps_file: bool = Field(False, description="Also hand over the TPS file.")
    csv: bool = Field(False, description="Also hand over the interpreted CSVs.")

    @field_validator("template")
    @classmethod
    def _safe_template(cls, value: str) -> str:
        rest = value.replace("<case>", "").replace("<beam>", "").replace("<beam_number>", "")
        if "<" in rest or ">" in rest:
            raise ValueError("known placeholders are <case>, <beam> and <beam_number>")
        if "<beam>" not in value and "<beam_number>" not in value:
            raise ValueError(
                "the template must contain <beam> or <beam_number>: beams would collide"
            )
        if "<case>" not in value:
            raise ValueError("the template must contain <case>: cases would overwrite each other")
        if value.startswith("/") or ".." in value.split("/"):
            raise ValueError("the template must stay below the target folder")
        return value


class Ui(Section):
    """Dagster's pages."""

    host: str = Field("127.0.0.1", description="Address to listen on; there is no login on these pages.")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(3000, description="Port to listen on.")


class Settings(Section):
    """The settings of a site."""

    site: Site
    paths: Paths = Field(default_factory=lambda: Paths.model_validate({}))
    intake: Intake = Field(default_factory=lambda: Intake.model_validate({}))
    interpretation: Interpretation = Field(default_factory=lambda: Interpretation.model_validate({}))
    engine: Engine = Field(default_factory=lambda: Engine.model_validate({}))
    execution: Execution = Field(default_factory=lambda: Execution.model_validate({}))
    rt_dose: RtDose = Field(default_factory=lambda: RtDose.model_validate({}))
    handover: Handover = Field(default_factory=lambda: Handover.model_validate({}))
    ui: Ui = Field(default_factory=lambda: Ui.model_validate({}))


def _absolute(settings: Settings, base: Path) -> Settings:
    def below(path: Path) -> Path:
        return path if path.is_absolute() else base / path

    paths = {name: below(value) for name, value in settings.paths}
    cache = settings.engine.embedded.cache
    embedded = settings.engine.embedded.model_copy(update={"cache": None if cache is None else below(cache)})
    return settings.model_copy(
        update={
            "site": settings.site.model_copy(update={"secret_file": below(settings.site.secret_file)}),
            "paths": settings.paths.model_copy(update=paths),
            "engine": settings.engine.model_copy(update={"embedded": embedded}),
            "handover": settings.handover.model_copy(update={"folder": below(settings.handover.folder)}),
        }
    )


def parse_settings(content: Any, base: Path) -> Settings:
    """Settings from parsed YAML, with relative paths resolved against ``base``.

    Raises:
        ConfigurationError: A key is missing, unknown, or out of range; the message names it.
    """
    try:
        return _absolute(Settings.model_validate(content), base)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc']) or 'settings'}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigurationError("settings: " + "; ".join(lines)) from error


def read_settings(path: Path) -> Settings:
    """Read a site's settings file.

    Raises:
        ConfigurationError: The file cannot be read, is not YAML, or does not fit the types.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"settings file {path.name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"settings file {path.name} holds no keys")
    return parse_settings(content, path.resolve().parent)
