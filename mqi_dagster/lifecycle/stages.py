"""The stages of a case and a beam, and what people call them."""

from enum import StrEnum


class CaseState(StrEnum):
    """Where a case or a beam stands, in the large."""

    WAITING = "waiting"
    IN_WORK = "in work"
    FAILED = "failed"
    COMPLETE = "complete"
    PARTIAL = "partial"


class Stage(StrEnum):
    """Where a case or a beam stands."""

    INBOX = "inbox"
    """A case that cannot be taken yet."""
    READY = "ready"
    """A case that is taken in next."""
    INTAKE = "intake"
    WAITING = "waiting"
    """No run has been asked for yet."""
    QUEUED = "queued"
    INTERPRETING = "interpreting"
    WAITING_FOR_SLOT = "waiting_for_slot"
    WAITING_FOR_CLUSTER = "waiting_for_cluster"
    """The cluster is away."""
    PREPARING = "preparing"
    SUBMITTING = "submitting"
    QUEUED_ON_CLUSTER = "queued_on_cluster"
    SIMULATING = "simulating"
    VERIFYING = "verifying"
    MAKING_RT_DOSE = "making_rt_dose"
    WAITING_FOR_TARGET = "waiting_for_target"
    """The hand-over target is away."""
    HANDED_OVER = "handed_over"
    BEAMS = "beams"
    """A case whose beams are at work."""
    CONCLUDING = "concluding"
    CONCLUDED = "concluded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RETRIED = "retried"
    """Infrastructure was lost; the services start it again by themselves."""

    @property
    def words(self) -> str:
        """For people."""
        return _WORDS.get(self, self.value.replace("_", " "))

    @property
    def at_work(self) -> bool:
        """Whether a worker is busy with it."""
        return self in _AT_WORK


_WORDS = {
    Stage.INBOX: "in the inbox",
    Stage.READY: "taken in soon",
    Stage.INTAKE: "being taken in",
    Stage.WAITING: "waiting",
    Stage.INTERPRETING: "interpreting the records",
    Stage.WAITING_FOR_SLOT: "waiting for a slot",
    Stage.WAITING_FOR_CLUSTER: "waiting for the cluster",
    Stage.QUEUED_ON_CLUSTER: "queued on the cluster",
    Stage.MAKING_RT_DOSE: "making the RT Dose",
    Stage.WAITING_FOR_TARGET: "waiting for the target",
    Stage.HANDED_OVER: "handed over",
    Stage.BEAMS: "beams at work",
    Stage.CONCLUDING: "being concluded",
    Stage.RETRIED: "tried again by itself",
}
_AT_WORK = frozenset(
    {
        Stage.INTAKE,
        Stage.INTERPRETING,
        Stage.WAITING_FOR_SLOT,
        Stage.WAITING_FOR_CLUSTER,
        Stage.PREPARING,
        Stage.SUBMITTING,
        Stage.QUEUED_ON_CLUSTER,
        Stage.SIMULATING,
        Stage.VERIFYING,
        Stage.MAKING_RT_DOSE,
        Stage.WAITING_FOR_TARGET,
        Stage.CONCLUDING,
    }
)
PHASES = {
    "waiting": Stage.WAITING_FOR_SLOT,
    "waiting for the cluster": Stage.WAITING_FOR_CLUSTER,
    "preparing": Stage.PREPARING,
    "submitting": Stage.SUBMITTING,
    "queued": Stage.QUEUED_ON_CLUSTER,
    "simulating": Stage.SIMULATING,
    "verifying": Stage.VERIFYING,
    "simulated": Stage.MAKING_RT_DOSE,
    "waiting for the target": Stage.WAITING_FOR_TARGET,
}
"""Stage of a beam by the phase that its worker has reported to the ledger."""
OVER = 5
_ORDER = {CaseState.IN_WORK: 1, CaseState.FAILED: 2, CaseState.WAITING: 4}


def order(state: CaseState, stage: Stage) -> int:
    """Place on a board: what is in work first, what is over last, at `OVER`."""
    if stage.at_work:
        return 0
    return 3 if stage is Stage.QUEUED else _ORDER.get(state, OVER)
