"""What pages show of actions: what was asked for and became of it, and what people have said of a result."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.errors import MqiError
from mqi_dagster.lifecycle.pipeline import levels_of
from mqi_dagster.lifecycle.stages import CaseState
from mqi_dagster.operations.asked import Asked, asked_of
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.operations.review import Review, review_of
from mqi_dagster.partitions import find_key, in_address
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist import BeamStatus, CaseStatus
from mqi_dagster.worklist.reading import plain_errors

KINDS = [level.kind for level in levels_of(PIPELINES)]
_KEPT = 200
_SIGNED = (CaseState.COMPLETE, CaseState.PARTIAL)


def kind_of(partition: str) -> str:
    """The kind of a unit, or of that which something is a part of, as its address says it; empty of none."""
    key = find_key(partition, KINDS)
    return in_address((key.parent or key).kind.name) if key is not None else ""


class Acting:
    """Reads it for the templates, the digests of a result once until its rows change.

    Args:
        site: The site.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._reviews: dict[str, tuple[object, Review]] = {}

    def asked(self, partition: str) -> list[Asked] | None:
        """What people have asked for; None while the audit cannot be read."""
        try:
            return asked_of(self._site, partition)
        except MqiError:
            return None

    def review(self, row: CaseStatus, beams: Collection[BeamStatus] = ()) -> Review | None:
        """What people have said of a result; None where there is none yet, or it cannot be read."""
        try:
            latest = self._site.ledger.signatures.latest([row.case]).get(row.case)
            if latest is None and row.state not in _SIGNED:
                return None
            mark = (latest.id if latest is not None else None, _mark(row), *map(_mark, beams))
            known = self._reviews.get(row.case)
            if known is None or known[0] != mark:
                with plain_errors(), open_instance(self._site.settings) as instance:
                    known = mark, review_of(instance, self._site, row.case)
                while len(self._reviews) >= _KEPT:
                    self._reviews.pop(next(iter(self._reviews)), None)
                self._reviews[row.case] = known
            return known[1]
        except MqiError:
            return None


def _mark(row: CaseStatus | BeamStatus) -> tuple[str, str, str | None, datetime | None]:
    return row.state, row.stage, row.run, row.since
