"""What has become of a job: one verdict from the queue, the accounting and the job's own account.

The live queue always wins. A record counts only where name and comment are the job's own, since ids are given
out again. That a job is not in an answer proves nothing at first: accounting is late, files are late, and a
controller that was restarted has forgotten its youngest jobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from mqi_dagster.hpc.naming import job_name
from mqi_dagster.hpc.polling import HistoryRecord, PollResult, QueueRecord, Result
from mqi_dagster.hpc.states import needs_a_person, state_of
from mqi_dagster.ledger.cluster_jobs import ClusterJob, Observation
from mqi_dagster.ledger.cluster_jobs import ClusterJobState as State
from mqi_dagster.settings import Intervals

_Record = TypeVar("_Record", QueueRecord, HistoryRecord)
OWNED_BY_ANOTHER = 98
INFRASTRUCTURE_CODES = {96: "Slurm has made the same start twice", 97: "the job's folder was missing or full"}
"""The job script's own: the start was made before; its folder is not there or cannot be made."""
SETUP_FAILED = 95
"""The job script's own, unless the engine ends with the same code: it was never started."""
_KILLED = 9
_OUTPUT_PATH = 53
_BY_ROOT = "CANCELLED by 0"
_NOWHERE = ("", "None assigned")
_OWN_DEATHS = 3
"""Jobs of one key that may die by themselves without a word before that is called a failure."""


@dataclass(frozen=True, slots=True)
class _Silence:
    """How long a job has been without an answer that decides."""

    since: datetime
    now: datetime

    def longer_than(self, seconds: float) -> bool:
        return self.now - self.since > timedelta(seconds=seconds)


def judge(job: ClusterJob, folder: str, poll: PollResult, intervals: Intervals, now: datetime) -> Observation:
    """The verdict on one submitted job.

    Args:
        job: As the ledger has it; it has an id.
        folder: Its folder on the cluster.
        look: What was seen.
        intervals: How long silences are believed.
        now: The time, UTC.
    """
    assert job.job_id is not None, "only a submitted job can be judged"
    queued = _own(poll.queue.get(job.job_id), job)
    if queued is not None:
        state = state_of(queued.state)
        if state is None or not state.ended:
            return _live(job, queued, state)
    # A silence that begins in the future is of a clock that was set back.
    silence = _Silence(min(job.missing_since or now, now), now)
    owner = poll.owners.get(folder)
    if owner is not None and owner != job.job_id and owner not in job.retired:
        # Another job of the same key was first: it is the one that counts.
        return _seen(job, State.RUNNING, f"adopted job {owner}", adopted_id=owner)
    result = poll.results.get((folder, job.job_id))
    history = _own(poll.history.get(job.job_id), job)
    return _ended(job, queued, history, result, owner, intervals, silence)


def _own(record: _Record | None, job: ClusterJob) -> _Record | None:
    if record is None or record.name != job_name(job.partition):
        return None
    # Where accounting stores no comments the name and the time of submission have to do.
    if record.comment not in (job.key, "") or (not record.comment and job.submitted != record.submitted):
        return None
    return record


def _live(job: ClusterJob, queued: QueueRecord, state: State | None) -> Observation:
    reason = queued.reason
    waits = state is State.QUEUED
    if state is None:
        # A word of a newer Slurm: never an end.
        state = job.state if not job.state.ended else State.QUEUED
    elif waits and needs_a_person(reason):
        state = State.HELD
    if waits or state is State.HELD:
        words = reason if reason != "None" else ""
    else:
        words = f"on {queued.node}" if queued.node else ""
    return _seen(
        job,
        state,
        words,
        scheduler_state=queued.state,
        submitted=queued.submitted,
    )


def _ended(
    job: ClusterJob,
    queued: QueueRecord | None,
    history: HistoryRecord | None,
    result: Result | None,
    owner: str | None,
    intervals: Intervals,
    silence: _Silence,
) -> Observation:
    record = queued or history
    state = state_of(record.state) if record is not None else None
    word = record.state if record is not None else ""
    wait = _seen(job, job.state, job.reason, scheduler_state=word, missing_since=silence.since)
    if result is not None and result.signal and result.exit_code != 0:
        # Slurm has interrupted the engine: what became of the job only Slurm can tell.
        result = None
    if result is not None and result.done and job.cancel_requested_at is None:
        # A controller that was restarted or a node that fails ends jobs that had done their work.
        return _by_result(job, result, word)
    if state is None or not state.ended:
        if result is not None:
            # It has ended, whatever the controller has forgotten and the accounting believes.
            return _by_result(job, result, word)
        believed = history is not None
        patience = intervals.lost_seconds if believed else intervals.absent_seconds
        if not silence.longer_than(patience):
            return wait
        text = "only the accounting still believes in it" if believed else "nobody knows it any more"
        return _seen(job, State.LOST, f"the job is lost: {text}", scheduler_state=word)
    if state is State.SUCCEEDED:
        if result is not None:
            return _by_result(job, result, word)
        if not silence.longer_than(intervals.result_wait_seconds):
            return wait
        return _silent_death(job, "the job completed without leaving its result", word)
    if state is State.FAILED:
        return _failed(job, queued, history, result, wait, intervals, silence)
    if state is State.CANCELLED and job.cancel_requested_at is None:
        # Only the accounting knows by whom, a little later.
        who = history.state if history is not None and history.state.startswith("CANCELLED") else ""
        if not who and not silence.longer_than(intervals.absent_seconds):
            return wait
        if history is not None and who == _BY_ROOT and history.node not in _NOWHERE and owner != job.job_id:
            # A node that remembers another job of this id ends this one in place of starting it.
            return _silent_death(job, "a node has ended the job in place of starting it", word)
        return _seen(job, state, f"cancelled on the cluster ({(who or word).lower()})", scheduler_state=word)
    return _seen(job, state, f"Slurm says {word}", scheduler_state=word, result=result)


def _by_result(job: ClusterJob, result: Result, word: str) -> Observation:
    if result.exit_code == 128 + _KILLED:
        text = "the engine was killed (signal 9): out of memory, most likely"
        return _seen(job, State.OUT_OF_MEMORY, text, scheduler_state=word, result=result)
    # Which other codes are good is the engine profile's business: the executor looks at the number.
    state = State.SUCCEEDED if result.exit_code == 0 else State.FAILED
    text = "the modules or scripts of the settings could not be loaded (exit code 95)"
    return _seen(
        job,
        state,
        text if result.exit_code == SETUP_FAILED else "",
        scheduler_state=word,
        result=result,
        exit_code=result.exit_code,
    )


def _failed(
    job: ClusterJob,
    queued: QueueRecord | None,
    history: HistoryRecord | None,
    result: Result | None,
    wait: Observation,
    intervals: Intervals,
    silence: _Silence,
) -> Observation:
    word = wait.scheduler_state
    if result is not None:
        return _by_result(job, result, word)
    reason = queued.reason if queued is not None else ""
    code, number = _exit_code(history.exit_code if history is not None else "")
    if history is None and not silence.longer_than(intervals.absent_seconds):
        # The accounting tells more than the queue, a little later.
        return wait
    if code in INFRASTRUCTURE_CODES:
        return _silent_death(job, INFRASTRUCTURE_CODES[code], word)
    if code == OWNED_BY_ANOTHER:
        return _seen(job, State.LOST, "the job's folder belongs to another job", scheduler_state=word)
    if number == _OUTPUT_PATH:
        return _silent_death(job, "Slurm could not open the job's output file", word)
    if number == _KILLED:
        text = "killed (signal 9): out of memory, most likely"
        return _seen(job, State.OUT_OF_MEMORY, text, scheduler_state=word)
    if "JobLaunchFailure" in reason or "launch failed" in reason:
        return _silent_death(job, "Slurm could not launch the job", word)
    if not silence.longer_than(intervals.result_wait_seconds):
        return wait
    return _silent_death(job, "the job failed without leaving its result", word)


def _silent_death(job: ClusterJob, reason: str, word: str) -> Observation:
    """Lost, to be submitted again, unless that was tried often enough."""
    state = State.LOST if len(job.retired) + 1 < _OWN_DEATHS else State.FAILED
    return _seen(job, state, reason, scheduler_state=word)


def _exit_code(text: str) -> tuple[int, int]:
    code, _, signal = text.partition(":")
    return (int(code) if code.isdigit() else 0, int(signal) if signal.isdigit() else 0)


def _seen(
    job: ClusterJob,
    state: State,
    reason: str,
    *,
    scheduler_state: str = "",
    submitted: str | None = None,
    missing_since: datetime | None = None,
    result: Result | None = None,
    exit_code: int | None = None,
    adopted_id: str | None = None,
) -> Observation:
    assert job.job_id is not None
    return Observation(
        key=job.key,
        job_id=job.job_id,
        state=state,
        scheduler_state=scheduler_state,
        reason=reason,
        exit_code=exit_code,
        result=result.text if result is not None else None,
        submitted=submitted,
        missing_since=missing_since,
        adopted_id=adopted_id,
    )
