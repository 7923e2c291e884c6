"""One simulation of one beam: from the lease to the published raw dose, with live progress."""

import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from mqi_dagster.compute.engine_run import EngineRun
from mqi_dagster.compute.leased_work import LeasedWork
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
)
from mqi_dagster.execution.job import Executor, Job, JobState, JobStatus
from mqi_dagster.execution.scrub import Scrubber
from mqi_dagster.execution.work import ENGINE, GpuNeed, Needs, Work
from mqi_dagster.hu_table import HuTable
from mqi_dagster.lifecycle.beam import BeamAtWork, require_unchanged
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


class SimulatedBeam(LeasedWork[EngineRun]):
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
        super().__init__(
            context,
            site,
            executor,
            beam.key,
            digest,
            beam.where,
            Scrubber(beam.plan.identifiers),
            log_name=LOG_NAME,
            at_work=WorkPhase.SIMULATING,
            run_type=EngineRun,
        )
        self._pool = pool
        self._store = store
        self._beam = beam
        self._csvs = csvs
        self._profile = site.settings.engine_profile()
        self._version = version
        self._hu_table = hu_table

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

    def _interpreted(self) -> InterpretedBeam:
        return read_summary(self._csvs.folder)

    def prepare(self) -> tuple[Published, JobView]:
        """Write the engine's view of the beam and publish its TPS file."""
        assert self._progress is not None and self._attempt is not None
        self._progress.phase(WorkPhase.PREPARING)
        self.clear_leftovers()
        settings = self._site.settings
        self.work.parent.mkdir(parents=True, exist_ok=True)
        view = prepare_view(
            self.work,
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
        assert self._progress is not None and self._attempt is not None
        job = Job(
            key=self._job_key,
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
            work=self._work_of_a_worker(),
        )
        started = mark_start(view)
        engine = self._watching(job)
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

    def _work_of_a_worker(self) -> Work:
        """What a worker is told that asks for the job."""
        needs = Needs(
            program=ENGINE,
            version=self._version if self._profile.version_command is not None else "",
            gpu=GpuNeed.NEEDED if self._profile.needs_gpu else GpuNeed.NO,
            gpu_memory_mb=self._profile.gpu_memory_mb,
        )
        return Work(needs=needs, arguments={"tps": TPS_NAME}, marked=(TPS_NAME,))

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
