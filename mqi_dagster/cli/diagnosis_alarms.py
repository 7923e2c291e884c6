"""What `mqi doctor` looks at of alarms and of the channels that tell them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mqi_dagster.cli.findings import Finding, Verdict, finding
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.settings import Settings
from mqi_dagster.settings.passwords import read_password


def examine_alarms(settings: Settings, ledger: Ledger | None) -> Iterator[Finding]:
    """The alarms that stand, the secrets of the notifications, and receivers that take nothing.

    Args:
        settings: Of the site.
        ledger: Where alarms stand; None where there is none yet.
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
        found = f"since {alarm.first_at:%Y-%m-%d %H:%M} UTC: {alarm.text}"
        yield Finding(f"alarm {alarm.kind.value}", Verdict.WARNING, f"{alarm.subject}, {found}", "mqi alarms")
    wanted = {"webhook": told.webhook, "mail": told.mail}
    for state in ledger.channels():
        if state.trouble and wanted.get(state.channel) is not None:
            yield Finding(f"notices by {state.channel}", Verdict.WARNING, state.trouble, "mqi notify --test")


def _secret(path: Path) -> str:
    read_password(path, "it")
    return "there, readable by this user alone"
