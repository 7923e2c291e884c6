"""Slurm's states as ours; a word that is not in the list is no end of a job."""

from __future__ import annotations

from mqi_dagster.ledger.cluster_jobs import ClusterJobState as State

STATES: dict[str, State] = {
    "PENDING": State.QUEUED,
    "CONFIGURING": State.QUEUED,
    "REQUEUED": State.QUEUED,
    "REQUEUE_FED": State.QUEUED,
    "RESV_DEL_HOLD": State.HELD,
    "SPECIAL_EXIT": State.HELD,
    "REQUEUE_HOLD": State.HELD,
    "SUSPENDED": State.HELD,
    "STOPPED": State.HELD,
    "RUNNING": State.RUNNING,
    # Its files are not final before it has left this state.
    "COMPLETING": State.RUNNING,
    "SIGNALING": State.RUNNING,
    "STAGE_OUT": State.RUNNING,
    "RESIZING": State.RUNNING,
    "COMPLETED": State.SUCCEEDED,
    "FAILED": State.FAILED,
    "OUT_OF_MEMORY": State.OUT_OF_MEMORY,
    "TIMEOUT": State.TIMED_OUT,
    "DEADLINE": State.TIMED_OUT,
    "CANCELLED": State.CANCELLED,
    "NODE_FAIL": State.LOST,
    "BOOT_FAIL": State.LOST,
    "LAUNCH_FAILED": State.LOST,
    "RECONFIG_FAIL": State.LOST,
    "REVOKED": State.LOST,
    "PREEMPTED": State.LOST,
}
"""Slurm's long names (squeue ``%T``, sacct ``State``)."""

LIVE = tuple(name for name, state in STATES.items() if not state.ended)

_NEEDS_A_PERSON = (
    "DependencyNeverSatisfied",
    "JobHeld",
    "launch failed requeued held",
    "ReqNodeNotAvail",
    "QOS",
    "Assoc",
    "PartitionDown",
    "PartitionInactive",
    "PartitionTimeLimit",
    "PartitionNodeLimit",
    "BadConstraints",
    "InvalidAccount",
    "InvalidQOS",
    "AccountNotAllowed",
)


def state_of(word: str) -> State | None:
    """Our state of one of Slurm's words (``CANCELLED by 1000`` too), None for a word that is not known."""
    name = word.split(" ", 1)[0].rstrip("+")
    return STATES.get(name)


def needs_a_person(reason: str) -> bool:
    """Whether a pending job's reason does not go away by waiting for other jobs."""
    return any(word in reason for word in _NEEDS_A_PERSON)
