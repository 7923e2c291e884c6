"""Slurm's commands, each safe to repeat: submit or find a job, cancel it, ask what the cluster is like."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mqi_dagster.errors import UnreachableError
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.errors import (
    DiskFullError,
    RemoteCommandError,
    SchedulerUnavailableError,
    SubmitRejectedError,
)
from mqi_dagster.hpc.naming import JobFolder, checked_job_id, checked_name
from mqi_dagster.hpc.shell import Answer, is_full, require, run, run_script
from mqi_dagster.settings import Slurm

_UNKNOWN = 75
_NO_FOLDER = 3
_AWAY = re.compile(
    r"Unable to contact|Socket timed out|temporarily unable|Zero Bytes|Connection refused|Connection reset"
    r"|Munge|authentication|Problem talking to the database|Slurm temporarily"
    r"|Resource temporarily unavailable"
    r"|Transport endpoint|Slurm backup controller|Controller is in standby|Unexpected message received"
    r"|failure to send|Message receive failure",
    re.IGNORECASE,
)
_LIMIT = re.compile(r"violates accounting/QOS policy", re.IGNORECASE)
"""Most often as many jobs as the account may submit: it goes away when some of them have ended."""
_REJECTED = re.compile(r"(?:sbatch: )?error: (?:Batch job submission failed: )?(.*)")
_GRES_GPUS = re.compile(r"gpu(?::[A-Za-z0-9_.-]+)?:(\d+)")
_GRES_INDICES = re.compile(
    r"gpu(?::[A-Za-z0-9_.-]+)?:\d+\(IDX:([0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*)\)"
)
JOB_SCRIPT = "job.sh"


def options_of(
    slurm: Slurm, timeout_seconds: float, *, memory_factor: int = 1, time_factor: int = 1
) -> list[str]:
    """The options of sbatch for a job; every value has passed the settings' allow-lists.

    Args:
        slurm: The cluster.
        timeout_seconds: How long the engine may run, where the cluster's settings do not say it.
        memory_factor: How much more memory than the settings say.
        time_factor: How much more time.
    """
    minutes = slurm.time_limit_minutes or math.ceil(timeout_seconds / 60)
    options = [
        "--export=NIL",
        "--open-mode=append",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={slurm.cpus}",
        f"--time={minutes * time_factor}",
        "--requeue" if slurm.requeue else "--no-requeue",
    ]
    if slurm.memory_mb is not None:
        options.append(f"--mem={slurm.memory_mb * memory_factor}M")
    for name, value in (("partition", slurm.partition), ("account", slurm.account), ("qos", slurm.qos)):
        if value is not None:
            options.append(f"--{name}={value}")
    if slurm.wanted_gpus is not None:
        options.append("=".join(slurm.wanted_gpus))
    return options


def submit(
    connection: Connection, folder: JobFolder, name: str, retired: Sequence[str], options: Sequence[str]
) -> str:
    """Submit the job of a staged folder, or find the one that was submitted before.

    Args:
        connection: To the cluster.
        folder: The job's folder; its key is the job's comment.
        name: The job's name in the queue.
        retired: Ids of earlier jobs of this key that ended without a verdict.
        options: For sbatch.

    Returns:
        The job's id.

    Raises:
        UnreachableError: No answer: the job may have been submitted; asking again finds it.
        SubmitRejectedError: Slurm does not take it.
    """
    found = _ask(connection, folder, name, retired, "submit", [*options, JOB_SCRIPT])
    if not found:
        raise SubmitRejectedError("sbatch has given no job id")
    return checked_job_id(found)


def find(connection: Connection, folder: JobFolder, name: str, retired: Sequence[str]) -> str | None:
    """The id of the job of a folder, None where none was ever submitted.

    Raises:
        UnreachableError: No answer: nothing is known.
        RemoteCommandError: Something is wrong with the folder: nothing is known either.
    """
    try:
        return _ask(connection, folder, name, retired, "find", ()) or None
    except RemoteCommandError as error:
        if error.exit_code != _NO_FOLDER:
            raise
        # Without the folder there was never a job in it.
        return None


def _ask(
    connection: Connection,
    folder: JobFolder,
    name: str,
    retired: Sequence[str],
    mode: str,
    options: Sequence[str],
) -> str:
    ids = f",{','.join(checked_job_id(one) for one in retired)},"
    answer = run_script(
        connection,
        "submit",
        str(folder.path),
        checked_name(name, "a job's name"),
        folder.key,
        ids,
        mode,
        *options,
    )
    words = _require(answer, "submitting failed").text.split()
    return words[-1] if words else ""


def _require(answer: Answer, what: str) -> Answer:
    """The answer of a command of Slurm that has to succeed; tells why one did not as far as Slurm says it."""
    if answer.exit_code == 0:
        return answer
    said = answer.err.decode("utf-8", "replace")
    if is_full(answer):
        raise DiskFullError("the disk or quota of the jobs' folders is full")
    if answer.exit_code == _UNKNOWN or _AWAY.search(said):
        raise SchedulerUnavailableError(f"the scheduler does not answer: {answer.complaint}")
    reasons = _REJECTED.findall(answer.complaint)
    if _LIMIT.search(said):
        words = "; ".join(reasons) or answer.complaint
        raise UnreachableError(f"a limit of the account or QOS is reached: {words}")
    if "sbatch" in said and reasons:
        raise SubmitRejectedError(f"Slurm does not take the job: {'; '.join(reasons)}")
    return require(answer, what)


def cancel(connection: Connection, job_id: str, name: str, key: str) -> None:
    """Cancel a job, if the id is still that of the job of this name and comment.

    Raises:
        UnreachableError: No answer.
    """
    _require(run_script(connection, "cancel", checked_job_id(job_id), name, key), "cancelling failed")


@dataclass(frozen=True, slots=True)
class NodeGpus:
    """The GPUs of one node as Slurm sees them."""

    node: str
    state: str
    total: int
    used: int
    indices: tuple[int, ...] = ()
    """Which of them jobs have, as far as Slurm tells."""

    def allocated(self, index: int) -> bool | None:
        """Whether a job has this one; None where Slurm tells only how many are taken."""
        if len(self.indices) == self.used:
            return index in self.indices
        return True if self.used >= self.total else None


def gpus_of(connection: Connection, slurm: Slurm) -> list[NodeGpus]:
    """The GPUs of the partition that jobs go to, by node.

    Raises:
        UnreachableError: No answer.
        RemoteCommandError: sinfo fails.
    """
    argv = ["sinfo", "-h", "-N", "-O", "NodeList:100,StateLong:30,Gres:200,GresUsed:200"]
    if slurm.partition is not None:
        argv.append(f"--partition={slurm.partition}")
    answer = _require(run(connection, argv), "sinfo fails")
    found: dict[str, NodeGpus] = {}
    for line in answer.text.splitlines():
        fields = line.split()
        if len(fields) == 4:
            node, state, gres, used = fields
            found[node] = NodeGpus(node, state, _gpus(gres), _gpus(used), _indices(used))
    return [found[name] for name in sorted(found)]


def _gpus(gres: str) -> int:
    return sum(int(number) for number in _GRES_GPUS.findall(gres))


def _indices(gres: str) -> tuple[int, ...]:
    spans = [span.split("-") for held in _GRES_INDICES.findall(gres) for span in held.split(",")]
    return tuple(index for span in spans for index in range(int(span[0]), int(span[-1]) + 1))


def scheduler_facts(connection: Connection) -> dict[str, str]:
    """What `mqi doctor` looks at of the cluster's configuration, by Slurm's own names.

    Raises:
        UnreachableError: No answer.
        RemoteCommandError: scontrol fails.
    """
    answer = _require(run(connection, ["scontrol", "show", "config"]), "scontrol fails")
    pairs = (line.partition("=") for line in answer.text.splitlines())
    return {name.strip(): value.strip() for name, mark, value in pairs if mark}
