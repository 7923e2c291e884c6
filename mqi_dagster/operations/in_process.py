"""One run of a job in this process, as the services would have it run: with a sign of life and a kept log."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from mqi_dagster.dagster_internals import make_new_run_id
from mqi_dagster.errors import ConfigurationError
from mqi_dagster.lifecycle.failures import Cause, first_cause
from mqi_dagster.operations.sites import SETTINGS_NAME
from mqi_dagster.resources.site import Site

_ENDS = {signal.SIGINT, signal.SIGTERM}
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def execute_here(
    instance: dg.DagsterInstance,
    site: Site,
    job: dg.JobDefinition,
    partition: str | None,
    tags: Mapping[str, str],
    assets: Collection[str] | None = None,
) -> tuple[str, Cause | None]:
    """Run a job to its end.

    Args:
        instance: Dagster's records.
        site: The installation.
        job: The job.
        partition: What it is run for; None where its assets have no partitions.
        tags: Of the run.
        assets: Only these of its assets; None: all.

    Returns:
        Id of the run, and the first cause of its failure, None where it has succeeded.

    Raises:
        KeyboardInterrupt: It was interrupted.
    """
    run_id = make_new_run_id()
    with _interrupts_kept():
        with site.signs_of_life.giving(run_id):
            result = job.execute_in_process(
                instance=instance,
                partition_key=partition,
                tags=tags,
                run_config=_QUIET,
                raise_on_error=False,
                run_id=run_id,
                asset_selection=None if assets is None else [dg.AssetKey(asset) for asset in assets],
            )
        _keep_log(instance, site, run_id, job.name if partition is None else f"{partition}.{job.name}")
    return run_id, None if result.success else first_cause(instance, run_id)


def _keep_log(instance: dg.DagsterInstance, site: Site, run_id: str, name: str) -> None:
    folder = site.settings.paths.state / "logs"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = [
        f"{entry.timestamp:.3f} {entry.step_key or '-'} {entry.message}\n"
        for entry in instance.all_logs(run_id)
    ]
    with (folder / f"{name}.log").open("a", encoding="utf-8") as stream:
        stream.writelines([f"run {run_id}\n", *lines])


def require_apart(delivered: Path, out: Path) -> None:
    """Refuse to write results into what was delivered, which is only read.

    Raises:
        ConfigurationError: The results would stand in the folder that was given, or beside it among others.
    """
    given, results = delivered.resolve(), out.resolve()
    if results.is_relative_to(given) or (results == given.parent and not (results / SETTINGS_NAME).is_file()):
        raise ConfigurationError(
            "the results would stand among the delivered data, which are only read: give --out another folder"
        )


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """End the command where it was interrupted within the block.

    Dagster takes these signals for itself: they end the one run that is in work, as a failure like any other.

    Raises:
        KeyboardInterrupt: A signal came.
    """
    heard, told = os.pipe()
    try:
        os.set_blocking(heard, False)
        os.set_blocking(told, False)
        before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
        try:
            came = os.read(heard, 4096)
        except BlockingIOError:
            came = b""
    finally:
        os.close(heard)
        os.close(told)
    if _ENDS & set(came):
        raise KeyboardInterrupt
