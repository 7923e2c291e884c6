"""What is told, whatever tells it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from mqi_dagster.errors import shown, shown_message
from mqi_dagster.languages import translated
from mqi_dagster.settings import Notifications
from mqi_dagster.settings.web import Language

WORDS = {
    "alarm_raised": "Alarm",
    "alarm_cleared": "Alarm cleared",
    "case_concluded": "Case concluded",
    "status_changed": "Status",
    "test": "Test",
}
"""What an event is called."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message; it names cases and beams by their keys, never a patient."""

    id: int
    """Rises with every notice of a site; a receiver that gets one twice knows it by this."""
    site: str
    event: str
    """``alarm_raised``, ``alarm_cleared``, ``case_concluded``, ``status_changed`` or ``test``."""
    kind: str
    """Kind of the alarm, or of the partition whose status has changed; empty where it is neither."""
    subject: str
    text: str
    happened_at: datetime
    """In the zone that its readers live in."""
    state: str = ""
    """Of the partition from then on; empty where no status has changed."""

    def __post_init__(self) -> None:
        """Whatever an input has brought into it is escaped, for a mail and a page as for a terminal."""
        object.__setattr__(self, "subject", shown(self.subject))
        object.__setattr__(self, "text", shown_message(self.text))

    @property
    def title(self) -> str:
        """One line for people, in English."""
        return self.title_in(Language.ENGLISH)

    def title_in(self, language: Language) -> str:
        """One line for people."""
        kind = translated(self.kind.replace("_", " "), language)
        what = " ".join(part for part in (kind, self.subject) if part)
        return f"[{self.site}] {translated(WORDS[self.event], language)}: {what}"


class Channel(Protocol):
    """A way to tell people."""

    name: str

    def send(self, message: Message) -> str:
        """Tell a message.

        Returns:
            What the receiver has answered, for people.

        Raises:
            PartlyTakenError: Some recipients have it, others are refused.
            NotTakenError: The receiver is away or does not take it.
            ConfigurationError: A secret cannot be used as it is.
        """
        ...


def channels_of(notifications: Notifications) -> Iterator[Channel]:
    """The channels that the settings name."""
    from mqi_dagster.notify.mail import MailChannel
    from mqi_dagster.notify.webhook import WebhookChannel

    if notifications.webhook is not None:
        yield WebhookChannel(notifications.webhook)
    if notifications.mail is not None:
        yield MailChannel(notifications.mail)
