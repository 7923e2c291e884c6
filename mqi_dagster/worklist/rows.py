"""What is read of the platform at one moment: typed rows, the same for the screen and for scripts."""

from dataclasses import dataclass
from datetime import datetime

from mqi_dagster.lifecycle.status import BeamStatus, CaseStatus, StatusRow


class GpuStatus(StatusRow):
    """One slot of the pool with what is known of the device behind it, or a device that is no slot."""

    host: str
    kind: str
    index: int
    uuid: str
    name: str = ""
    slot: bool
    """Whether beams lease it here; what a cluster gives to jobs by itself is only seen."""
    in_service: bool
    owner: str | None
    """Beam that has leased it."""
    leased_at: datetime | None
    heartbeat_at: datetime | None
    memory_mb: int
    used_mb: int | None = None
    utilisation_percent: float | None = None
    temperature_c: float | None = None
    seen_at: datetime | None = None
    """When memory, utilisation and temperature were looked at."""


class QueueStatus(StatusRow):
    """The run queue and its limits."""

    queued: int
    in_work: int
    max_runs: int | None
    pool_in_use: int
    pool_limit: int | None
    waiting_beams: int
    """Beams for which no run has been asked yet."""
    waiting_cases: int
    """Cases that are ready and not taken in yet."""
    inbox: int
    """Cases that cannot be taken yet."""
    reasons: dict[str, int]
    """How many runs are queued for each reason."""


class AlarmStatus(StatusRow):
    """Something that a person should know now."""

    kind: str
    subject: str
    text: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Work:
    """Everything at one moment."""

    at: datetime
    daemon_seen: datetime | None
    """Last heartbeat of Dagster's daemon."""
    daemon_alive: bool
    cases: list[CaseStatus]
    """Those that are not concluded, and those that were concluded lately."""
    beams: list[BeamStatus]
    """Of those cases."""
    concluded_cases: int
    """All of them, also those that are not among ``cases``."""
    gpus: list[GpuStatus]
    queue: QueueStatus
    alarms: list[AlarmStatus]
