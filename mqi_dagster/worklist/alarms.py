"""What a person should know now: the alarms of the ledger, and one that nobody else could raise."""

from __future__ import annotations

from collections.abc import Iterable

from mqi_dagster.ledger.alarms import Alarm as Raised
from mqi_dagster.worklist.queue import Heartbeat
from mqi_dagster.worklist.rows import Alarm


def alarms(heartbeat: Heartbeat, unfinished: int, raised: Iterable[Raised]) -> list[Alarm]:
    """Everything that is wrong, what concerns most cases first.

    Args:
        heartbeat: Of Dagster's daemon, which raises all other alarms.
        unfinished: Runs that are queued or in work.
        raised: The open alarms of the ledger.
    """
    found = [
        Alarm(kind=one.kind.value, subject=one.subject, text=one.text, since=one.first_at) for one in raised
    ]
    if unfinished and not heartbeat.alive:
        text = "Dagster's daemon does not run: nothing is started (`mqi dev`)"
        found.insert(0, Alarm(kind="daemon_away", subject="daemon", text=text, since=heartbeat.seen))
    return found
