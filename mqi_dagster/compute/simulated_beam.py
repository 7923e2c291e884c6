"""One simulation of one beam: from the lease to the published raw dose, with live progress."""

import hashlib
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import dagster as dg

from mqi_dagster.compute.engine_run import EngineRun
from mqi_dagster.compute.progress import LiveProgress
from mqi_dagster.compute.retrying import Retrying
from mqi_dagster.compute.slots import engine_environment, gpus_seen, wait_for_slot
from mqi_dagster.delivery.summary import InterpretedBeam, read_summary
from mqi_dagster.engine_contract.job_view import TPS_NAME, JobView, mark_start
from mqi_dagster.engine_contract.output import RawDose, read_output
from mqi_dagster.engine_contract.progress import ProgressParser, engine_failure
from mqi_dagster.engine_contract.view import prepare_view
from mqi_dagster.errors import (
    EngineError,
    EngineTimeoutError,
    InfrastructureError,
    JobCancelledError,
    MqiError,
    Retry,
)
from mqi_dagster.execution.job import Executor, Job, JobHandle, JobState, JobStatus
from mqi_dagster.execution.scrub import Scrubber
from mqi_dagster.files import write_whole
from mqi_dagster.hu_table import HuTable
from mqi_dagster.ledger.attempts import Attempt, Outcome
from mqi_dagster.ledger.leases import Lease, LeaseKeeper
from mqi_dagster.lifecycle.beam import BeamAtWork, require_unchanged
from mqi_dagster.lifecycle.boundary import safe_text
from mqi_dagster.lifecycle.digests import tps_file_digest
from mqi_dagster.lifecycle.lineage import store_folder
from mqi_dagster.lifecycle.raw_dose_files import RECORD_FILE, RawDoseRecord, copy_files
from mqi_dagster.lifecycle.stages import WorkPhase
from mqi_dagster.partitions import beam_folder
from mqi_dagster.resources.gpu_pool import GpuPool
from mqi_dagster.resources.site import Site
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import Store

LOG_NAME = "engine.log"
WATER_SURFACE_MM = 20.0
"""Engine z of the water surface in 2 cm mode."""

SimulationResults = tuple[Published, Published]


class SimulatedBeam:
    """One run's work on one beam; as a context manager it gives back what it holds, however it ends.

    Args:
        context: Of the step.
        site: The installation.
        executor: Where its engines run.
        pool: Its slots.
        store: Its results.
        beam: The beam.
        csvs: Its published CSVs.
        digest: Digest of the raw dose to be made.
        version: The engine's version.
        hu_table: The table of the CT's scanner, where the beam is simulated with one.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        site: Site,
        executor: Executor,
        pool: GpuPool,
        store: Store,
        beam: BeamAtWork,
        csvs: Published,
        digest: str,
        version: str,
        hu_table: HuTable | None,
    ) -> None:
        self._context = context
        self._site = site
        self._executor = executor
        self._pool = pool
        self._store = store
        self._beam = beam
        self._csvs = csvs
        self._digest = digest
        self._run_id = context.run.run_id
        self._profile = site.settings.engine_profile()
        self._version = version
        self._hu_table = hu_table
        self._scrubber = Scrubber(beam.plan.identifiers)
        self._lease: Lease | None = None
        self._keeper: LeaseKeeper | None = None
        self._attempt: Attempt | None = None
        self._progress: LiveProgress | None = None
        self._engine: EngineRun | None = None

    def acquire(self, made_meanwhile: Callable[[], SimulationResults | None]) -> SimulationResults | None:
        """Wait for a slot.

        Args:
            made_meanwhile: The result, if another run has made it while this one waited.

        Returns:
            That result, or None when the slot is held.
        """
        self._lease = wait_for_slot(self._context, self._site, self._pool, self._beam.key)
        made = made_meanwhile()
        if made is not None:
            self._site.ledger.leases.release(self._lease)
        return made

    @property
    def _held(self) -> Lease:
        if self._lease is None:
            raise InfrastructureError("the step works without a lease")
        return self._lease

    @property
    def slot(self) -> str:
        """Name of the leased slot."""
        return self._held.name

    def __enter__(self) -> Self:
        execution = self._site.settings.execution
        self._keeper = LeaseKeeper(
            self._site.ledger.leases,
            self._held,
            every=timedelta(seconds=execution.heartbeat_seconds),
        )
        self._keeper.__enter__()
        self._attempt = self._site.ledger.attempts.begin(self._beam.key, self._digest, self._run_id)
        self._progress = LiveProgress(self._context, self._site.ledger, self._beam.key, self._attempt.number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._engine is not None and self._engine.in_flight:
                cancelled = self._cancelling(error)
                try:
                    goes_on = self._engine.leave(cancelled=cancelled)
                except MqiError as failure:
                    if not cancelled:
                        raise
                    # The engine may still run, so the slot is not free; the reaper sees to both.
                    self._context.log.error("the job is not confirmed to have ended: %s", failure.message)
                    return
                if goes_on:
                    # Job, attempt and lease stay as they are: the next run takes them over.
                    self._context.log.info("detached: the job goes on, the next run continues with it")
                    return
            try:
                self._keep_log()
                if self._attempt is not None:
                    outcome, cause = self._outcome(error)
                    self._site.ledger.attempts.end(self._attempt, outcome, cause)
            finally:
                self._site.ledger.leases.release(self._held)
        finally:
            if self._keeper is not None:
                self._keeper.__exit__(kind, error, trace)
            shutil.rmtree(self._work, ignore_errors=True)

    def _cancelling(self, error: BaseException | None) -> bool:
        """Whether an interrupt is an operator's wish: a service that stops interrupts in the same way."""
        if error is None or isinstance(error, Exception):
            return False
        run = self._context.instance.get_run_by_id(self._run_id)
        ending = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)
        return run is not None and run.status in ending

    def _keep_log(self) -> None:
        """Keep what the engine printed, scrubbed of identifiers and paths."""
        raw = self._work / LOG_NAME
        if self._attempt is None or not raw.is_file():
            return
        folder = self._site.engine_logs / self._beam.key
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / f"{self._attempt.job_key}.log", self._scrubber.bytes(raw.read_bytes()))
        except OSError as error:
            # A full disk must not hide why the engine failed.
            self._context.log.warning("the engine's log is not kept: %s", error.strerror)

    def _outcome(self, error: BaseException | None) -> tuple[Outcome, str | None]:
        if error is None:
            return Outcome.SUCCEEDED, None
        if isinstance(error, JobCancelledError):
            return Outcome.CANCELLED, str(error.at(self._beam.where))
        if isinstance(error, MqiError):
            failed = error.retry is not Retry.FOREVER
            return (Outcome.FAILED if failed else Outcome.LOST), str(error.at(self._beam.where))
        if isinstance(error, Exception):
            return Outcome.FAILED, safe_text(error)
        if self._cancelling(error):
            return Outcome.CANCELLED, "cancelled by an operator"
        return Outcome.LOST, f"interrupted: {type(error).__name__}"

    @property
    def _work(self) -> Path:
        return self._site.work / f"{self._beam.key}.{self._run_id}"

    def _interpreted(self) -> InterpretedBeam:
        return read_summary(self._csvs.folder)

    def prepare(self) -> tuple[Published, JobView]:
        """Write the engine's view of the beam and publish its TPS file."""
        assert self._progress is not None and self._attempt is not None
        self._progress.phase(WorkPhase.PREPARING)
        # The lease is ours, so whatever an earlier run of this beam left is nobody's.
        for left in self._site.work.glob(f"{self._beam.key}.*"):
            shutil.rmtree(left, ignore_errors=True)
        settings = self._site.settings
        self._work.parent.mkdir(parents=True, exist_ok=True)
        view = prepare_view(
            self._work,
            profile=self._profile,
            plan_source=require_unchanged(self._beam.manifest.plan, "RT plan"),
            plan_beam=self._beam.plan_beam,
            machine=self._beam.machine,
            interpreted_dir=self._csvs.folder,
            interpreted=self._interpreted(),
            ct_files=self._beam.manifest.ct_series,
            hu_table=None if self._hu_table is None else self._hu_table.curves,
            engine=settings.engine,
            # The engine sees only the GPUs it was given, so it counts them from 0.
            gpu_index=0,
            gpu_count=gpus_seen(self._held, settings),
            seen_as=self._executor.engine_folder,
        )
        digest = tps_file_digest(
            self._beam,
            self._csvs.digest,
            settings.engine,
            self._version,
            self._hu_table,
            view.tps.for_digest(),
        )
        case, folder = store_folder(self._beam.key)
        with self._store.stage(case, folder, "tps_file") as staging:
            shutil.copyfile(view.tps_path, staging / TPS_NAME)
            meta = {
                "particles_per_history": view.particles_per_history,
                "expected_histories": view.expected_histories,
            }
            tps = self._store.publish(staging, case, folder, "tps_file", digest, meta=meta)
        return tps, view

    def simulate(self, view: JobView, tps: Published) -> Published:
        """Run the engine, watch it, verify what it wrote, and publish it.

        Raises:
            EngineError: It failed, ran too long, or left no valid dose of this beam.
        """
        assert self._progress is not None and self._attempt is not None and self._keeper is not None
        job = Job(
            key=f"{self._beam_mark}-{self._attempt.job_key}",
            name=self._beam.key,
            parents=(self._beam.case, beam_folder(self._beam.number)),
            directory=view.directory,
            manifest=view.manifest,
            argv=view.argv,
            outputs=view.outputs,
            log=LOG_NAME,
            timeout_seconds=self._site.settings.engine.timeout_seconds,
            environment=engine_environment(self._held, self._site.settings),
            success_exit_codes=self._profile.success_exit_codes,
        )
        started = mark_start(view)
        engine = EngineRun(
            self._context.log,
            self._executor,
            job,
            self._progress,
            Retrying(self._context.log, self._executor.intervals, self._pause),
            self._keeper.check,
            self._note_job,
            self.slot,
        )
        self._engine = engine
        status = engine.run()
        try:
            self._raise_failure(status, engine.parser)
        except InfrastructureError as error:
            # The attempt is repeated under the same key, and must not find this job again.
            self._executor.give_up(job, error.message)
            raise
        self._progress.phase(WorkPhase.VERIFYING)
        fetched = engine.fetch()
        dose = read_output(view, self._profile, started, engine.parser.histories, fetched)
        published = self._publish(view, tps, fetched, dose, engine.parser)
        engine.clear()
        self._progress.done(engine.parser.histories)
        return published

    @property
    def _beam_mark(self) -> str:
        """Tells the jobs of beams apart whose content, and so whose digest, is the same."""
        return hashlib.sha256(self._beam.key.encode()).hexdigest()[:8]

    def _pause(self, reason: str) -> None:
        """Between two tries: stop where the lease is gone, and say what is waited for."""
        assert self._keeper is not None and self._progress is not None
        self._keeper.check()
        if reason:
            self._progress.waiting(WorkPhase.WAITING_FOR_CLUSTER, reason)

    def _note_job(self, handle: JobHandle) -> None:
        self._lease = self._site.ledger.leases.set_job(self._held, handle.executor, handle.job_id)

    def _raise_failure(self, status: JobStatus, parser: ProgressParser) -> None:
        if status.state is JobState.TIMED_OUT:
            raise EngineTimeoutError(f"{status.reason} (engine.timeout_seconds)")
        if status.state is JobState.CANCELLED:
            raise JobCancelledError(f"{status.reason}; to run it again: mqi case retry {self._beam.case}")
        if status.state is JobState.FAILED and status.exit_code is None:
            raise EngineError(status.reason)
        failure = engine_failure(self._profile, status.exit_code, parser, self._scrubber.text)
        if failure is not None:
            raise failure

    def _publish(
        self,
        view: JobView,
        tps: Published,
        fetched: dict[str, Path],
        dose: RawDose,
        parser: ProgressParser,
    ) -> Published:
        case, folder = store_folder(self._beam.key)
        phantom = view.tps.using_phantom_geo
        with self._store.stage(case, folder, "raw_dose") as staging:
            record = RawDoseRecord(
                beam_name=view.beam_name,
                engine=self._site.settings.engine.profile,
                version=self._version,
                seed=self._site.settings.engine.seed,
                histories=dose.histories,
                protons=view.protons,
                particles_per_history=view.particles_per_history,
                dose_factor=view.dose_factor,
                uncertainty_percent=parser.uncertainty_percent,
                commissioned=self._beam.machine.beam_model.commissioned,
                interpreted_csvs=self._csvs.digest,
                water_surface_mm=WATER_SURFACE_MM if phantom and view.tps.two_centimeter_mode else None,
                hu_table=None if self._hu_table is None else self._hu_table.id,
                hu_calibrated=None if self._hu_table is None else self._hu_table.calibrated,
                files=copy_files(view, fetched, dose, staging),
            )
            (staging / RECORD_FILE).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
            meta = {
                "tps_file": tps.digest,
                "histories": dose.histories,
                "uncertainty_percent": parser.uncertainty_percent,
            }
            return self._store.publish(staging, case, folder, "raw_dose", self._digest, meta=meta)
