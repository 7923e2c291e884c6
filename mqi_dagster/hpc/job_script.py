"""The script of a job: a few quoted values above a body that is the same for every job."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.execution.job import MARK, Job
from mqi_dagster.hpc.naming import JobFolder
from mqi_dagster.hpc.shell import script
from mqi_dagster.settings import VARIABLE_NAME, VARIABLE_VALUE, Slurm

INPUT = "input"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def job_script(job: Job, folder: JobFolder, slurm: Slurm, tps_name: str) -> bytes:
    """The script that runs a job's engine.

    Args:
        job: The job; `MARK` in its command stands for the engine's folder.
        folder: The job's folder on the cluster.
        slurm: The cluster.
        tps_name: The input in which `MARK` is replaced.

    Raises:
        ConfigurationError: A value holds a control character, or a variable one that a shell could mistake.
    """
    folders = sorted({str(PurePosixPath(name).parent) for name in job.outputs} - {"."})
    lines = [
        "#!/bin/bash",
        f"folder={_quoted(str(folder.path))}",
        f"key={_quoted(folder.key)}",
        f"scratch={_quoted(slurm.scratch or '')}",
        f"mark={_quoted(MARK)}",
        f"tps={_quoted(tps_name)}",
        f"argv=({_list(job.argv)})",
        f"outputs=({_list(job.outputs)})",
        f"folders=({_list(folders)})",
        f"good_codes=({_list([str(code) for code in job.success_exit_codes])})",
        *setup_lines(slurm, job.environment),
        "",
    ]
    return ("\n".join(lines) + script("modules") + script("job")).encode()


def setup_lines(slurm: Slurm, environment: Mapping[str, str] | None = None) -> list[str]:
    """The shell function `setup`: what an engine finds in its environment; needs the script `modules`.

    Raises:
        ConfigurationError: As `job_script`.
    """
    return [
        "setup() {",
        "  set +u",
        *(["  module_command"] if slurm.modules else []),
        *(f"  source {_quoted(path)} || return" for path in slurm.source),
        *(f"  module load {_quoted(name)} || return" for name in slurm.modules),
        *_exports({**(environment or {}), **slurm.environment}),
        "}",
    ]


def _exports(environment: Mapping[str, str]) -> list[str]:
    lines = []
    for name, value in sorted(environment.items()):
        if not (re.fullmatch(VARIABLE_NAME, name) and re.fullmatch(VARIABLE_VALUE, value)):
            raise ConfigurationError(f"the variable {name!r} holds a character that a job may not be given")
        lines.append(f"  export {name}={_quoted(value)}")
    return lines


def _list(values: Sequence[str]) -> str:
    return " ".join(_quoted(value) for value in values)


def _quoted(value: str) -> str:
    if _CONTROL.search(value):
        raise ConfigurationError("a value of the job's script holds a control character")
    return shlex.quote(value)
