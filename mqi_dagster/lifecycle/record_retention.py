"""What runs of removed cases and courses have left in Dagster's records, and its removal."""

import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import dagster as dg
from sqlalchemy import select

from mqi_dagster.dagster_internals import (
    AssetCheckExecutionsTable,
    SqlEventLogStorage,
    SqlEventLogStorageTable,
    SqliteEventLogStorage,
)
from mqi_dagster.errors import ConfigurationError
from mqi_dagster.files import size_of
from mqi_dagster.lifecycle.jobs import PARTITION_TAG
from mqi_dagster.lifecycle.lineage import latest_record
from mqi_dagster.lifecycle.materialisations import LAST_ASSETS
from mqi_dagster.partitions import PartitionKind, folder_of, root_of, whole_kind
from mqi_dagster.resources.site import Site


def unit_of(site: Site, key: str) -> tuple[PartitionKind, Path]:
    """The kind of a case, course or image set by its key, and its folder in the store."""
    kind = whole_kind(key)
    return kind, site.settings.paths.data / folder_of(kind) / key


def removed_cases(
    instance: dg.DagsterInstance, site: Site, before: datetime, busy: Collection[str]
) -> Iterator[str]:
    """Cases whose results were removed before a moment and whose runs can go now.

    Args:
        instance: Dagster's.
        site: The site.
        before: The moment.
        busy: Cases with a run queued, in work or still to be tried again.
    """
    for case in site.ledger.arrivals.removed_with_records(before):
        if case in busy or _is_there(instance, site, case):
            # More of it has come, or its removal was cut short.
            continue
        if not _any_newest(instance, runs_of(instance, case)):
            yield case


def records_size(instance: dg.DagsterInstance, site: Site, case: str) -> int:
    """Bytes of the files that go with the runs of a case: rows in tables are not counted.

    Raises:
        OSError: A file cannot be looked at.
    """
    return sum(size_of(path) for run in runs_of(instance, case) for path in _files(instance, site, run))


def remove_records(instance: dg.DagsterInstance, site: Site, case: str) -> bool:
    """Remove the runs of a removed case, with their events and output; whether they could go.

    They stay where more of the case has come since. What the ledger knows of it stays: its number, what was
    asked for, and the attempts, by whose numbers its jobs on clusters are told apart.

    Raises:
        OSError: A file cannot be removed.
    """
    runs = runs_of(instance, case)
    if any(not run.is_finished for run in runs) or _any_newest(instance, runs):
        return False
    if _is_there(instance, site, case):
        return False
    for run in runs:
        events = _events_file(instance, run)
        # On SQLite the file goes after all events of the run, and cannot be asked then.
        if events is None or events.exists():
            instance.event_log_storage.delete_events(run.run_id)
            _delete_checks(instance, run)
        for path in _files(instance, site, run):
            with suppress(FileNotFoundError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        # Last: a run that is not listed is found by nobody.
        instance.run_storage.delete_run(run.run_id)
    site.ledger.arrivals.mark_records_removed(case)
    return True


def note_removed(instance: dg.DagsterInstance, site: Site) -> None:
    """Note the removal of cases where only the note is missing, as after a removal that was cut short."""
    for arrival in site.ledger.arrivals.all():
        asked, removed = arrival.requested_at, arrival.results_removed_at
        if arrival.is_open or asked is None or (removed is not None and removed > asked):
            continue
        case = arrival.case
        last = LAST_ASSETS[whole_kind(case)]
        if not _is_there(instance, site, case) and latest_record(instance, last, case):
            site.ledger.arrivals.mark_results_removed(case)


def _is_there(instance: dg.DagsterInstance, site: Site, case: str) -> bool:
    kind, folder = unit_of(site, case)
    return folder.exists() or instance.has_dynamic_partition(kind.name, case)


def runs_of(instance: dg.DagsterInstance, case: str) -> list[dg.DagsterRun]:
    """Runs of a case and of its beams, however they were started."""
    found = instance.get_run_tags([PARTITION_TAG], value_prefix=case)
    values = {value for _, some in found for value in some}
    keys = sorted(value for value in values if root_of(value) == case)
    return list(instance.get_runs(dg.RunsFilter(tags={PARTITION_TAG: keys}))) if keys else []


def _any_newest(instance: dg.DagsterInstance, runs: Collection[dg.DagsterRun]) -> bool:
    """Whether one of the runs is the newest, or has the newest event.

    SQLite gives the numbers of the newest rows out again once these are deleted, and the sensors' cursors are
    beyond them: what is made next would be seen by nobody.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise ConfigurationError("Dagster's events are not kept in a database that can be read")
    number = SqlEventLogStorageTable.c.id
    with storage.index_connection() as connection:
        newest = select(SqlEventLogStorageTable.c.run_id).order_by(number.desc()).limit(1)
        last = {str(one) for one in connection.execute(newest).scalars()}
    last |= {record.dagster_run.run_id for record in instance.get_run_records(limit=1)}
    return any(run.run_id in last for run in runs)


def _delete_checks(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Dagster leaves the rows of asset checks where it deletes the events of a run."""
    storage = instance.event_log_storage
    if isinstance(storage, SqlEventLogStorage):
        with storage.index_connection() as connection:
            rows = AssetCheckExecutionsTable.c.run_id == run.run_id
            connection.execute(AssetCheckExecutionsTable.delete().where(rows))


def _events_file(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Path | None:
    """Where SQLite keeps the events of a run; None on a server."""
    storage = instance.event_log_storage
    return Path(storage.path_for_shard(run.run_id)) if isinstance(storage, SqliteEventLogStorage) else None


def _files(instance: dg.DagsterInstance, site: Site, run: dg.DagsterRun) -> Iterator[Path]:
    """What a run has left beside the tables: its printed output, and on SQLite a file of its events."""
    output = site.settings.paths.dagster_home / "storage" / run.run_id
    if output.is_dir():
        yield output
    events = _events_file(instance, run)
    if events is not None:
        # Its logs first: beside a file that was made anew they would bring back what it held.
        yield from sorted(events.parent.glob(f"*{events.name}*"), reverse=True)
