"""What a site does not need any more, and its removal: replaced results, old cases, courses and logs."""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

import dagster as dg

from mqi_dagster.errors import InfrastructureError, MqiError, StoreError
from mqi_dagster.files import size_of
from mqi_dagster.ledger.location import database_lost
from mqi_dagster.lifecycle.case_reading import read_case
from mqi_dagster.lifecycle.jobs import (
    CASE_TAG,
    PARTITION_TAG,
    beam_job,
    cohort_job,
    conclusion_job,
    course_job,
    intake_job,
    segmentation_job,
)
from mqi_dagster.lifecycle.lineage import ancestry, digest_in, latest_digest
from mqi_dagster.lifecycle.materialisations import (
    CONCLUDED,
    DOSE,
    HANDED_OVER,
    MANIFEST,
    EventLog,
    latest_made,
)
from mqi_dagster.lifecycle.record_retention import (
    note_removed,
    records_size,
    remove_records,
    removed_cases,
    unit_of,
)
from mqi_dagster.lifecycle.runs import UNFINISHED, latest_run_succeeded
from mqi_dagster.partitions import (
    BEAM,
    CASE,
    COURSE,
    IMAGE_SET,
    beam_key,
    folder_of,
    part_key,
    parts_of,
    root_of,
    whole_kind,
)
from mqi_dagster.resources.site import Site
from mqi_dagster.store.store import COHORT, CURRENT

_CASE_LEVEL = "_case"
_JOBS = {
    _CASE_LEVEL: (intake_job, conclusion_job),
    "_course": (course_job,),
    "_image_set": (segmentation_job,),
}
"""By the folder of a unit in the store; that of a beam has its own name."""
_COHORT_TABLES = "cohort_tables"
_FROM_INPUTS = "from its inputs, where they are kept"
_NEVER = "never"


def concluded_before(instance: dg.DagsterInstance, site: Site, case: str, limit: datetime) -> bool:
    """Whether a case or course is concluded with what it has now, nothing has failed since, and all is old.

    What the case consists of its present manifest says: a beam that has come late is no partition yet, and
    after an earlier removal no beam is one.

    Args:
        instance: Dagster's records.
        site: The site.
        case: Case key, or key of a course.
        limit: What was made before it is old.
    """
    if whole_kind(case) is not CASE:
        return _whole_concluded_before(instance, site, case, limit)
    reading = read_case(instance, site, case)
    events, arrival = reading.events, reading.arrival
    taken_in = events.latest(MANIFEST, case)
    if not reading.concluded or reading.manifest is None or taken_in is None:
        return False
    more_came = arrival is not None and arrival.fingerprint != arrival.requested_fingerprint
    if arrival is not None and more_came and arrival.changed_at > taken_in.at:
        return False
    beams = [beam_key(case, number) for number in reading.beams]
    # A partition that somebody has invented was never handed over, and keeps nothing.
    others = [
        key
        for key in beam_partitions(instance, case)
        if BEAM.has(key) and key not in beams and events.number(HANDED_OVER, key) is not None
    ]
    made = [events.latest(asset, key) for key in (*beams, *others) for asset in (DOSE, HANDED_OVER)]
    made += [taken_in, events.latest(CONCLUDED, case)]
    return all(one is None or one.at < limit for one in made)


def _whole_concluded_before(instance: dg.DagsterInstance, site: Site, key: str, limit: datetime) -> bool:
    """Of a course or an image set, which have no parts."""
    events, arrival = EventLog(instance), site.ledger.arrivals.get(key)
    job = course_job if COURSE.has(key) else segmentation_job
    taken, last = (events.latest(asset, key) for asset in (job.assets[0], job.assets[-1]))
    if taken is None or last is None or last.source != taken.digest:
        return False
    if not latest_run_succeeded(instance, key):
        return False
    more_came = arrival is not None and arrival.fingerprint != arrival.requested_fingerprint
    if arrival is not None and more_came and arrival.changed_at > taken.at:
        return False
    made = (events.latest(asset, key) for asset in job.assets)
    return all(one is None or one.at < limit for one in made)


def beam_partitions(instance: dg.DagsterInstance, case: str) -> list[str]:
    """The beam keys of a case that are partitions now."""
    return parts_of(case, instance.get_dynamic_partitions(BEAM.name))


class RemovableKind(StrEnum):
    """What a thing is that may go."""

    SUPERSEDED = "replaced result"
    CASE = "case"
    COURSE = "course"
    IMAGE_SET = "image set"
    ENGINE_LOG = "engine log"
    RUN_OUTPUT = "output of a run"
    RECORDS = "runs of a removed case"


_UNITS = (RemovableKind.CASE, RemovableKind.COURSE, RemovableKind.IMAGE_SET)


@dataclass(frozen=True, slots=True)
class Removable:
    """A thing that may go."""

    kind: RemovableKind
    name: str
    """Without a path: case or course, beam, asset and digest, or run."""
    path: Path
    bytes: int
    again: str
    """Whether, and from what, it can be made again."""


def spare(
    instance: dg.DagsterInstance, site: Site, now: datetime, problems: list[str]
) -> Iterator[Removable]:
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
        for folder in _units(site):
            if folder.name in busy:
                continue
            try:
                yield from _of_unit(instance, site, folder, now)
            except (OSError, MqiError) as error:
                problems.append(f"{_kind_of(folder.name)} {folder.name} cannot be looked at: {_words(error)}")
        if retention.record_days is not None:
            limit = now - timedelta(days=retention.record_days)
            home = site.settings.paths.dagster_home
            for case in removed_cases(instance, site, limit, _busy_cases(instance, site)):
                try:
                    yield Removable(
                        RemovableKind.RECORDS, case, home, records_size(instance, site, case), _NEVER
                    )
                except OSError as error:
                    problems.append(f"{RemovableKind.RECORDS} {case} cannot be looked at: {_words(error)}")
        if retention.engine_log_days is not None:
            limit = now - timedelta(days=retention.engine_log_days)
            yield from _old_files(RemovableKind.ENGINE_LOG, site.engine_logs, "*/*.log", limit)
        if retention.run_output_days is not None:
            limit = now - timedelta(days=retention.run_output_days)
            storage = site.settings.paths.dagster_home / "storage"
            yield from _old_files(RemovableKind.RUN_OUTPUT, storage, "*/compute_logs/*", limit)


def _units(site: Site) -> Iterator[Path]:
    """The folders in the store of cases, courses and image sets, and that of all courses together."""
    for kind in (CASE, COURSE, IMAGE_SET):
        folder = site.settings.paths.data / folder_of(kind)
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        yield from (one for one in found if kind.has(one.name) or (kind is COURSE and one.name == COHORT))


def _kind_of(key: str) -> RemovableKind:
    kinds = {COURSE: RemovableKind.COURSE, IMAGE_SET: RemovableKind.IMAGE_SET}
    return kinds.get(COURSE if key == COHORT else whole_kind(key), RemovableKind.CASE)


def _of_unit(instance: dg.DagsterInstance, site: Site, folder: Path, now: datetime) -> Iterator[Removable]:
    retention = site.settings.retention
    if (
        retention.case_days is not None
        and folder.name != COHORT
        and concluded_before(instance, site, folder.name, now - timedelta(days=retention.case_days))
    ):
        # Looking at the cases before it takes time, in which more of it may have come.
        if folder.name not in _busy_cases(instance, site):
            yield Removable(_kind_of(folder.name), folder.name, folder, size_of(folder), _FROM_INPUTS)
    elif retention.superseded_days is not None:
        yield from _superseded(instance, site, folder, now - timedelta(days=retention.superseded_days))


def remove(instance: dg.DagsterInstance, site: Site, thing: Removable) -> bool:
    """Remove a thing; whether it is gone: what is needed again since it was listed stays.

    A result leaves its place at once and whole, so that nobody reads half of it. The partitions of a case
    go with it; its runs go later, by themselves.

    Raises:
        InfrastructureError: It cannot be removed.
    """
    with _told(f"{thing.kind} {thing.name} cannot be removed"):
        if thing.kind in (*_UNITS, RemovableKind.RECORDS):
            # Between the listing and this, and between this and the removal, more of the case may have come.
            if _wanted_again(instance, site, thing.name):
                return False
            if thing.kind is RemovableKind.RECORDS:
                return remove_records(instance, site, thing.name)
            return _remove_unit(instance, site, thing)
        if thing.kind is RemovableKind.SUPERSEDED:
            if _needed_again(instance, site, thing.path):
                return False
            site.store.discard(thing.path)
        else:
            thing.path.unlink(missing_ok=True)
    return True


def _remove_unit(instance: dg.DagsterInstance, site: Site, thing: Removable) -> bool:
    if thing.path.exists() and not concluded_before(instance, site, thing.name, datetime.now(UTC)):
        return False
    before = site.ledger.arrivals.results_removed_at(thing.name)
    # First: what was asked for before it does not count, however far the removal comes.
    site.ledger.arrivals.mark_results_removed(thing.name)
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
    arrival = site.ledger.arrivals.get(case)
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
) -> Iterator[tuple[Removable, bool]]:
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
    runs = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    names = [run.tags.get(name, "") for run in runs for name in (CASE_TAG, PARTITION_TAG)]
    tables = dg.AssetKey(_COHORT_TABLES)
    names += [
        COHORT for run in runs if run.job_name == cohort_job.name or tables in (run.asset_selection or ())
    ]
    names += [outcome.partition for outcome in site.ledger.outcomes.open_retries()]
    return {root_of(name) for name in names}


def _superseded(
    instance: dg.DagsterInstance, site: Site, folder: Path, limit: datetime
) -> Iterator[Removable]:
    for level in sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()):
        needed = _needed_of_level(instance, site, level)
        if needed is None:
            continue
        for asset in sorted(path for path in level.iterdir() if path.is_dir()):
            for result in sorted(asset.iterdir()):
                if result.name == CURRENT or result.is_symlink() or (asset.name, result.name) in needed:
                    continue
                if _changed(result) < limit:
                    name = f"{_key_of(level)} {asset.name} {result.name[:8]}"
                    again = "only with the inputs and settings of then"
                    yield Removable(RemovableKind.SUPERSEDED, name, result, size_of(result), again)


def _key_of(level: Path) -> str:
    """Key of what a folder in the store is of."""
    case = level.parent.name
    return case if level.name in _JOBS else part_key(case, level.name)


def _needed_of_level(instance: dg.DagsterInstance, site: Site, level: Path) -> set[tuple[str, str]] | None:
    if level.parent.name == COHORT:
        tables = instance.fetch_materializations(dg.AssetKey(_COHORT_TABLES), limit=1).records
        named = digest_in(tables[0]) if tables else None
        return None if named is None else {(_COHORT_TABLES, named)}
    key, jobs = _key_of(level), _JOBS.get(level.name, (beam_job,))
    assets = [asset for job in jobs for asset in job.assets]
    needed = _needed(instance, site, key, assets)
    if needed is not None and whole_kind(key) is not CASE:
        last = latest_made(instance, assets[-1], key)
        if last is not None and last.source is not None:
            # What was taken anew has the last result of before until its next one is made.
            needed.add((assets[0], last.source))
    return needed


def _needed(
    instance: dg.DagsterInstance, site: Site, key: str, assets: Collection[str]
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
            chain = ancestry(instance, site.store, key)
        except StoreError:
            return None
        for made in (chain.interpreted_csvs, chain.tps_file, chain.raw_dose, chain.rt_dose):
            needed.add((made.manifest.asset, made.digest))
    return needed


def _call_off(
    instance: dg.DagsterInstance, site: Site, case: str, beams: list[str], removed_before: datetime | None
) -> None:
    instance.add_dynamic_partitions(unit_of(site, case)[0].name, [case])
    if beams:
        instance.add_dynamic_partitions(BEAM.name, beams)
    site.ledger.arrivals.unmark_results_removed(case, removed_before)


def forget_partitions(instance: dg.DagsterInstance, case: str, beams: list[str]) -> None:
    """Remove the partitions of a case and of its beams, or that of a course or image set."""
    for beam in beams:
        instance.delete_dynamic_partition(BEAM.name, beam)
    kind = whole_kind(case)
    if instance.has_dynamic_partition(kind.name, case):
        instance.delete_dynamic_partition(kind.name, case)


def _old_files(kind: RemovableKind, folder: Path, pattern: str, limit: datetime) -> Iterator[Removable]:
    for path in sorted(folder.glob(pattern)):
        if path.is_file() and _changed(path) < limit:
            name = path.relative_to(folder).parts[0]
            yield Removable(kind, name, path, path.stat().st_size, _NEVER)


def _changed(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
