"""What a look of `mqi doctor` says."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy.exc import DBAPIError

from mqi_dagster.errors import MqiError


class Verdict(StrEnum):
    """What a finding is worth."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    verdict: Verdict
    found: str
    advice: str = ""
    """What to do; empty where nothing is wrong."""


def finding(subject: str, advice: str, look: Callable[[], str]) -> Finding:
    """The finding of a look that raises where something is wrong."""
    try:
        return Finding(subject, Verdict.OK, look())
    except Exception as error:  # noqa: BLE001 - a look that fails is what a diagnosis is for
        return Finding(subject, Verdict.FAULT, words_of(error), advice)


def guarded(subject: str, advice: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What a look finds; where it fails in a way that nobody foresaw, that is a finding, and others go on."""
    try:
        yield from look()
    except Exception as error:  # noqa: BLE001 - one surprise must not hide what the other looks find
        yield Finding(subject, Verdict.FAULT, words_of(error), advice)


def words_of(error: Exception) -> str:
    """What an exception says, in one line."""
    if isinstance(error, MqiError):
        return error.message
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig if isinstance(error.orig, Exception) else error
    if isinstance(error, (DBAPIError, sqlite3.Error)):
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    # The text of any other may hold whatever it stumbled over.
    return f"it cannot be looked at ({type(error).__name__})"
