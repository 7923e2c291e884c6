"""What `mqi doctor` looks at of alarms and of the channels that tell them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from mqi_dagster.cli.findings import Finding, Verdict, finding
from mqi_dagster.cli.instance import open_instance
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors.health import services
from mqi_dagster.sensors.uptime import Heartbeat
from mqi_dagster.settings import Settings
from mqi_dagster.settings.passwords import read_password
from mqi_dagster.worklist.reading import plain_errors

SEEN = "now "
"""Before the kind of what is seen now, in the place of an alarm's."""


def examine_health(site: Site, ledger: Ledger | None) -> Iterator[Finding]:
    """Services and sensors that do not do their work, as everybody sees it who looks.

    Args:
        site: The site.
        ledger: What waits stands there; None where it cannot be read.
    """
    now = datetime.now(UTC)
    with plain_errors(), open_instance(site.settings) as instance:
        found = services(instance, site, ledger, now, Heartbeat.of(instance, now))
    for one in found:
        since = "" if one.since is None else f"since {one.since:%Y-%m-%d %H:%M} UTC: "
        yield Finding(
            f"{SEEN}{one.kind.value}", Verdict.FAULT, f"{one.subject}, {since}{one.text}", "mqi alarms"
        )


def examine_alarms(
    settings: Settings, ledger: Ledger | None, seen: Collection[str] = ()
) -> Iterator[Finding]:
    """The alarms that stand, the secrets of the notifications, and receivers that take nothing.

    Args:
        settings: Of the site.
        ledger: Where alarms stand; None where there is none yet.
        seen: Kinds of what was found already.
    """
    told = settings.notifications
    secrets: dict[str, Path] = {}
    if told.webhook is not None and told.webhook.secret_file is not None:
        secrets["webhook"] = told.webhook.secret_file
    if told.mail is not None and told.mail.password_file is not None:
        secrets["mail"] = told.mail.password_file
    for name, path in secrets.items():
        yield finding(f"secret of {name}", "write it, mode 0600", partial(_secret, path))
    if ledger is None:
        return
    for alarm in ledger.alarms():
        if alarm.kind.value in seen:
            continue
        found = f"since {alarm.first_at:%Y-%m-%d %H:%M} UTC: {alarm.text}"
        yield Finding(f"alarm {alarm.kind.value}", Verdict.WARNING, f"{alarm.subject}, {found}", "mqi alarms")
    wanted = {"webhook": told.webhook, "mail": told.mail}
    for state in ledger.channels():
        if state.trouble and wanted.get(state.channel) is not None:
            yield Finding(f"notices by {state.channel}", Verdict.WARNING, state.trouble, "mqi notify --test")


def _secret(path: Path) -> str:
    read_password(path, "it")
    return "there, readable by this user alone"
