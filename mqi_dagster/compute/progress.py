"""Live progress of an engine: the ledger at every step, run tags and an observation every 10 %."""

from collections.abc import Callable

import dagster as dg

from mqi_dagster.engine_contract.progress import EngineProgress
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.lifecycle.boundary import lost_infrastructure
from mqi_dagster.lifecycle.stages import WorkPhase

_STEP_PERCENT = 10
PROGRESS_TAG = "mqi/progress"
SLOT_TAG = "mqi/slot"
JOB_TAG = "mqi/job"
JOB_KEY_TAG = "mqi/job_key"
PHASE_TAG = "mqi/phase"


class LiveProgress:
    """Tells the ledger, the run's tags and the event log how far a partition is.

    Databases that are away are no reason to end an engine: what cannot be told now is told at the next step.

    Args:
        context: Of the step.
        ledger: Where the board reads it.
        beam: Key of the beam, or of another partition.
        attempt: Number of the attempt.
        at_work: What a job that runs is doing.
        label: On what, for people, where that is not the whole partition.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        ledger: Ledger,
        beam: str,
        attempt: int,
        at_work: WorkPhase = WorkPhase.SIMULATING,
        label: str = "",
    ) -> None:
        self._context = context
        self._ledger = ledger
        self._beam = beam
        self._attempt = attempt
        self._at_work = at_work
        self._label = label
        self._observed = 0
        self._percent = 0.0

    def _best_effort(self, say: Callable[[], object]) -> None:
        try:
            say()
        except InfrastructureError:
            return
        except Exception as error:
            if lost_infrastructure(error) is None:
                raise

    def _log(self, text: str, *values: object) -> None:
        self._best_effort(lambda: self._context.log.info(text, *values))

    def _tag(self, tags: dict[str, str]) -> None:
        self._best_effort(lambda: self._context.instance.add_run_tags(self._context.run.run_id, tags))

    def _report(
        self,
        phase: WorkPhase,
        percent: float,
        event: EngineProgress | None = None,
        histories: float | None = None,
        message: str = "",
    ) -> None:
        self._best_effort(
            lambda: self._ledger.progress.record(
                self._beam,
                self._context.run.run_id,
                phase,
                event.batch if event else None,
                event.batches if event else None,
                percent,
                histories,
                message,
                attempt=self._attempt,
            )
        )

    def phase(self, phase: WorkPhase) -> None:
        """A change of state: a log line, a tag and a row."""
        self._log("%s (attempt %d)", phase, self._attempt)
        self._tag({PHASE_TAG: phase.value})
        self._report(phase, 0.0)

    def waiting(self, phase: WorkPhase, reason: str) -> None:
        """The job waits, for a place or for the cluster: the reason stands where people look."""
        self._log("%s: %s", phase, reason)
        self._tag({PHASE_TAG: phase.value})
        self._report(phase, self._percent, message=reason)

    def started(self, slot: str, job_id: str, key: str) -> None:
        """The job exists; it is written down before anybody waits for it."""
        self._log("%s on %s (attempt %d), job %s", self._at_work, slot, self._attempt, job_id)
        self._tag(
            {
                PHASE_TAG: self._at_work.value,
                SLOT_TAG: slot,
                JOB_TAG: job_id,
                JOB_KEY_TAG: key,
                PROGRESS_TAG: "0 %",
            }
        )
        self._percent = 0.0
        self._report(self._at_work, 0.0, message=self._label)

    def running(self, message: str) -> None:
        """The job runs, after it has waited."""
        self._tag({PHASE_TAG: self._at_work.value})
        self._report(self._at_work, self._percent, message=message or self._label)

    def event(self, event: EngineProgress) -> None:
        """One step of the engine."""
        self._percent = percent = 100.0 * event.fraction
        self._report(self._at_work, percent, event)
        reached = int(percent // _STEP_PERCENT) * _STEP_PERCENT
        if reached > self._observed:
            self._observed = reached
            self._tag({PROGRESS_TAG: f"{reached} %"})
            seen = dg.AssetObservation(
                asset_key="raw_dose", partition=self._beam, metadata={"progress [%]": reached}
            )
            self._best_effort(lambda: self._context.log_event(seen))

    def done(self, histories: int | None = None, phase: WorkPhase = WorkPhase.SIMULATED) -> None:
        """The output is verified."""
        self._tag({PHASE_TAG: phase.value, PROGRESS_TAG: "100 %"})
        self._report(phase, 100.0, histories=float(histories) if histories is not None else None)
