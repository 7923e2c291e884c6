"""``mqi top --json``: everything at one moment, for scripts. The keys are described in docs/top.md."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from mqi_dagster.worklist import AlarmStatus, BeamStatus, CaseStatus, GpuStatus, QueueStatus, Work

VERSION = 2
"""Rises when a key changes its meaning or goes."""


class BoardReport(BaseModel):
    """The document; moments are ISO 8601 in UTC."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = VERSION
    at: datetime
    """When it was read."""
    daemon_alive: bool
    daemon_seen: datetime | None
    concluded_cases: int
    cases: list[CaseStatus]
    beams: list[BeamStatus]
    gpus: list[GpuStatus]
    queue: QueueStatus
    alarms: list[AlarmStatus]


def report(work: Work) -> BoardReport:
    """The document of what was read."""
    return BoardReport(
        at=work.at,
        daemon_alive=work.daemon_alive,
        daemon_seen=work.daemon_seen,
        concluded_cases=work.concluded_cases,
        cases=work.cases,
        beams=work.beams,
        gpus=work.gpus,
        queue=work.queue,
        alarms=work.alarms,
    )
