"""The stages of a case and a beam, what people call them, and which of them a worker reports."""

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
    TREE = "tree"
    """A course whose files may still be coming."""
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
    IN_WORK = "in_work"
    """Its worker reports something that this code does not know."""
    PREPARING = "preparing"
    SUBMITTING = "submitting"
    QUEUED_ON_CLUSTER = "queued_on_cluster"
    SIMULATING = "simulating"
    VERIFYING = "verifying"
    MAKING_RT_DOSE = "making_rt_dose"
    SEGMENTING = "segmenting"
    SEGMENTED = "segmented"
    """By one model: others may follow."""
    MAKING_STRUCTURES = "making_structures"
    MAKING_TABLES = "making_tables"
    FETCHING = "fetching"
    STORING = "storing"
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
    Stage.TREE: "in the tree",
    Stage.READY: "taken in soon",
    Stage.INTAKE: "being taken in",
    Stage.WAITING: "waiting",
    Stage.INTERPRETING: "interpreting the records",
    Stage.WAITING_FOR_SLOT: "waiting for a slot",
    Stage.WAITING_FOR_CLUSTER: "waiting for the cluster",
    Stage.QUEUED_ON_CLUSTER: "queued on the cluster",
    Stage.MAKING_RT_DOSE: "making the RT Dose",
    Stage.MAKING_STRUCTURES: "making the structures",
    Stage.MAKING_TABLES: "making the tables",
    Stage.FETCHING: "fetching the images",
    Stage.STORING: "storing the result",
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
        Stage.IN_WORK,
        Stage.PREPARING,
        Stage.SUBMITTING,
        Stage.QUEUED_ON_CLUSTER,
        Stage.SIMULATING,
        Stage.VERIFYING,
        Stage.MAKING_RT_DOSE,
        Stage.SEGMENTING,
        Stage.SEGMENTED,
        Stage.MAKING_STRUCTURES,
        Stage.MAKING_TABLES,
        Stage.FETCHING,
        Stage.STORING,
        Stage.WAITING_FOR_TARGET,
        Stage.CONCLUDING,
    }
)


class WorkPhase(StrEnum):
    """What a worker is doing for a case or a beam, as it reports to the ledger."""

    WAITING_FOR_SLOT = "waiting"
    WAITING_FOR_CLUSTER = "waiting for the cluster"
    PREPARING = "preparing"
    SUBMITTING = "submitting"
    QUEUED_ON_CLUSTER = "queued"
    SIMULATING = "simulating"
    ORGANISING = "organising"
    SEGMENTING = "segmenting"
    SEGMENTED = "segmented"
    """A model and a series; others may follow."""
    MAKING_STRUCTURES = "making structures"
    MAKING_TABLES = "making tables"
    FETCHING = "fetching"
    STORING = "storing"
    VERIFYING = "verifying"
    SIMULATED = "simulated"
    WAITING_FOR_TARGET = "waiting for the target"
    CONCLUDING = "concluding"


_BY_PHASE: dict[str, Stage] = {
    WorkPhase.WAITING_FOR_SLOT: Stage.WAITING_FOR_SLOT,
    WorkPhase.WAITING_FOR_CLUSTER: Stage.WAITING_FOR_CLUSTER,
    WorkPhase.PREPARING: Stage.PREPARING,
    WorkPhase.SUBMITTING: Stage.SUBMITTING,
    WorkPhase.QUEUED_ON_CLUSTER: Stage.QUEUED_ON_CLUSTER,
    WorkPhase.SIMULATING: Stage.SIMULATING,
    WorkPhase.ORGANISING: Stage.INTAKE,
    WorkPhase.SEGMENTING: Stage.SEGMENTING,
    WorkPhase.SEGMENTED: Stage.SEGMENTED,
    WorkPhase.MAKING_STRUCTURES: Stage.MAKING_STRUCTURES,
    WorkPhase.MAKING_TABLES: Stage.MAKING_TABLES,
    WorkPhase.FETCHING: Stage.FETCHING,
    WorkPhase.STORING: Stage.STORING,
    WorkPhase.VERIFYING: Stage.VERIFYING,
    WorkPhase.SIMULATED: Stage.MAKING_RT_DOSE,
    WorkPhase.WAITING_FOR_TARGET: Stage.WAITING_FOR_TARGET,
    WorkPhase.CONCLUDING: Stage.CONCLUDING,
}


def stage_of(phase: str) -> Stage:
    """Stage of a case or a beam by the phase that stands in the ledger, which other code may have written."""
    return _BY_PHASE.get(phase, Stage.IN_WORK)


OVER = 5
_ORDER = {CaseState.IN_WORK: 1, CaseState.FAILED: 2, CaseState.WAITING: 4}


def order(state: CaseState, stage: Stage) -> int:
    """Place on a board: what is in work first, what is over last, at `OVER`."""
    if stage.at_work:
        return 0
    return 3 if stage is Stage.QUEUED else _ORDER.get(state, OVER)
