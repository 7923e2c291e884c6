"""The alarms that stand, whoever is dead: those of the ledger, and what does not work at this moment."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.errors import MqiError
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.ledger.audit import Action
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.lifecycle import health
from mqi_dagster.lifecycle.health import HealthProblem
from mqi_dagster.lifecycle.uptime import Heartbeat
from mqi_dagster.operations.audited import audited
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.people.rights import Actor, Right
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist.reading import plain_errors


@dataclass(frozen=True, slots=True)
class Listed:
    """One alarm as it is listed."""

    id: int | None
    """None for one that is seen now and stands in no ledger yet."""
    kind: AlarmKind
    subject: str
    text: str
    first_at: datetime | None
    last_at: datetime | None
    count: int
    cleared_at: datetime | None
    told_at: datetime | None


def alarms_now(site: Site, *, every: bool = False) -> list[Listed]:
    """What does not work now, then the alarms of the ledger, the newest first.

    Args:
        site: The site.
        every: Also those that are cleared.
    """
    found = found_now(site)
    stored: list[Listed] = []
    if not any(one.kind is AlarmKind.LEDGER_AWAY for one in found):
        for alarm in site.ledger.alarms.all() if every else site.ledger.alarms.open():
            values = asdict(alarm)
            stored.append(Listed(told_at=values.pop("notified_at"), **values))
    opened = {(one.kind, one.subject) for one in stored if one.cleared_at is None}
    fresh = [
        Listed(None, one.kind, one.subject, one.text, one.since, None, 1, None, None)
        for one in found
        if (one.kind, one.subject) not in opened
    ]
    return fresh + stored


def dismiss(site: Site, actor: Actor, number: int) -> None:
    """Clear an alarm that a person has seen; a state that goes on raises it anew.

    Raises:
        InputError: No open alarm has this number.
        NotAllowedError: The actor does not have the right ``alarms``.
    """
    with audited(site, actor, Right.ALARMS, Action.ALARM_DISMISSED, str(number)) as told:
        dismissed = site.ledger.alarms.dismiss(number)
        told |= {"kind": dismissed.kind.value, "about": dismissed.subject}
        if dismissed.kind is AlarmKind.RETRIED_LONG:
            # Else its next try would raise it anew: nobody wants it any more.
            about, outcomes = dismissed.subject, site.ledger.outcomes
            outcomes.take_back([one.run_id for one in outcomes.open_retries() if one.partition == about])


def found_now(site: Site) -> list[HealthProblem]:
    """What does not work at this moment, whatever of it is away."""
    at = datetime.now(UTC)
    found: list[HealthProblem] = []
    ledger: Ledger | None = None
    try:
        site.ledger.alarms.open()
        ledger = site.ledger
    except MqiError as error:
        found.append(health.ledger_away(error))
    try:
        with plain_errors(), open_instance(site.settings) as instance:
            beat = Heartbeat.of(instance, site.settings, at)
            found += health.services(instance, site, PIPELINES, ledger, at, beat)
    except MqiError as error:
        found.append(health.records_away(error))
    return [*found, *health.folders(site)]
