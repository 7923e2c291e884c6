"""A cluster's settings and a job as tests of single pieces need them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from mqi_dagster.execution.job import Job
from mqi_dagster.hpc.naming import JobFolder
from mqi_dagster.ledger.cluster_jobs import ClusterJob, ClusterJobState
from mqi_dagster.settings import Slurm

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
BEAM, KEY, JOB_ID = "P1.fx0001__b01", "d1-1", "100"
NAME = "moqui_P1.fx0001__b01"
ROOT = "/srv/moqui"
FOLDER = "/srv/moqui/P1.fx0001/b01/d1-1"
SUBMITTED = "2026-03-01T11:00:00"
NUL_SHA = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def make_slurm(**values: object) -> Slurm:
    """A cluster's settings, the defaults where nothing is said."""
    return Slurm.model_validate({"root": ROOT, **values})


def make_folder(root: Path | str = ROOT) -> JobFolder:
    """The folder of the job below a root."""
    return JobFolder(str(root), ("P1.fx0001", "b01"), KEY)


def make_row(**changes: object) -> ClusterJob:
    """The job as the ledger has it: submitted and seen in the queue."""
    values: dict[str, object] = {
        "cluster": "hpc",
        "key": KEY,
        "partition": BEAM,
        "folder": "P1.fx0001/b01",
        "state": ClusterJobState.QUEUED,
        "job_id": JOB_ID,
        "retired": (),
        "adopted": False,
        "submitted": SUBMITTED,
        "scheduler_state": "PENDING",
        "reason": "",
        "exit_code": None,
        "result": None,
        "missing_since": None,
        "created_at": NOW,
        "changed_at": NOW,
        "ended_at": None,
        "cancel_requested_at": None,
        "removed_at": None,
    }
    return ClusterJob(**{**values, **changes})  # type: ignore[arg-type]


def make_job(directory: Path, **changes: object) -> Job:
    """A job that wants one output."""
    values: dict[str, object] = {
        "key": KEY,
        "name": BEAM,
        "parents": ("P1.fx0001", "b01"),
        "directory": directory,
        "manifest": {},
        "argv": ("true",),
        "outputs": ("Dose/box.raw",),
        "log": "engine.log",
        "timeout_seconds": 60.0,
    }
    return Job(**{**values, **changes})  # type: ignore[arg-type]


def result_text(job_id: str = JOB_ID, start: int = 0, exit_code: int = 0, signal: str = "") -> str:
    """A job's own account as `job.sh` writes it."""
    return (
        f'{{"job":"{job_id}","start":{start},"node":"n1","gpus":"0","exit_code":{exit_code},'
        f'"signal":"{signal}","began":1,"ended":2,'
        f'"outputs":[{{"number":1,"sha256":"{NUL_SHA}","size":4}}]}}'
    )
