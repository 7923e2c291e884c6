"""What a person should know now: the alarms of the ledger, and what does not work while somebody looks."""

from __future__ import annotations

from collections.abc import Iterable

from mqi_dagster.ledger.alarms import Alarm
from mqi_dagster.lifecycle.health import HealthProblem
from mqi_dagster.worklist.board_rows import AlarmStatus


def alarms(found: Iterable[HealthProblem], raised: Iterable[Alarm]) -> list[AlarmStatus]:
    """Everything that is wrong: what stops the whole site first, then the newest.

    Args:
        found: What does not work now.
        raised: The open alarms of the ledger.
    """
    stored = {(one.kind, one.subject): one for one in raised}
    listed = []
    for one in found:
        known = stored.pop((one.kind, one.subject), None)
        since = known.first_at if known is not None else one.since
        number = known.id if known is not None else None
        listed.append(
            AlarmStatus(id=number, kind=one.kind.value, subject=one.subject, text=one.text, since=since)
        )
    listed += [
        AlarmStatus(id=one.id, kind=one.kind.value, subject=one.subject, text=one.text, since=one.first_at)
        for one in stored.values()
    ]
    return listed
