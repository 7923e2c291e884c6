"""What stands in a page in the reader's language: texts, moments, durations and numbers."""

from __future__ import annotations

from contextvars import ContextVar
from datetime import datetime, tzinfo
from math import floor, isfinite, log10

from babel.dates import format_datetime

from mqi_dagster.languages import catalogue, messages, translated
from mqi_dagster.settings.web import Language
from mqi_dagster.worklist import Stage

LANGUAGE: ContextVar[Language] = ContextVar("language", default=Language.ENGLISH)
"""Of the request that is answered."""
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0


def _(text: str) -> str:
    """A text in the reader's language."""
    return translated(text, LANGUAGE.get())


def ngettext(one: str, many: str, count: int) -> str:
    """A text that depends on a number."""
    return str(catalogue(LANGUAGE.get()).ungettext(one, many, count))


def word(value: str) -> str:
    """A state, stage, role or the like, as people say it."""
    return _(value.words if isinstance(value, Stage) else str(value).replace("_", " "))


def job(text: str) -> str:
    """The state of a job on a cluster, as the boards say it: with the scheduler's own word behind it."""
    state, bracket, own = text.partition(" (")
    return word(state) + bracket + own if state else ""


def message(text: str) -> str:
    """A message of a rule or an error, as far as the reader's language has it."""
    return messages.message(str(text), LANGUAGE.get())


def done(code: str) -> str:
    """What was done, by the code in the address of the page after it; empty of any other text."""
    return {
        "retry": _("What has failed runs again."),
        "cancel": _("It is cancelled."),
        "cancelling": _("It is being cancelled: this page shows when it has ended."),
        "priority": _("The priority is set."),
        "retake": _("It is taken in again at the next look."),
        "accepted": _("The result is accepted, with your signature."),
        "rejected": _("The result is rejected, with your signature."),
        "gpu-off": _("The slot is out of service."),
        "gpu-on": _("The slot is in service."),
        "dismiss": _("The alarm is dismissed."),
    }.get(code, "")


def accepted(header: str, otherwise: Language) -> Language:
    """The language that a browser asks for first of those that there are."""
    for part in header.split(","):
        tag = part.split(";")[0].strip().split("-")[0].lower()
        if tag in tuple(Language):
            return Language(tag)
    return otherwise


def moment(value: datetime | None, zone: tzinfo) -> str:
    """A moment in the site's zone, such as ``Mon 5 Jan 10:10``."""
    if value is None:
        return ""
    pattern = "M월 d일 (E) HH:mm" if LANGUAGE.get() is Language.KOREAN else "EEE d MMM HH:mm"
    return format_datetime(value.astimezone(zone), pattern, locale=LANGUAGE.get().value)


def duration(seconds: float | None) -> str:
    """A duration in its two largest units, such as ``2 h 05 min``."""
    if seconds is None:
        return ""
    if seconds < _MINUTE:
        return _("{seconds} s").format(seconds=int(seconds))
    if seconds < _HOUR:
        return _("{minutes} min").format(minutes=int(seconds // _MINUTE))
    if seconds < _DAY:
        hours, rest = divmod(seconds, _HOUR)
        return _("{hours} h {minutes} min").format(hours=int(hours), minutes=f"{int(rest // _MINUTE):02d}")
    days, rest = divmod(seconds, _DAY)
    return _("{days} d {hours} h").format(days=int(days), hours=int(rest // _HOUR))


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, without a power of ten; a dash where there is none."""
    if value is None or not isfinite(value):
        return "–"
    if value == 0.0:
        return "0"
    return f"{value:,.{max(0, digits - 1 - floor(log10(abs(value))))}f}"
