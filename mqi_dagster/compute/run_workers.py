"""The processes in which runs are in work, and which of them live."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

from mqi_dagster.dagster_internals import GRPC_INFO_TAG
from mqi_dagster.execution.processes import end_group, stat_of

_IN_WORK = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_GRACE_SECONDS = 15.0
_CLOCK_SECONDS = 5.0
"""How far the kernel's count of seconds and the clock may drift apart."""


def worker_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str | None:
    """The process that has a run in work, where it lives on this machine and has said its pid.

    Whoever has that pid and is older than those words is the worker.
    """
    said = _said(instance, run)
    if said is None:
        return None
    pid, at = said
    stat = stat_of(pid)
    if stat is None or not stat.lives:
        return None
    began = _boot() + stat.started / os.sysconf("SC_CLK_TCK")
    return f"{pid}:{stat.started}" if began <= at + _CLOCK_SECONDS else None


def worker_lives(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the process that has a run in work lives on this machine.

    A run whose worker has not yet said its pid counts as living: Dagster's own time-out fails it otherwise.
    """
    if run.status is dg.DagsterRunStatus.STARTING and _said(instance, run) is None:
        return True
    return worker_of(instance, run) is not None


def _said(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[int, float] | None:
    """The pid that a run's worker told when it started, and when."""
    records = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT).records
    said = [
        (int(str(event.engine_event_data.metadata["pid"].value)), record.event_log_entry.timestamp)
        for record in records
        if (event := record.event_log_entry.dagster_event) is not None
        and (event.message or "").startswith("Started process for run")
    ]
    return said[-1] if said else None


def _boot() -> int:
    """When this machine was started, in seconds since 1970."""
    lines = Path("/proc/stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("btime "))


def end_workers(instance: dg.DagsterInstance) -> int:
    """End the workers that have outlived their code location; how many.

    Asked first, they leave a job on a cluster to the run that comes after them.

    Raises:
        InfrastructureError: One of them cannot be ended.
    """
    runs = instance.get_runs(dg.RunsFilter(statuses=_IN_WORK))
    workers = [job for run in runs if GRPC_INFO_TAG in run.tags and (job := worker_of(instance, run))]
    for job in workers:
        end_group(job, _GRACE_SECONDS)
    return len(workers)


def fail_orphaned_runs(instance: dg.DagsterInstance) -> int:
    """Report every run as failed that was in the hands of a code server which is gone; how many.

    Their workers were ended before. Dagster cannot see that; reported as failed, they are executed again.
    """
    orphaned = [
        run for run in instance.get_runs(dg.RunsFilter(statuses=_IN_WORK)) if GRPC_INFO_TAG in run.tags
    ]
    for run in orphaned:
        if run.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, "The services were stopped while this run was cancelled.")
        else:
            instance.report_run_failed(run, "The services were stopped while this run was in work.")
    return len(orphaned)
