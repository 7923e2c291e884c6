"""The processes in which runs are in work: which of them live, and the end of runs whose process does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from mqi_dagster.dagster_internals import GRPC_INFO_TAG
from mqi_dagster.execution.processes import end_group, stat_of
from mqi_dagster.execution.sign_of_life import Life
from mqi_dagster.lifecycle.boundary import safe_text

if TYPE_CHECKING:
    from mqi_dagster.resources.site import Site

IN_WORK = (
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
GONE = "The worker of this run is gone (the machine or its services have crashed)."
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


def is_dead(instance: dg.DagsterInstance, site: Site, run: dg.DagsterRun) -> bool:
    """Whether the worker of a run is known to be gone.

    Its sign of life tells. One that has not given it yet, while its run starts or is cancelled, is known by
    the pid that it has told.

    Raises:
        InfrastructureError: The site's disk cannot be read.
    """
    life = site.signs_of_life.of(run.run_id)
    if life is not Life.NEVER_SEEN:
        return life is Life.DEAD
    # One that a person has started in a terminal has no worker of the services: its sign alone tells.
    unsigned = run.remote_job_origin is not None and run.status is not dg.DagsterRunStatus.STARTED
    return unsigned and not worker_lives(instance, run)


def end_dead_runs(
    instance: dg.DagsterInstance,
    site: Site,
    statuses: Sequence[dg.DagsterRunStatus],
    say: Callable[[str], None],
) -> int:
    """Report every run as failed, or as cancelled where that was asked for, whose worker is gone.

    Args:
        instance: Dagster's records.
        site: The installation.
        statuses: The runs that are looked at.
        say: Told of what cannot be looked at now.

    Returns:
        How many there were.
    """
    ended = 0
    for run in instance.get_runs(dg.RunsFilter(statuses=list(statuses))):
        try:
            if is_dead(instance, site, run):
                ended += _end(instance, run.run_id, GONE)
        except Exception as error:  # noqa: BLE001 - one run must not keep all others waiting
            say(f"run {run.run_id} cannot be looked at now: {safe_text(error)}")
    return ended


def end_workers(instance: dg.DagsterInstance) -> int:
    """End the workers that have outlived their code location; how many.

    Asked first, they leave a job on a cluster to the run that comes after them.

    Raises:
        InfrastructureError: One of them cannot be ended.
    """
    workers = [job for run in _served(instance) if (job := worker_of(instance, run))]
    for job in workers:
        end_group(job, _GRACE_SECONDS)
    return len(workers)


def end_worker(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """End the worker of a run that is being cancelled, where the code location that has forked it is gone.

    Nobody else interrupts it then: Dagster would only call the run cancelled. Cancelled so, it ends its job.

    Raises:
        InfrastructureError: It cannot be ended.
    """
    job = worker_of(instance, run)
    # In another container that pid is somebody else's.
    if job is not None and b"forkserver" in Path(f"/proc/{job.partition(':')[0]}/cmdline").read_bytes():
        end_group(job, _GRACE_SECONDS)


def fail_orphaned_runs(instance: dg.DagsterInstance) -> int:
    """Report every run as failed that was in the hands of a code server which is gone; how many.

    Their workers were ended before. Dagster cannot see that; reported as failed, they are executed again.
    """
    return sum(
        _end(instance, run.run_id, "The services were stopped while this run was in work.")
        for run in _served(instance)
    )


def _served(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """The runs in work that a code server has started."""
    return [
        run for run in instance.get_runs(dg.RunsFilter(statuses=list(IN_WORK))) if GRPC_INFO_TAG in run.tags
    ]


def _end(instance: dg.DagsterInstance, run_id: str, why: str) -> bool:
    """End a run whose worker is known to be gone, unless its last word was that it has ended."""
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished:
        return False
    if run.status is dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, why)
    else:
        instance.report_run_failed(run, why)
    return True
