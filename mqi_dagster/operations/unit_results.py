"""What was made of a partition that is worked on whole, and what its checks have found."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from mqi_dagster.dagster_internals import PartitionKeyFilter
from mqi_dagster.imaging.quality_control import Verdict
from mqi_dagster.lifecycle.lineage import digest_in, latest_record
from mqi_dagster.operations.course_results import made
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist.board_rows import StatusRow

_ADVICE = ". What to do: "
"""Stands between what a check has found and what is to be done."""


class ResultRow(StatusRow):
    """A result of a course or an image set."""

    asset: str
    digest: str | None
    """None where a person only reported it in the pages."""
    made_at: datetime
    folder: Path | None
    """None where it is not in the store any more."""


class QualityRow(StatusRow):
    """A check, and what it is worth."""

    asset: str
    name: str
    verdict: Verdict
    text: str
    """What was found."""
    advice: str = ""
    """What to do."""


class CheckRow(StatusRow):
    """A check of a result, as it was evaluated last."""

    asset: str
    check: str
    passed: bool
    severity: str
    text: str
    """What was found, and what to do."""


def results_of(
    instance: dg.DagsterInstance, site: Site, key: str, assets: Iterable[str]
) -> Iterator[ResultRow]:
    """What was made last of some assets, in their order."""
    for asset in assets:
        record = latest_record(instance, asset, key)
        if record is not None:
            digest = digest_in(record)
            published = made(site, key, asset, digest)
            yield ResultRow(
                asset=asset,
                digest=digest,
                made_at=datetime.fromtimestamp(record.timestamp, UTC),
                folder=None if published is None else published.folder,
            )


def evaluated(
    instance: dg.DagsterInstance, key: str, names: Mapping[str, Collection[str]]
) -> Iterator[CheckRow]:
    """The latest evaluation of some checks, by asset; nothing of those that have none."""
    for asset, checks in names.items():
        for check in checks:
            history = instance.event_log_storage.get_asset_check_execution_history(
                dg.AssetCheckKey(dg.AssetKey(asset), check),
                limit=1,
                partition_filter=PartitionKeyFilter(key=key),
            )
            event = history[0].event if history else None
            evaluation = None if event is None else event.asset_check_evaluation
            if evaluation is not None:
                yield CheckRow(
                    asset=asset,
                    check=check,
                    passed=evaluation.passed,
                    severity=evaluation.severity.value,
                    text=evaluation.description or "",
                )


def judged(check: CheckRow) -> QualityRow:
    """What an evaluation is worth."""
    missed = Verdict.FAIL if check.severity == "ERROR" else Verdict.WARNING
    text, _, advice = check.text.partition(_ADVICE)
    verdict = Verdict.PASS if check.passed else missed
    return QualityRow(asset=check.asset, name=check.check, verdict=verdict, text=text, advice=advice)


def worst_first(rows: Iterable[QualityRow]) -> list[QualityRow]:
    """Checks in the order in which people look at them."""
    return sorted(rows, key=lambda one: -list(Verdict).index(one.verdict))
