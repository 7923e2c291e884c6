"""Every course of a tree, headless: the assets that the services make, each course in its own process."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import dagster as dg

from mqi_dagster.compute.run_workers import IN_WORK, end_dead_runs
from mqi_dagster.courses.dicom_index import ScanProgress
from mqi_dagster.courses.grouping import groups
from mqi_dagster.errors import ConfigurationError, InputError, MqiError
from mqi_dagster.lifecycle.course import arrival_of, keyed_courses, open_index
from mqi_dagster.lifecycle.lineage import latest_record
from mqi_dagster.lifecycle.materialisations import COURSE_REPORT, INVENTORY
from mqi_dagster.lifecycle.stages import CaseState
from mqi_dagster.operations.course_files import file_problems
from mqi_dagster.operations.course_results import RunResult, cohort_folder, course_result
from mqi_dagster.operations.course_stages import assets_of, missing_stage
from mqi_dagster.operations.course_worker import run_cohort, run_course
from mqi_dagster.operations.in_process import require_apart
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.operations.services import clear_leftovers
from mqi_dagster.operations.site_folder import RunOptions, make_run_site, settings_wanted
from mqi_dagster.operations.sites import SETTINGS_NAME
from mqi_dagster.operations.stage_progress import StageProgress
from mqi_dagster.partitions import COURSE
from mqi_dagster.processes.pool import TaskResults, run_tasks
from mqi_dagster.processes.progress import Progress
from mqi_dagster.processes.worker_counts import available_memory_bytes, courses_at_once, processors
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import read_settings
from mqi_dagster.settings.radiotherapy import ModelDevice

LOG_NAME = "course_run.log"
_COHORT = "cohort"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CourseRun:
    """What `mqi course run` was asked to do."""

    out: Path
    options: RunOptions
    stages: tuple[str, ...] = ()
    """Empty: all."""
    courses: tuple[str, ...] = ()
    """Keys; empty: all of the tree."""


class Display(Protocol):
    """Shows somebody how far a run is."""

    def note(self, text: str) -> None:
        """Say something beside what is shown."""

    def progress(self, progress: Progress) -> None:
        """Show how far something is, by its label."""


class CourseRunner:
    """Runs every course of a tree into a site.

    Args:
        request: What to run.
        display: Shows how far it is.

    Raises:
        ConfigurationError: The settings do not fit, name no tree or files that cannot be used, or the folder
            has the results of another tree.
        InputError: A stage is unknown.
    """

    def __init__(self, request: CourseRun, display: Display) -> None:
        self._request, self._display = request, display
        self._assets = assets_of(request.stages)
        _require_usable(request, self._assets)
        make_run_site(request.out, request.options)
        self.site = Site(request.out.resolve() / SETTINGS_NAME)
        self.settings = self.site.settings.radiotherapy

    def run(self) -> RunResult:
        """Run every course, each to its end, whatever becomes of the others.

        Raises:
            InputError: There is no course, or not the one that was asked for.
        """
        clear_leftovers(self.site.settings)
        with _logged(self.site), open_instance(self.site.settings) as instance:
            # Runs of an earlier command that was killed would look as if in work.
            end_dead_runs(instance, self.site, IN_WORK, self._display.note)
            stages = ", ".join(self._request.stages) or "all stages"
            _log.info("%s; %d courses at once", stages, self._workers)
            organises = INVENTORY in self._assets
            known = self._organise(instance) if organises else self._organised(instance)
            chosen = self._chosen(known)
            try:
                errors = self._run_courses(instance, chosen)
                results = [course_result(instance, self.site, key, errors.get(key)) for key in chosen]
                tables = None
                if COURSE_REPORT in self._assets and any(one.error is None for one in results):
                    tables = self._run_cohort()
            finally:
                # Those of an interrupt, and of processes that were killed on every try.
                end_dead_runs(instance, self.site, IN_WORK, self._display.note)
            for one in results:
                _log.info("%s: %s", one.course, one.error or "done")
            failed = tables is not None or any(one.error is not None for one in results)
            state = CaseState.FAILED if failed else CaseState.COMPLETE
            folder = cohort_folder(instance, self.site)
            return RunResult(status=state, courses=tuple(results), tables=folder, error=tables)

    @property
    def _workers(self) -> int:
        return courses_at_once(self.settings)

    def _organise(self, instance: dg.DagsterInstance) -> list[str]:
        """Bring the index up to date and write down which courses there are, as the sensor does."""
        aside: Counter[str] = Counter()
        found: dict[str, tuple[str, str]] = {}
        with closing(open_index(self.site)) as index:
            counts = index.scan(
                workers=self._workers, without=[self._request.out.resolve()], progress=self._show_scan
            )
            self._note(f"{counts.files} files in the tree, {counts.opened} of them read now")
            for group in groups(index, self.site.pseudonyms.keyed, self.settings.max_days):
                aside.update(one.reason.value for one in group.set_aside)
                try:
                    courses = keyed_courses(self.site, group)
                except InputError as error:
                    self._note(f"a patient's courses are left out: {error}")
                    continue
                for key, inventory in courses.items():
                    found[key] = arrival_of(self.site, key, inventory)
        if aside:
            words = ", ".join(f"{count} {reason}" for reason, count in sorted(aside.items()))
            self._note(f"of no course: {words}")
        gone = set(instance.get_dynamic_partitions(COURSE.name)).difference(found)
        if gone:
            self._note(f"not in the tree any more: {', '.join(sorted(gone))}")
        for key, (arrival, fingerprint) in found.items():
            self.site.ledger.arrivals.record(arrival, key, fingerprint, True, "", None, kind=COURSE.name)
            if not self._request.courses or key in self._request.courses:
                # As if the sensor had asked for it, so that services started later do not run it again.
                self.site.ledger.arrivals.mark_requested(key, fingerprint)
        instance.add_dynamic_partitions(COURSE.name, sorted(found))
        return sorted(found)

    def _organised(self, instance: dg.DagsterInstance) -> list[str]:
        keys = sorted(filter(COURSE.has, instance.get_dynamic_partitions(COURSE.name)))
        return [key for key in keys if latest_record(instance, INVENTORY, key) is not None]

    def _chosen(self, known: Sequence[str]) -> Sequence[str]:
        if not known and INVENTORY in self._assets:
            raise InputError(
                "the tree holds no course: no plan, dose or structure set is in it; name the folder that"
                " DICOM files were exported to (--dicom-root)"
            )
        if not known:
            raise InputError("no course is organised yet: run `--stage organize` first")
        unknown = sorted(set(self._request.courses).difference(known))
        if unknown:
            site = shlex.quote(str(self._request.out))
            raise InputError(
                f"no course {', '.join(unknown)} is known here; `mqi course list --site {site}` names them"
            )
        return [key for key in known if not self._request.courses or key in self._request.courses]

    def _run_courses(self, instance: dg.DagsterInstance, courses: Sequence[str]) -> dict[str, MqiError | str]:
        """Make the assets of courses; what went wrong, by course."""
        errors: dict[str, MqiError | str] = self._not_ready(instance, courses)
        ready = [key for key in courses if key not in errors]
        file, assets = str(self.site.settings_file), list(self._assets)
        tasks = {key: {"settings_file": file, "course": key, "assets": assets} for key in ready}
        stages = StageProgress(instance, self.site.settings, self._assets, ready, self._display.progress)
        with stages.watching():
            done = run_tasks(
                tasks,
                run_course,
                label="Courses",
                workers=self._workers,
                memory_bytes=self._memory_bytes,
                threads=max(1, processors() // min(self._workers, len(ready) or 1)),
                progress=self._display.progress,
            )
        self._show_steps(done)
        errors.update(done.errors)
        errors.update({key: str(cause) for key, cause in done.results.items() if cause is not None})
        return errors

    def _not_ready(self, instance: dg.DagsterInstance, courses: Sequence[str]) -> dict[str, MqiError | str]:
        if not self._request.stages:
            return {}
        from mqi_dagster.definitions import build_definitions

        definitions, errors = build_definitions(self.site), dict[str, MqiError | str]()
        for key in courses:
            stage = missing_stage(instance, definitions, self._assets, key)
            if stage is not None:
                errors[key] = f"what it needs is not made yet: run `--stage {stage}` first"
        return errors

    def _run_cohort(self) -> str | None:
        """Make the tables of all courses; what went wrong."""
        done = run_tasks(
            {_COHORT: {"settings_file": str(self.site.settings_file)}},
            run_cohort,
            label="Cohort tables",
            workers=1,
            memory_bytes=self._memory_bytes,
            threads=processors(),
            progress=self._display.progress,
        )
        if done.errors:
            return str(done.errors[_COHORT])
        cause = done.results[_COHORT]
        return None if cause is None else str(cause)

    @property
    def _memory_bytes(self) -> int | None:
        """For all processes together; none where CUDA is used, which reserves far more than it uses."""
        device = self.settings.segmentation.device
        return None if device is ModelDevice.GPU else available_memory_bytes()

    def _show_scan(self, scan: ScanProgress) -> None:
        self._display.progress(Progress(f"Index {scan.stage}", scan.done, scan.total, scan.elapsed_s))

    def _show_steps(self, done: TaskResults) -> None:
        for step in done.steps:
            self._display.note(str(step))

    def _note(self, text: str) -> None:
        _log.info("%s", text)
        self._display.note(text)


def _require_usable(request: CourseRun, assets: Collection[str]) -> None:
    """Check what a run will read, before anything is written.

    Raises:
        ConfigurationError: The settings do not fit, name no tree, or files that cannot be used; or the folder
            has the results of another tree.
    """
    wanted = settings_wanted(request.out, request.options)
    root = wanted.radiotherapy.dicom_root
    if root is None:
        raise ConfigurationError("name the tree of DICOM files: --dicom-root, or radiotherapy.dicom_root")
    if not root.is_dir():
        raise ConfigurationError("dicom_root: there is no such folder")
    require_apart(root, request.out)
    file = request.out / SETTINGS_NAME
    if INVENTORY not in assets and file.is_file():
        before = read_settings(file).radiotherapy.dicom_root
        if before is not None and before.resolve() != root.resolve():
            raise ConfigurationError(
                "dicom_root: the results in this folder are of another tree: run `--stage organize` (or all"
                " stages) with this one first, or name another folder (--out)"
            )
    if faults := [f"{key}: {fault}" for key, fault in file_problems(wanted, assets)]:
        raise ConfigurationError("\n".join(["files that the settings name cannot be used:", *faults]))


@contextmanager
def _logged(site: Site) -> Iterator[None]:
    """What the platform logs meanwhile stands in the main log of the run."""
    folder = site.settings.paths.state / "logs"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / LOG_NAME, encoding="utf-8")
    handler.setFormatter(_Utc("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("mqi_dagster")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    except BaseException as error:
        logger.error("ended: %s", error if isinstance(error, MqiError) else type(error).__name__)
        raise
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


class _Utc(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        return f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%d %H:%M:%S}"
