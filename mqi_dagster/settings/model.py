"""The settings as a whole: one YAML file, typed, without unknown keys.

Relative paths resolve against the folder of the file, never against the working directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.settings.alarms import AlarmSettings, Notifications
from mqi_dagster.settings.database import DatabaseSettings
from mqi_dagster.settings.engine import Engine
from mqi_dagster.settings.engine_profiles import EngineProfile
from mqi_dagster.settings.hosts import Host, Slurm
from mqi_dagster.settings.limits import DeliveryLimits
from mqi_dagster.settings.on_request import OnRequest
from mqi_dagster.settings.radiotherapy import Radiotherapy
from mqi_dagster.settings.retention import SiteRetention
from mqi_dagster.settings.section import Section
from mqi_dagster.settings.sections import (
    LOCAL,
    Execution,
    Handover,
    Intake,
    Interpretation,
    Paths,
    RtDose,
    SiteSettings,
    Ui,
)
from mqi_dagster.settings.web import Web
from mqi_dagster.yaml_file import problems, read_yaml

_Part = TypeVar("_Part", bound=Section)


class Settings(Section):
    """The settings of a site."""

    site: SiteSettings
    paths: Paths = Field(default_factory=lambda: Paths.model_validate({}))
    intake: Intake = Field(default_factory=lambda: Intake.model_validate({}))
    interpretation: Interpretation = Field(default_factory=lambda: Interpretation.model_validate({}))
    delivery_check: DeliveryLimits = Field(default_factory=lambda: DeliveryLimits.model_validate({}))
    engine: Engine = Field(default_factory=lambda: Engine.model_validate({}))
    execution: Execution = Field(default_factory=lambda: Execution.model_validate({}))
    rt_dose: RtDose = Field(default_factory=lambda: RtDose.model_validate({}))
    handover: Handover = Field(default_factory=lambda: Handover.model_validate({}))
    radiotherapy: Radiotherapy = Field(default_factory=lambda: Radiotherapy.model_validate({}))
    on_request: OnRequest = Field(default_factory=lambda: OnRequest.model_validate({}))
    database: DatabaseSettings = Field(default_factory=lambda: DatabaseSettings.model_validate({}))
    retention: SiteRetention = Field(default_factory=lambda: SiteRetention.model_validate({}))
    ui: Ui = Field(default_factory=lambda: Ui.model_validate({}))
    web: Web = Field(default_factory=lambda: Web.model_validate({}))
    alarms: AlarmSettings = Field(default_factory=lambda: AlarmSettings.model_validate({}))
    notifications: Notifications = Field(default_factory=lambda: Notifications.model_validate({}))
    hosts: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], Host] = Field(
        default_factory=dict, description="Other machines, by a name of the site."
    )

    @model_validator(mode="after")
    def _known_hosts(self) -> Self:
        host_names = {
            "execution.simulation": (self.execution.simulation, True),
            "execution.gpu_monitoring": (self.execution.gpu_monitoring, False),
            "handover.target": (self.handover.target, False),
            "radiotherapy.segmentation.host": (self.radiotherapy.segmentation.host, True),
            "on_request.host": (self.on_request.host, True),
            "on_request.laboratory": (self.on_request.laboratory or LOCAL, True),
        }
        if LOCAL in self.hosts:
            raise ValueError(f"no host can be called {LOCAL!r}: that is this machine")
        for key, (host_name, needs_slurm) in host_names.items():
            if host_name == LOCAL:
                continue
            if host_name not in self.hosts:
                raise ValueError(f"{key}: no host {host_name!r} stands under hosts")
            if needs_slurm and self.hosts[host_name].slurm is None:
                raise ValueError(f"{key}: the host {host_name!r} has no slurm section")
        for key in ("radiotherapy.segmentation.host", "on_request.host", "on_request.laboratory"):
            models = self.slurm_of(host_names[key][0])
            if models is not None and models[1].model_command is None:
                raise ValueError(f"{key}: its slurm section has no model_command")
        return self

    @model_validator(mode="after")
    def _gpus_of_a_beam(self) -> Self:
        host_name, wanted = self.execution.simulation, self.engine.in_use().gpus_per_beam
        cluster = self.slurm_of(host_name)
        if cluster is None:
            declared = len(self.execution.gpus)
            if 0 < declared < wanted:
                raise ValueError(
                    f"execution.gpus: {declared} declared, the engine's gpus_per_beam is {wanted}"
                )
        elif wanted > 1 and not cluster[1].asks_by_default and cluster[1].gpus_of_a_job != wanted:
            raise ValueError(
                f"hosts.{host_name}.slurm: gres or gpus ask for {cluster[1].gpus_of_a_job} GPUs,"
                f" the engine's gpus_per_beam is {wanted}"
            )
        return self

    def slurm_of(self, host_name: str) -> tuple[Host, Slurm] | None:
        """The cluster of a stage, None where it runs on this machine."""
        if host_name == LOCAL:
            return None
        host = self.hosts[host_name]
        if host.slurm is None:
            raise ConfigurationError(f"the host {host_name!r} has no slurm section")
        return host, host.slurm

    def engine_profile(self) -> EngineProfile:
        """The profile in use, with the commands as they are called where simulations run."""
        profile = self.engine.in_use()
        cluster = self.slurm_of(self.execution.simulation)
        if cluster is None:
            return profile
        slurm = cluster[1]
        return profile.model_copy(
            update={
                "command": slurm.engine_command or profile.command,
                "version_command": slurm.engine_version_command or profile.version_command,
            }
        )


def _resolved(settings: Settings, base: Path) -> Settings:
    """With absolute paths, and with as many GPUs for a job as a beam needs where the site says nothing."""
    name = settings.execution.simulation
    cluster = settings.slurm_of(name)
    if cluster is not None and cluster[1].asks_by_default:
        host, slurm = cluster
        slurm = slurm.model_copy(update={"gres": f"gpu:{settings.engine.in_use().gpus_per_beam}"})
        hosts = {**settings.hosts, name: host.model_copy(update={"slurm": slurm})}
        settings = settings.model_copy(update={"hosts": hosts})
    return _below(base, settings)


def _below(base: Path, section: _Part) -> _Part:
    """A section whose every path, however deep it stands, is absolute."""

    def placed(value: Any) -> Any:
        if isinstance(value, Path):
            return base / value
        if isinstance(value, dict):
            return {name: placed(one) for name, one in value.items()}
        return _below(base, value) if isinstance(value, Section) else value

    # What is not changed does not count as given (`Slurm.asks_by_default`).
    changed = {name: new for name, value in section if (new := placed(value)) is not value}
    return section.model_copy(update=changed)


def settings_problems(content: Any) -> list[str]:
    """Every wrong key of parsed YAML with what is wrong about it, empty where it fits the types."""
    try:
        Settings.model_validate(content)
    except ValidationError as error:
        return problems(error, Settings)
    return []


def parse_settings(content: Any, base: Path) -> Settings:
    """Settings from parsed YAML, with relative paths resolved against ``base``.

    Raises:
        ConfigurationError: A key is missing, unknown, or out of range; the message names it.
    """
    try:
        return _resolved(Settings.model_validate(content), base)
    except ValidationError as error:
        raise ConfigurationError("settings: " + "; ".join(problems(error, Settings))) from error


def read_content(path: Path) -> dict[str, Any]:
    """The YAML of a settings file, before its types are looked at.

    Raises:
        ConfigurationError: The file cannot be read, or is not YAML with keys.
    """
    content = read_yaml(path, f"settings file {path.name}")
    if not isinstance(content, dict):
        raise ConfigurationError(f"settings file {path.name} holds no keys")
    return content


def read_settings(path: Path) -> Settings:
    """Read a site's settings file.

    Raises:
        ConfigurationError: The file cannot be read, is not YAML, or does not fit the types.
    """
    return parse_settings(read_content(path), path.resolve().parent)
