"""The other parts of the settings, one per station of a beam's way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from mqi_dagster.settings.choices import CaseNames, DoseType, HandoverAccess, Ready, Samples, SummationType
from mqi_dagster.settings.gpus import DeclaredGpu
from mqi_dagster.settings.limits import MuRatioLimits
from mqi_dagster.settings.section import REMOTE_PATH, Count, Seconds, Section


class SiteSettings(Section):
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
    hu_tables: Path = Field(
        Path("config/hu"),
        description="HU tables of the CT scanners (`*.yaml`); without the folder, the packaged one.",
    )
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
    full_look_minutes: Annotated[float, Field(gt=0)] = Field(
        15.0,
        description="Every folder of the inbox is listed again after this time: a file of a concluded case "
        "that was written in place is noticed then, everything else at the next scan.",
    )
    max_folder_depth: Annotated[int, Field(ge=3, le=100)] = Field(
        32, description="Folders of the inbox that are nested deeper are refused."
    )
    max_record_mb: Annotated[int, Field(ge=1)] = Field(
        500,
        description="A file of the machine larger than this [10^6 bytes] is refused before it is read; "
        "a record grows by about 0.3 a second.",
    )
    sentinel: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] | None = Field(
        None,
        description="Name of a file that is always in the inbox: without it the inbox counts as not mounted. "
        "null: it does where it is empty and another folder than before.",
    )


class SiteCommand(Section):
    """A site's own program in place of a built-in conversion, called with the paths as arguments."""

    argv: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="Program and arguments; `{input}`-like placeholders are replaced: see Commands of a site."
    )
    timeout_seconds: Seconds = Field(600.0, description="The command is ended after this time.")


class Interpretation(MuRatioLimits):
    """Delivery records to the engine's CSVs."""

    samples: Samples = Field(
        Samples.BEAM_ON, description="`beam_on`: samples with both beam bits; `all`: every sample."
    )
    dose_dividing_factor: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Counts are divided by this before they are written."
    )
    plan_csv: bool = Field(False, description="Also write the planned beam's CSVs.")
    command: SiteCommand | None = Field(None, description="The site's own interpreter.")

    @model_validator(mode="before")
    @classmethod
    def _always_written(cls, content: Any) -> Any:
        if not isinstance(content, Mapping) or "log_csv" not in content:
            return content
        if content["log_csv"] is not True:
            raise ValueError("remove log_csv: the delivered beam's CSVs are always written")
        return {name: value for name, value in content.items() if name != "log_csv"}


LOCAL = "local"
"""This machine, wherever a stage may also be given the name of a host."""
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


class Execution(Section):
    """Where each stage runs, `local` or a name under `hosts`, and how much runs at once."""

    simulation: HostName = Field(
        LOCAL, description="Where engines run: `local`, or a host with `slurm` or `pull`."
    )
    gpu_monitoring: HostName = Field(
        LOCAL,
        description="Whose GPUs the sensor gpu_monitor looks at: `local`, a host (by nvidia-smi), or a host "
        "with `slurm` (by sinfo).",
    )
    gpus: tuple[DeclaredGpu, ...] = Field(
        (), description="GPUs of the pool, each with `index`, `uuid`, `memory_mb`; empty: all that NVML sees."
    )
    gpu_look_seconds: Seconds = Field(
        30.0, description="A sample of the GPUs older than this does not decide whether one is free."
    )
    max_runs: Count = Field(10, description="Dagster runs at once.")
    slots: Count = Field(
        1, description="Simulations, and segmentation models, at once on this machine without a GPU."
    )
    threads_per_slot: Annotated[int, Field(ge=0)] = Field(
        0, description="Processes of the embedded engine in a slot; 0: the cores divided by the slots."
    )
    pool_buffer: Annotated[int, Field(ge=0)] = Field(
        2, description="Runs allowed beyond the slots, so that conversions overlap simulations."
    )
    attempts: Count = Field(3, description="Engine failures after which a beam is given up.")
    retry_seconds: Seconds = Field(
        10.0,
        description="First wait before a run is tried again that lost infrastructure has ended; doubles.",
    )
    retry_maximum_seconds: Seconds = Field(600.0, description="Longest wait between two such tries.")
    heartbeat_seconds: Seconds = Field(5.0, description="How often a lease is renewed.")
    stale_seconds: Seconds = Field(60.0, description="A lease without renewal for this long is stale.")
    lease_poll_seconds: Seconds = Field(2.0, description="How often a waiting beam looks for a free slot.")

    @field_validator("gpus")
    @classmethod
    def _different_gpus(cls, value: tuple[DeclaredGpu, ...]) -> tuple[DeclaredGpu, ...]:
        if len({gpu.index for gpu in value}) != len(value) or len({gpu.uuid for gpu in value}) != len(value):
            raise ValueError("two GPUs have the same index or UUID")
        return value

    @model_validator(mode="after")
    def _stale_after_heartbeats(self) -> Self:
        if self.stale_seconds < 3 * self.heartbeat_seconds:
            raise ValueError("stale_seconds must be at least three times heartbeat_seconds")
        return self


class RtDose(Section):
    """Raw dose to DICOM RT Dose."""

    bits: Annotated[int, Field(multiple_of=16, ge=16, le=32)] = Field(
        16,
        description="Bits per pixel: 16 (steps of 0.0015 % of the maximum) or 32, which some readers refuse.",
    )
    summation_type: SummationType = Field(
        SummationType.BEAM_SESSION,
        description="`BEAM_SESSION` (one fraction of the beam), or `BEAM` for receivers that know only that.",
    )
    dose_type: DoseType = Field(DoseType.PHYSICAL, description="`PHYSICAL`, or `EFFECTIVE` (times `rbe`).")
    rbe: Annotated[float, Field(gt=0)] = Field(1.1, description="Constant RBE for `EFFECTIVE`.")
    command: SiteCommand | None = Field(None, description="The site's own converter.")


class Handover(Section):
    """Where results go."""

    target: HostName = Field(LOCAL, description="Where results go: `local`, or a host (by SFTP).")
    folder: Path = Field(
        Path("handover"), description="Target folder; on a host an absolute path in plain characters."
    )
    access: HandoverAccess = Field(
        HandoverAccess.OWNER,
        description="Who may read what is handed over: `owner`, or `group` as well; never everybody.",
    )
    group: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$")] | None = Field(
        None, description="That group (`access: group`, a folder of this machine); null: the account's own."
    )
    template: str = Field("<case>/<beam>/", description="Folder of a beam below the target.")
    max_runs: Count | None = Field(
        None, description="Runs at once that hand over to this target (run tag `mqi/upload`); null: any."
    )
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
            raise ValueError("the template must contain <beam> or <beam_number>: beams would collide")
        if "<case>" not in value:
            raise ValueError("the template must contain <case>: cases would overwrite each other")
        if value.startswith("/") or ".." in value.split("/"):
            raise ValueError("the template must stay below the target folder")
        if not value.isprintable():
            raise ValueError("the template must hold no control characters")
        return value

    @model_validator(mode="after")
    def _group_that_is_used(self) -> Self:
        if self.group is not None and self.access is not HandoverAccess.GROUP:
            raise ValueError("group names who may read: set access: group with it")
        if self.group is not None and self.target != LOCAL:
            raise ValueError(
                "on a host the target folder's own group counts (chmod g+s there): group is null"
            )
        return self

    @model_validator(mode="after")
    def _folder_on_a_host(self) -> Self:
        if self.target != LOCAL and not re.fullmatch(REMOTE_PATH, str(self.folder)):
            raise ValueError("folder on a host must be absolute, of two parts or more, in plain characters")
        return self


Origin = Annotated[str, Field(pattern=r"^https?://[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[0-9]{1,5})?$")]


class Ui(Section):
    """Dagster's pages."""

    host: str = Field("127.0.0.1", description="Address to listen on; there is no login on these pages.")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(3000, description="Port to listen on.")
    viewer_port: Annotated[int, Field(ge=1, le=65535)] = Field(
        3001, description="Port of `mqi service viewer`: the same pages, on which nothing can be changed."
    )
    prefix: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._-]+)*$",
        description="Path below which they are (`/dagster`), beside our own pages under one name.",
    )
    origins: tuple[Origin, ...] = Field(
        (),
        description="Addresses of a proxy in front of the pages (`https://mqi.example.org`): requests by any"
        " other name than those, this machine's loopback and addresses in digits are refused.",
    )

    @property
    def address(self) -> str:
        """Where a browser finds them."""
        return f"{self.origins[0] if self.origins else f'http://{self.host}:{self.port}'}{self.prefix}"
