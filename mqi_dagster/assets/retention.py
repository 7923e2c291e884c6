"""What a site does not need any more, and its removal: replaced results, old cases, old logs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

import dagster as dg
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from mqi_dagster.assets.ancestry import ancestry
from mqi_dagster.assets.concluded import beam_partitions, concluded_before
from mqi_dagster.assets.jobs import BEAM_ASSETS, CASE_ASSETS, CASE_TAG, PARTITION_TAG
from mqi_dagster.assets.lineage import latest_digest
from mqi_dagster.assets.record_retention import note_removed, records_size, remove_records, removed_cases
from mqi_dagster.errors import InfrastructureError, MqiError, StoreError
from mqi_dagster.ledger.place import database_lost
from mqi_dagster.partitions import BEAMS, CASES, is_case_key
from mqi_dagster.resources.site import Site
from mqi_dagster.store.files import size_of

_CASE_LEVEL = "_case"
_CURRENT = "current"
_FROM_INPUTS = "from its inputs, where they are kept"
_NEVER = "never"


class Kind(StrEnum):
    """What a thing is that may go."""

    SUPERSEDED = "replaced result"
    CASE = "case"
    ENGINE_LOG = "engine log"
    RUN_OUTPUT = "output of a run"
    RECORDS = "runs of a removed case"


@dataclass(frozen=True, slots=True)
class Spare:
    """A thing that may go."""

    kind: Kind
    name: str
    """Without a path: case, beam, asset and digest, or run."""
    path: Path
    bytes: int
    again: str
    """Whether, and from what, it can be made again."""


def spare(instance: dg.DagsterInstance, site: Site, now: datetime, problems: list[str]) -> Iterator[Spare]:
    """Everything that may go now, as the settings say.

    Nothing is listed of a case that has a run queued, in work or still to be tried again. One of which more
    has come since its conclusion stays whole.

    Args:
        instance: Dagster's.
        site: The site.
        now: From when ages are counted.
        problems: Gets what cannot be looked at, which holds up nothing else.

    Raises:
        InfrastructureError: A folder or Dagster's database cannot be read.
    """
    retention = site.settings.retention
    with _told("what is old cannot be looked for"):
        busy = _busy_cases(instance, site)
        cases = site.settings.paths.data / "cases"
        for folder in sorted(cases.iterdir()) if cases.is_dir() else []:
            if not is_case_key(folder.name) or folder.name in busy:
                continue
            try:
                yield from _of_case(instance, site, folder, now)
            except (OSError, MqiError) as error:
                problems.append(f"{Kind.CASE} {folder.name} cannot be looked at: {_words(error)}")
        if retention.record_days is not None:
            limit = now - timedelta(days=retention.record_days)
            home = site.settings.paths.dagster_home
            for case in removed_cases(instance, site, limit, _busy_cases(instance, site)):
                try:
                    yield Spare(Kind.RECORDS, case, home, records_size(instance, site, case), _NEVER)
                except OSError as error:
                    problems.append(f"{Kind.RECORDS} {case} cannot be looked at: {_words(error)}")
        if retention.engine_log_days is not None:
            limit = now - timedelta(days=retention.engine_log_days)
            yield from _old_files(Kind.ENGINE_LOG, site.engine_logs, "*/*.log", limit)
        if retention.run_output_days is not None:
            limit = now - timedelta(days=retention.run_output_days)
            storage = site.settings.paths.dagster_home / "storage"
            yield from _old_files(Kind.RUN_OUTPUT, storage, "*/compute_logs/*", limit)


def _of_case(instance: dg.DagsterInstance, site: Site, folder: Path, now: datetime) -> Iterator[Spare]:
    retention = site.settings.retention
    if retention.case_days is not None and concluded_before(
        instance, site, folder.name, now - timedelta(days=retention.case_days)
    ):
        # Looking at the cases before it takes time, in which more of it may have come.
        if folder.name not in _busy_cases(instance, site):
            yield Spare(Kind.CASE, folder.name, folder, size_of(folder), _FROM_INPUTS)
    elif retention.superseded_days is not None:
        yield from _superseded(instance, site, folder, now - timedelta(days=retention.superseded_days))


def remove(instance: dg.DagsterInstance, site: Site, thing: Spare) -> bool:
    """Remove a thing; whether it is gone: what is needed again since it was listed stays.

    A result leaves its place at once and whole, so that nobody reads half of it. The partitions of a case
    go with it; its runs go later, by themselves.

    Raises:
        InfrastructureError: It cannot be removed.
    """
    with _told(f"{thing.kind} {thing.name} cannot be removed"):
        if thing.kind in (Kind.CASE, Kind.RECORDS):
            # Between the listing and this, and between this and the removal, more of the case may have come.
            if _wanted_again(instance, site, thing.name):
                return False
            if thing.kind is Kind.RECORDS:
                return remove_records(instance, site, thing.name)
            return _remove_case(instance, site, thing)
        if thing.kind is Kind.SUPERSEDED:
            if _needed_again(instance, site, thing.path):
                return False
            site.store.discard(thing.path)
        else:
            thing.path.unlink(missing_ok=True)
    return True


def _remove_case(instance: dg.DagsterInstance, site: Site, thing: Spare) -> bool:
    if thing.path.exists() and not concluded_before(instance, site, thing.name, datetime.now(UTC)):
        return False
    before = site.ledger.results_removed_at(thing.name)
    # First: what was asked for before it does not count, however far the removal comes.
    site.ledger.mark_results_removed(thing.name)
    beams = beam_partitions(instance, thing.name)
    forget_partitions(instance, thing.name, beams)
    wanted = True
    try:
        wanted = _wanted_again(instance, site, thing.name)
        if not wanted:
            site.store.discard(thing.path)
            # From here on what stands in its place is another intake's.
            return True
    except Exception:
        if wanted or thing.path.exists():
            _call_off(instance, site, thing.name, beams, before)
        raise
    _call_off(instance, site, thing.name, beams, before)
    return False


def _wanted_again(instance: dg.DagsterInstance, site: Site, case: str) -> bool:
    arrival = site.ledger.arrival(case)
    return (arrival is not None and arrival.is_open) or case in _busy_cases(instance, site)


def _needed_again(instance: dg.DagsterInstance, site: Site, result: Path) -> bool:
    """Whether a replaced result has become needed, or may be becoming it, since it was listed."""
    asset, level = result.parent, result.parent.parent
    if level.parent.name in _busy_cases(instance, site):
        return True
    needed = _needed_of_level(instance, site, level)
    return needed is None or (asset.name, result.name) in needed


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn the error of a file, or of a database that is away, into one of ours.

    Raises:
        InfrastructureError: With what cannot be done, and why.
    """
    try:
        yield
    except Exception as error:
        if not (isinstance(error, OSError) or database_lost(error)):
            raise
        raise InfrastructureError(f"{what}: {_words(error)}") from None


def _words(error: Exception) -> str:
    if isinstance(error, MqiError):
        return error.message
    return str(error.strerror) if isinstance(error, OSError) else "Dagster's database cannot be reached"


def tidied(
    instance: dg.DagsterInstance, site: Site, now: datetime, problems: list[str]
) -> Iterator[tuple[Spare, bool]]:
    """Remove what may go, and say of each thing whether it is gone.

    Args:
        instance: Dagster's.
        site: The site.
        now: From when ages are counted.
        problems: Gets what cannot go, which holds up nothing else.

    Raises:
        InfrastructureError: A folder or Dagster's database cannot be read.
    """
    with _told("removed cases cannot be looked for"):
        note_removed(instance, site)
    for thing in spare(instance, site, now, problems):
        try:
            gone = remove(instance, site, thing)
        except MqiError as error:
            problems.append(error.message)
            gone = False
        yield thing, gone


def tidy(
    instance: dg.DagsterInstance, site: Site, now: datetime, seconds: float
) -> tuple[int, bool, list[str]]:
    """Remove what may go, for at most some seconds.

    Returns:
        How many things went, whether everything was looked at, and what could not go.

    Raises:
        InfrastructureError: A folder or Dagster's database cannot be read.
    """
    limit, count, problems = time.monotonic() + seconds, 0, list[str]()
    for _, gone in tidied(instance, site, now, problems):
        count += gone
        if time.monotonic() > limit:
            return count, False, problems
    return count, True, problems


def _busy_cases(instance: dg.DagsterInstance, site: Site) -> set[str]:
    unfinished = [status for status in dg.DagsterRunStatus if status not in FINISHED_STATUSES]
    tags = [run.tags for run in instance.get_runs(dg.RunsFilter(statuses=unfinished))]
    names = [tag.get(name, "") for tag in tags for name in (CASE_TAG, PARTITION_TAG)]
    names += [outcome.partition for outcome in site.ledger.open_retries()]
    return {name.partition("__")[0] for name in names}


def _superseded(instance: dg.DagsterInstance, site: Site, folder: Path, limit: datetime) -> Iterator[Spare]:
    for level in sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()):
        needed = _needed_of_level(instance, site, level)
        if needed is None:
            continue
        for asset in sorted(path for path in level.iterdir() if path.is_dir()):
            for result in sorted(asset.iterdir()):
                if result.name == _CURRENT or result.is_symlink() or (asset.name, result.name) in needed:
                    continue
                if _changed(result) < limit:
                    name = f"{_key_of(level)} {asset.name} {result.name[:8]}"
                    again = "only with the inputs and settings of then"
                    yield Spare(Kind.SUPERSEDED, name, result, size_of(result), again)


def _key_of(level: Path) -> str:
    """Case or beam key of a folder in the store."""
    case = level.parent.name
    return case if level.name == _CASE_LEVEL else f"{case}__{level.name}"


def _needed_of_level(instance: dg.DagsterInstance, site: Site, level: Path) -> set[tuple[str, str]] | None:
    assets = tuple(CASE_ASSETS.values()) if level.name == _CASE_LEVEL else BEAM_ASSETS
    return _needed(instance, site, _key_of(level), assets)


def _needed(
    instance: dg.DagsterInstance, site: Site, key: str, assets: tuple[str, ...]
) -> set[tuple[str, str]] | None:
    """The results that the newest materialisations name, and those that the present dose was made from.

    None where that cannot be told: then everything stays.
    """
    named = {asset: latest_digest(instance, asset, key) for asset in assets}
    needed = {(asset, digest) for asset, digest in named.items() if digest is not None}
    if not needed:
        return None
    if named.get("rt_dose") is not None:
        try:
            chain = ancestry(instance, site, key)
        except StoreError:
            return None
        for made in (chain.interpreted_csvs, chain.tps_file, chain.raw_dose, chain.rt_dose):
            needed.add((made.manifest.asset, made.digest))
    return needed


def _call_off(
    instance: dg.DagsterInstance, site: Site, case: str, beams: list[str], removed_before: datetime | None
) -> None:
    instance.add_dynamic_partitions(str(CASES.name), [case])
    if beams:
        instance.add_dynamic_partitions(str(BEAMS.name), beams)
    site.ledger.unmark_results_removed(case, removed_before)


def forget_partitions(instance: dg.DagsterInstance, case: str, beams: list[str]) -> None:
    """Remove the partitions of a case and of its beams."""
    for beam in beams:
        instance.delete_dynamic_partition(str(BEAMS.name), beam)
    if instance.has_dynamic_partition(str(CASES.name), case):
        instance.delete_dynamic_partition(str(CASES.name), case)


def _old_files(kind: Kind, folder: Path, pattern: str, limit: datetime) -> Iterator[Spare]:
    for path in sorted(folder.glob(pattern)):
        if path.is_file() and _changed(path) < limit:
            name = path.relative_to(folder).parts[0]
            yield Spare(kind, name, path, path.stat().st_size, _NEVER)


def _changed(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
