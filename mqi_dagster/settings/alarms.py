"""When people should know, and how they are told."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from mqi_dagster.settings.choices import MailSecurity, NotifiedEvent
from mqi_dagster.settings.section import Seconds, Section
from mqi_dagster.settings.web import Language

Minutes = Annotated[float, Field(gt=0)]
Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+$")]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class AlarmSettings(Section):
    """From when on something is an alarm (`mqi alarms`)."""

    stuck_minutes: Minutes = Field(
        30.0,
        description="An engine without progress, or a beam without a slot while no engine runs, this long.",
    )
    waiting_minutes: Minutes = Field(
        720.0,
        description="A run in the queue, a beam without a slot or a job in a cluster's queue for this long.",
    )
    retried_minutes: Minutes = Field(
        15.0, description="A case or beam that lost infrastructure has ended again and again for this long."
    )
    disk_free_gb: Annotated[float, Field(ge=0)] = Field(
        5.0,
        description="Less room than this for data, state, Dagster's own folder, the inbox or a local "
        "hand-over.",
    )
    away_seconds: Seconds = Field(
        60.0, description="A hand-over target that has not answered, or taken nothing, for this long."
    )


class Webhook(Section):
    """Notices as JSON, posted to a URL."""

    url: str = Field(description="`https://…`, or `http://` of this machine.")
    secret_file: Path | None = Field(
        None, description="Shared secret, mode 0600: signs each body (HMAC-SHA256, `X-MQI-Signature`)."
    )
    timeout_seconds: Annotated[float, Field(gt=0, le=5)] = Field(
        3.0, description="How long the receiver may take."
    )
    tell: tuple[NotifiedEvent, ...] | None = Field(
        None, description="What is posted, in place of `notifications.tell`; null: that."
    )

    @field_validator("url")
    @classmethod
    def _safe_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.username or parts.password:
            raise ValueError("a URL holds no password: use secret_file")
        if not parts.hostname or parts.scheme not in ("https", "http"):
            raise ValueError("url must be https://…, or http:// of this machine")
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise ValueError("http is for this machine alone: use https")
        return value


class Mail(Section):
    """Notices as e-mail."""

    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9:][A-Za-z0-9.:-]{0,252}$")] = Field(
        description="Name or address of the mail server."
    )
    port: Annotated[int, Field(ge=1, le=65535)] = Field(587, description="Its port.")
    security: MailSecurity = Field(
        MailSecurity.STARTTLS,
        description="`starttls`, `tls` from the first byte, or `none` (this machine alone).",
    )
    ca_file: Path | None = Field(
        None, description="Certificates to trust (PEM) in place of those of this machine."
    )
    user: str | None = Field(None, description="Account at the mail server.")
    password_file: Path | None = Field(None, description="Its password, mode 0600.")
    sender: Address = Field(description="Address that the mails come from.")
    recipients: Annotated[tuple[Address, ...], Field(min_length=1)] = Field(description="Who gets them.")
    language: Language = Field(
        Language.ENGLISH, description="Language of subjects and labels, `en` or `ko`; causes are English."
    )
    timeout_seconds: Annotated[float, Field(gt=0, le=5)] = Field(
        3.0, description="How long the server may take for one answer."
    )
    tell: tuple[NotifiedEvent, ...] | None = Field(
        None, description="What is mailed, in place of `notifications.tell`; null: that."
    )

    @model_validator(mode="after")
    def _secrets_are_safe(self) -> Self:
        if self.security is MailSecurity.NONE and not _is_loopback(self.host):
            raise ValueError("security: none is for this machine alone")
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file belong together")
        return self


class Notifications(Section):
    """Who is told what; without `webhook` and `mail` nobody is."""

    tell: tuple[NotifiedEvent, ...] = Field(
        (NotifiedEvent.ALARM_RAISED, NotifiedEvent.ALARM_CLEARED, NotifiedEvent.CASE_CONCLUDED),
        description="Of `alarm_raised`, `alarm_cleared`, `case_concluded`, and `status_changed`: each case,"
        " beam and course that waits, is in work, has failed or is complete from then on.",
    )
    retry_seconds: Seconds = Field(
        30.0, description="First wait after a receiver did not take a notice; doubles each time."
    )
    retry_maximum_seconds: Annotated[float, Field(gt=0, le=43200)] = Field(
        1800.0, description="Longest wait between two tries."
    )
    webhook: Webhook | None = Field(None, description="Where notices are posted; null: nowhere.")
    mail: Mail | None = Field(None, description="How notices are mailed; null: not at all.")

    def told_by(self, channel: str) -> frozenset[NotifiedEvent]:
        """What a channel tells, `webhook` or `mail`."""
        own = {"webhook": self.webhook, "mail": self.mail}.get(channel)
        return frozenset(self.tell if own is None or own.tell is None else own.tell)
