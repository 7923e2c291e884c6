"""The program of a job that runs one model: ``python -m mqi_dagster.imaging.models.segment_job``.

Its working directory is the job's folder; see `job_files`.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType

from mqi_dagster.errors import MqiError, Retry
from mqi_dagster.imaging.models.card import PACKAGED_MODELS, Model, find_models
from mqi_dagster.imaging.models.job_files import FAILED, INPUTS, OUTPUTS, JobFailure, ModelJob, read_job
from mqi_dagster.imaging.models.model_errors import ModelCardError, ModelError, ModelTimeoutError
from mqi_dagster.imaging.models.running import RunOptions
from mqi_dagster.imaging.models.segment import segment
from mqi_dagster.processes.causes import Cause, cause_of_exception, cause_of_exit, cause_of_text


def main() -> int:
    """Run the model of the working directory."""
    # A program that it has started is ended by what this raises.
    signal.signal(signal.SIGTERM, _stop)
    folder = Path.cwd()
    try:
        job = read_job(folder)
        (folder / OUTPUTS).mkdir(exist_ok=True)
        options = RunOptions(**job.options.model_dump())
        if options.device == "gpu" and options.gpu is None:
            # On a cluster the scheduler says which one it is.
            options = replace(options, gpu=os.environ.get("CUDA_VISIBLE_DEVICES"))
        segment(model_of(job), folder / INPUTS, folder / OUTPUTS, options)
    except (MqiError, MemoryError) as error:
        print_failure(error)
        return FAILED
    return 0


def model_of(job: ModelJob) -> Model:
    """The model of a job, as it is where the job runs.

    Raises:
        ModelCardError: There is none of its name that can be used, or it is another one.
    """
    found = find_models([PACKAGED_MODELS, *([] if job.root is None else [Path(job.root)])])
    named = [one for one in found if one.name == job.model]
    usable = next((one for one in named if one.card is not None and not one.reason), None)
    if usable is None or usable.card is None:
        why = named[0].reason if named else "there is no folder with it"
        raise ModelCardError(f"model {job.model} cannot be used where it is run: {why}")
    if usable.card.digest() != job.card_sha256:
        raise ModelCardError(f"model {job.model} has another card where it is run")
    return Model(usable.folder, usable.card)


def print_failure(error: MqiError | MemoryError) -> None:
    """Print what a model has printed, and on the last line why it has failed."""
    sys.stdout.write(f"{error.log}\n" if isinstance(error, ModelError) else "")
    reason = error.message if isinstance(error, MqiError) else "there is not enough memory"
    lost = isinstance(error, MqiError) and error.retry is Retry.FOREVER
    sys.stdout.write(JobFailure(cause=cause_of(error), reason=reason, infrastructure=lost).line + "\n")
    sys.stdout.flush()


def cause_of(error: MqiError | MemoryError) -> Cause:
    """Why a model has failed: by what it has printed first, since that says most."""
    if isinstance(error, ModelTimeoutError):
        return Cause.TIME_LIMIT
    if isinstance(error, ModelError):
        told = cause_of_text(error.log)
        ended = Cause.ERROR if error.exit_code is None else cause_of_exit(error.exit_code)
        return told or ended
    return cause_of_exception(error)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
