"""The quality report of a course, ``qc_report.json``: its verdict, and every check with what was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mqi_dagster.errors import StoreError, Where
from mqi_dagster.files import write_whole
from mqi_dagster.imaging.quality_control import QcResult, Verdict, worst

QC_REPORT = "qc_report.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReportedCheck(_Part):
    """A check that was evaluated."""

    name: str
    asset: str
    verdict: Verdict
    text: str
    """What was found."""
    advice: str
    """What to do; empty where it passes."""


class QcReport(_Part):
    """All checks of a course."""

    status: Verdict
    """The worst of them."""
    checks: tuple[ReportedCheck, ...]


def write_qc_report(results: Sequence[QcResult], path: Path) -> None:
    """Write the quality report of a course.

    Raises:
        OSError: It cannot be written.
    """
    checks = tuple(
        ReportedCheck(
            name=one.check.name,
            asset=one.check.asset,
            verdict=one.verdict,
            text=one.text,
            advice=one.advice,
        )
        for one in results
    )
    report = QcReport(status=worst(results), checks=checks)
    write_whole(path, report.model_dump_json(indent=1).encode())


def read_qc_report(path: Path) -> QcReport:
    """Read a quality report.

    Raises:
        StoreError: There is none, or it is of another version.
    """
    try:
        return QcReport.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise StoreError("the quality report cannot be read", where=Where(kind="quality report")) from None
