"""The program of a job that runs one model: ``python -m mqi_dagster.imaging.models.segment_job``.

Its working directory is the job's folder; see `job_files`.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType

from mqi_dagster.errors import MqiError, Retry
from mqi_dagster.imaging.models.card import read_model
from mqi_dagster.imaging.models.job_files import FAILED, INPUTS, OUTPUTS, JobFailure, read_job
from mqi_dagster.imaging.models.model_errors import ModelError, ModelTimeoutError
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
        segment(read_model(Path(job.model)), folder / INPUTS, folder / OUTPUTS, options)
    except (MqiError, MemoryError) as error:
        print_failure(error)
        return FAILED
    return 0


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
