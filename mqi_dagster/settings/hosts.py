"""Other machines: how to get there by SSH, and what of Slurm a cluster needs to be told; or who may ask.

Every value that reaches a shell or an ``#SBATCH`` line matches one of the patterns below, so that none can
hold a blank, a quote, a line break or anything else with a meaning there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from mqi_dagster.settings.choices import Keep
from mqi_dagster.settings.section import (
    REMOTE_PATH,
    VARIABLE_NAME,
    VARIABLE_VALUE,
    Count,
    Seconds,
    Section,
)

Port = Annotated[int, Field(ge=1, le=65535)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
"""A name of Slurm's: partition, account, QOS, user."""
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9:][A-Za-z0-9.:-]{0,252}$")]
RemotePath = Annotated[str, Field(pattern=f"^{REMOTE_PATH}$")]
Module = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+/-]{0,99}$")]
VariableValue = Annotated[str, Field(pattern=f"^{VARIABLE_VALUE}$")]
Resource = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:,-]{0,99}$")]
Argument = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,1000}$")]
Account = Annotated[str, Field(pattern=r"^[a-z][a-z0-9._@-]{0,99}$")]


class Login(Section):
    """How to log in to a machine."""

    host: HostName = Field(description="Name or address.")
    port: Port = Field(22, description="Port of its SSH server.")
    user: Word = Field(description="Account there.")
    key_file: Path = Field(description="Private key, mode 0600, without a passphrase.")
    known_hosts: Path = Field(description="Its host key in OpenSSH's form; no other key is accepted.")


class JumpHost(Login):
    """A machine through which the connection goes."""


class Retention(Section):
    """How long the folders of jobs stay on the cluster."""

    keep: Keep = Field(
        Keep.FAILED,
        description="`failed`: a job's folder goes once its dose is verified and published; `all`: it stays.",
    )
    failed_days: Annotated[float, Field(ge=0)] = Field(
        14.0, description="Days after which the folder of a job that failed goes (`keep: failed`)."
    )
    quota_gb: Annotated[float, Field(gt=0)] = Field(
        100.0, description="More than this below the root is an alarm (`quota`)."
    )


class Intervals(Section):
    """How often the cluster is asked, and how long its silences are believed."""

    poll_seconds: Seconds = Field(10.0, description="Least time between two polls of all jobs.")
    poll_maximum_seconds: Seconds = Field(30.0, description="Most, reached while nothing changes.")
    tail_seconds: Seconds = Field(5.0, description="How often a running engine's log is read.")
    result_wait_seconds: Seconds = Field(
        60.0, description="How long a completed job's result may be late (network file systems)."
    )
    absent_seconds: Seconds = Field(
        30.0, description="How long a job may be unknown everywhere before it counts as lost."
    )
    lost_seconds: Seconds = Field(
        120.0, description="How long only the accounting may believe in a job before it counts as lost."
    )
    unknown_submission_seconds: Seconds = Field(
        20.0, description="Wait after an unanswered sbatch: twice Slurm's MessageTimeout."
    )
    retry_seconds: Seconds = Field(2.0, description="First wait after a failed call; doubles each time.")
    retry_maximum_seconds: Seconds = Field(300.0, description="Longest wait between two tries.")
    alarm_seconds: Seconds = Field(
        600.0,
        description="An outage (`cluster_away`) or a held job (`jobs_held`) of this length is an alarm.",
    )


class Slurm(Section):
    """A Slurm cluster behind the host."""

    root: RemotePath = Field(description="Folder of all jobs, on storage that login and compute nodes share.")
    scratch: RemotePath | None = Field(
        None,
        description="Folder on the compute node in which an engine works; null: in its folder below root.",
    )
    slots: Count = Field(8, description="Jobs of this site at once: the slots of the pool.")
    partition: Word | None = Field(None, description="Partition; null: the cluster's default.")
    account: Word | None = Field(None, description="Account.")
    qos: Word | None = Field(None, description="Quality of service.")
    gres: Resource | None = Field(
        "gpu:1",
        description="Generic resources of a job (`--gres`); unless set, the engine's `gpus_per_beam` GPUs.",
    )
    gpus: Resource | None = Field(None, description="GPUs of a job (`--gpus`), in place of `gres`.")
    cpus: Count = Field(1, description="Cores of a job.")
    memory_mb: Count | None = Field(None, description="Memory of a job [MB]; doubled after a job ran out.")
    time_limit_minutes: Count | None = Field(
        None, description="Time limit of a job; null: `engine.timeout_seconds`. Doubled after a job hit it."
    )
    requeue: bool = Field(False, description="Let Slurm requeue jobs (for partitions that preempt).")
    modules: tuple[Module, ...] = Field((), description="Environment modules to load.")
    source: tuple[RemotePath, ...] = Field((), description="Scripts to source before the engine.")
    environment: dict[str, VariableValue] = Field(
        default_factory=dict, description="Variables to set for the engine."
    )
    engine_command: tuple[Argument, ...] | None = Field(
        None, description="The profile's command as it is called on the cluster; null: as in the profile."
    )
    engine_version_command: tuple[Argument, ...] | None = Field(
        None, description="The profile's version_command as it is called there; null: as in the profile."
    )
    model_command: tuple[Argument, ...] | None = Field(
        None,
        description="What runs a segmentation model there: a Python that has mqi-dagster[imaging], `-m`,"
        " `mqi_dagster.imaging.models.segment_job`.",
    )
    models: RemotePath | None = Field(
        None, description="The folder there with the models of `radiotherapy.custom_models.root`."
    )
    retention: Retention = Field(default_factory=lambda: Retention.model_validate({}))
    intervals: Intervals = Field(default_factory=lambda: Intervals.model_validate({}))

    @field_validator("environment")
    @classmethod
    def _variable_names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not re.fullmatch(VARIABLE_NAME, name):
                raise ValueError(f"{name!r} is no name of a variable")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.gpus is not None and self.gres is not None and "gres" in self.model_fields_set:
            raise ValueError("give gres or gpus, not both")
        if self.engine_command is not None and not any("{tps}" in part for part in self.engine_command):
            raise ValueError("engine_command must name the TPS file as {tps}")
        return self

    @property
    def wanted_gpus(self) -> tuple[str, str] | None:
        """Option of sbatch and value that ask for GPUs, None where none are asked for."""
        if self.gpus is not None:
            return "--gpus", self.gpus
        return None if self.gres is None else ("--gres", self.gres)

    @property
    def asks_by_default(self) -> bool:
        """Whether the site leaves it to the engine's profile how many GPUs a job asks for."""
        return self.gpus is None and "gres" not in self.model_fields_set

    @property
    def gpus_of_a_job(self) -> int:
        """How many GPUs a job asks for."""
        wanted = self.wanted_gpus
        if wanted is None:
            return 0
        option, resource = wanted
        parts = [part for part in resource.split(",") if option == "--gpus" or part.split(":")[0] == "gpu"]
        counts = [part.rpartition(":")[2] for part in parts]
        return sum(int(count) if count.isdigit() else 1 for count in counts)


class Pull(Section):
    """Workers that ask for jobs (`mqi-worker`), wherever they are and however few can reach them."""

    slots: Count = Field(
        8, description="Jobs at once, at work or waiting for a worker: the slots of the pool."
    )
    lease_seconds: Annotated[float, Field(ge=0.5, le=3600)] = Field(
        60.0, description="A worker that is not heard of for so long loses its job to the next one."
    )
    claims: Count = Field(3, description="A job that has cost so many workers their life has failed.")
    accounts: tuple[Account, ...] = Field(
        (), description="Accounts whose workers are given its jobs; none named: every one with the right."
    )
    folder: Path | None = Field(
        None,
        description="A mounted folder by which its jobs are given out, in place of HTTPS; where none stands"
        " here, that of the variable `INFERENCE_REQUEST_DIR`.",
    )
    largest_output_mb: Count = Field(8192, description="Largest output that a worker may send [MB].")
    keep_days: Annotated[float, Field(ge=0)] = Field(
        14.0, description="Days after which what a job that failed has left here goes."
    )
    alarm_seconds: Seconds = Field(
        600.0, description="A job for which no worker is there is an alarm after this time."
    )


class Host(Login):
    """A machine of another name, reached by SSH; or workers that nobody has to reach."""

    host: HostName = Field("-", description="Name or address; needed but for `pull`, as are the next four.")
    user: Word = Field("-", description="Account there: an ordinary one.")
    key_file: Path = Field(Path("-"), description="Private key, mode 0600, without a passphrase.")
    known_hosts: Path = Field(
        Path("-"), description="Its host key in OpenSSH's form; no other key is accepted."
    )
    jump: JumpHost | None = Field(None, description="A machine through which the connection goes.")
    connect_seconds: Seconds = Field(10.0, description="Limit for a connection to stand.")
    call_seconds: Seconds = Field(60.0, description="Limit for an answer to a command.")
    channels: Annotated[int, Field(ge=1, le=64)] = Field(
        6, description="Commands and transfers at once; fewer where the server allows fewer."
    )
    breaker_failures: Count = Field(5, description="Failed connections in a row after which none is tried.")
    breaker_seconds: Seconds = Field(60.0, description="... for this time.")
    slurm: Slurm | None = Field(None, description="The Slurm cluster behind it, where simulations run there.")
    pull: Pull | None = Field(None, description="Workers that ask for its jobs; nothing of SSH beside it.")

    @model_validator(mode="after")
    def _reached_or_asking(self) -> Self:
        login = {"host", "user", "key_file", "known_hosts"}
        if self.pull is None and (missing := sorted(login - self.model_fields_set)):
            raise ValueError(f"{', '.join(missing)}: needed of a host that is reached by SSH")
        if self.pull is not None and (beside := sorted(self.model_fields_set - {"pull"})):
            raise ValueError(f"{beside[0]}: a host with pull is not reached, so it has nothing beside it")
        return self
