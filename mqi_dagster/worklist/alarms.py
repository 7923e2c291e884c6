"""What a person should know now."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from mqi_dagster.ledger.clusters import ClusterLook
from mqi_dagster.ledger.leases import Lease
from mqi_dagster.worklist.queue import Heartbeat
from mqi_dagster.worklist.rows import Alarm, BeamStand, CaseStand
from mqi_dagster.worklist.stages import CaseState


def alarms(
    now: datetime,
    heartbeat: Heartbeat,
    unfinished: int,
    clusters: Iterable[ClusterLook],
    leases: Iterable[Lease],
    stale_after: timedelta,
    failed_cases: Iterable[CaseStand],
    failed_beams: Iterable[BeamStand],
) -> list[Alarm]:
    """Everything that is wrong, what concerns most cases first."""
    found: list[Alarm] = []
    if unfinished and not heartbeat.alive:
        text = "Dagster's daemon does not run: nothing is started (`mqi dev`)"
        found.append(Alarm(kind="daemon_away", subject="daemon", text=text, since=heartbeat.seen))
    for look in clusters:
        if look.failing_since is not None:
            found.append(
                Alarm(kind="cluster_away", subject=look.cluster, text=look.failure, since=look.failing_since)
            )
    for lease in leases:
        if lease.is_stale(now, stale_after):
            text = "its worker has fallen silent"
            found.append(Alarm(kind="worker_silent", subject=lease.beam, text=text, since=lease.heartbeat_at))
    for beam in failed_beams:
        found.append(Alarm(kind="beam_failed", subject=beam.beam, text=beam.reason, since=beam.since))
    failed = {beam.case for beam in failed_beams}
    for case in failed_cases:
        if case.state is CaseState.FAILED and case.case not in failed:
            found.append(Alarm(kind="case_failed", subject=case.case, text=case.reason, since=case.since))
    return found
