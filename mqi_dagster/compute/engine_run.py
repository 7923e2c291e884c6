"""The job of an engine: what it prints tells how far it is."""

from collections.abc import Callable

import dagster as dg

from mqi_dagster.compute.job_run import JobRun
from mqi_dagster.compute.progress import LiveProgress
from mqi_dagster.compute.retrying import Retrying
from mqi_dagster.engine_contract.progress import ProgressParser
from mqi_dagster.execution.job import Executor, Job, JobHandle


class EngineRun(JobRun):
    """One job of one beam; see `JobRun`."""

    def __init__(
        self,
        log: dg.DagsterLogManager,
        executor: Executor,
        job: Job,
        progress: LiveProgress,
        retrying: Retrying,
        check: Callable[[], None],
        note_job: Callable[[JobHandle], None],
        slot: str,
    ) -> None:
        super().__init__(log, executor, job, progress, retrying, check, note_job, slot)
        self._told = progress
        self.parser = ProgressParser()

    def log_begins(self) -> None:
        """Read the log from its beginning."""
        self.parser = ProgressParser()

    def log_goes_on(self, text: bytes) -> None:
        """Tell each step of the engine."""
        for event in self.parser.feed(text):
            self._told.event(event)

    def log_ends(self) -> None:
        """Tell what the last line says."""
        for event in self.parser.close():
            self._told.event(event)
