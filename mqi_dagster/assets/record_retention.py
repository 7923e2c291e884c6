"""What Dagster has recorded of cases that are removed: their runs, with events and output."""

import shutil
from collections.abc import Collection, Iterator
from datetime import datetime
from pathlib import Path

import dagster as dg
from dagster._core.storage.event_log import SqliteEventLogStorage

from mqi_dagster.assets.jobs import PARTITION_TAG
from mqi_dagster.partitions import CASES
from mqi_dagster.resources.site import Site


def removed_cases(
    instance: dg.DagsterInstance, site: Site, before: datetime, busy: Collection[str]
) -> Iterator[tuple[str, int]]:
    """Cases whose results were removed before a moment and whose runs are still there, and their bytes.

    Args:
        instance: Dagster's.
        site: The site.
        before: The moment.
        busy: Cases with a run queued, in work or still to be tried again.
    """
    for case in site.ledger.removed_with_records(before):
        if case in busy or _is_there(instance, site, case):
            # More of it has come, or its removal was cut short.
            continue
        yield (
            case,
            sum(_size(path) for run in _runs_of(instance, case) for path in _files(instance, site, run)),
        )


def remove_records(instance: dg.DagsterInstance, site: Site, case: str) -> None:
    """Remove the runs of a removed case that have ended, with what Dagster has recorded of them.

    Nothing happens where more of the case has come since. What the ledger knows of it stays: its number, what
    was asked for, and the attempts, by whose numbers its jobs on clusters are told apart.

    Raises:
        OSError: A file cannot be removed.
    """
    runs = _runs_of(instance, case)
    if any(not run.is_finished for run in runs) or _is_there(instance, site, case):
        return
    for run in runs:
        # A run that is listed no more is found by nobody, so that it goes last.
        instance.event_log_storage.delete_events(run.run_id)
        for path in _files(instance, site, run):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        instance.run_storage.delete_run(run.run_id)
    site.ledger.mark_records_removed(case)


def _is_there(instance: dg.DagsterInstance, site: Site, case: str) -> bool:
    folder = site.settings.paths.data / "cases" / case
    return folder.exists() or instance.has_dynamic_partition(str(CASES.name), case)


def _runs_of(instance: dg.DagsterInstance, case: str) -> list[dg.DagsterRun]:
    """Runs of a case and of its beams, however they were started."""
    found = instance.get_run_tags([PARTITION_TAG], value_prefix=case)
    values = {value for _, some in found for value in some}
    keys = sorted(value for value in values if value.partition("__")[0] == case)
    return list(instance.get_runs(dg.RunsFilter(tags={PARTITION_TAG: keys}))) if keys else []


def _files(instance: dg.DagsterInstance, site: Site, run: dg.DagsterRun) -> Iterator[Path]:
    """What a run has left beside the tables: its printed output, and on SQLite a file of its events."""
    output = site.settings.paths.dagster_home / "storage" / run.run_id
    if output.is_dir():
        yield output
    storage = instance.event_log_storage
    if isinstance(storage, SqliteEventLogStorage):
        events = Path(storage.path_for_shard(run.run_id))
        yield from sorted(events.parent.glob(f"{events.name}*"))


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(one.lstat().st_size for one in files if one.is_file())
