"""What a worker is told by the computer that it runs on: a YAML file, and variables of the environment."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, model_validator

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.execution.work import LONGEST_WAIT_SECONDS, ProgramName, WorkerName
from mqi_dagster.settings.section import Count, Seconds, Section
from mqi_dagster.yaml_file import problems, read_yaml

PREFIX = "MQI_WORKER_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_OLD_NAMES = {
    "DEVICE": "device",
    "REQUEST_DIR": "folder",
    "INFERENCE_REQUEST_DIR": "folder",
    "POLL_INTERVAL": "wait_seconds",
    "MODEL_PATH": "models",
}
_REFUSED = {
    "ORTHANC_URL": "images come with the job, and results go back with it: this computer needs no PACS",
    "ORTHANC_USER": "see ORTHANC_URL",
    "ORTHANC_PASSWORD": "see ORTHANC_URL",
    "THRESHOLD": "the threshold of a model stands in its card (model.yaml)",
    "DJANGO_API_URL": f"the server is {PREFIX}SERVER, with a token of its own",
}
"""Names of the earlier worker that mean nothing here, and why."""


class WorkerProgram(Section):
    """What a program is on this computer."""

    command: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="Program and arguments; `{tps}` is the engine's input file, `{folder}` the job's folder."
    )
    version_command: tuple[str, ...] | None = Field(None, description="Prints its version.")


class Configuration(Section):
    """A worker."""

    server: Annotated[str, Field(pattern=r"^https?://[^\s?#@]+$")] | None = Field(
        None, description="Address of the site's own pages."
    )
    token_file: Path | None = Field(None, description="File with the token of the server, mode 0600.")
    ca_file: Path | None = Field(None, description="Certificates of a clinic's own authority (PEM).")
    allow_http: bool = Field(False, description="Send token and images to another machine unencrypted.")
    folder: Path | None = Field(None, description="A folder shared with the server, in place of the address.")
    name: WorkerName = Field(
        default_factory=lambda: re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:63],
        description="Of this worker, one of its own.",
    )
    work: Path = Field(Path("/var/lib/mqi-worker"), description="Folder of its jobs.")
    device: Literal["auto", "gpu", "cpu"] = Field(
        "auto", description="`auto`: the GPUs, where there are any."
    )
    without_gpu: Literal["cpu", "refuse"] = Field(
        "cpu", description="Where `device` is `gpu` and there is none."
    )
    gpus: tuple[str, ...] = Field((), description="UUIDs of the GPUs to use; none named: all.")
    slots: Count = Field(1, description="Jobs at once on the processor; on GPUs it is one each.")
    threads: Count | None = Field(None, description="Of a job; null: its share of the processors.")
    models: Path | None = Field(None, description="Folder of models, a folder with a `model.yaml` each.")
    programs: dict[ProgramName, WorkerProgram] = Field(
        default_factory=dict, description="`engine`, and others; `segment` is there with the extra `imaging`."
    )
    drain: Literal["finish", "release"] = Field(
        "finish", description="At SIGTERM: finish the jobs at work, or give them back."
    )
    wait_seconds: Annotated[float, Field(gt=0, le=LONGEST_WAIT_SECONDS)] = Field(
        25.0, description="How long one question for work waits at the server."
    )
    call_seconds: Seconds = Field(30.0, description="Longest silence of the server within a call.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.server is None) == (self.folder is None):
            raise ValueError("server or folder: one of the two")
        if self.server is not None and self.token_file is None:
            raise ValueError("token_file: the server asks for a token")
        host = urlsplit(self.server or "").hostname
        if (self.server or "").startswith("http:") and host not in _LOOPBACK and not self.allow_http:
            raise ValueError("server: to another machine https, or allow_http where its network is trusted")
        return self


def read_configuration(path: Path | None, environment: Mapping[str, str]) -> Configuration:
    """A worker's configuration: what stands in its file, and in the environment before it.

    Raises:
        ConfigurationError: A key or a variable is missing, unknown or out of range; the message names it.
    """
    content: Any = {} if path is None else read_yaml(path, "the worker's configuration") or {}
    if not isinstance(content, dict):
        raise ConfigurationError("the worker's configuration holds no keys")
    content = {**content, **_of_environment(environment)}
    try:
        found = Configuration.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError("; ".join(problems(error, Configuration, "the worker"))) from None
    base = Path.cwd() if path is None else path.resolve().parent
    placed = {name: base / value for name, value in found if isinstance(value, Path)}
    return found.model_copy(update=placed)


def _of_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, reason in _REFUSED.items():
        if environment.get(name):
            raise ConfigurationError(f"{name} is set, and means nothing here: {reason}. Remove it")
    for name, field in _OLD_NAMES.items():
        if value := environment.get(name):
            given[field] = _old(name, value)
    for name, value in environment.items():
        if name.startswith(PREFIX) and name != CONFIG_VARIABLE and value:
            field = name.removeprefix(PREFIX).lower()
            given[field] = value.split(",") if field == "gpus" else value
    return given


def _old(name: str, value: str) -> Any:
    """A value of the earlier worker in today's words."""
    if name == "DEVICE":
        return "gpu" if value.split(":")[0] == "cuda" else value
    if name == "POLL_INTERVAL":
        return str(min(float(value), LONGEST_WAIT_SECONDS)) if re.fullmatch(r"[0-9.]+", value) else value
    if name == "MODEL_PATH" and not Path(value).is_dir():
        raise ConfigurationError(
            "MODEL_PATH names a file: here it is the folder of models, each a folder with its weights and a"
            " model.yaml that says how they are run"
        )
    return value
