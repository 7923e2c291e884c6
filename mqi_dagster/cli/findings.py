"""What a look of `mqi doctor` says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

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
    except MqiError as error:
        return Finding(subject, Verdict.FAULT, error.message, advice)
    except OSError as error:
        return Finding(subject, Verdict.FAULT, error.strerror or type(error).__name__, advice)
