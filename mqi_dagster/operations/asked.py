"""What people have asked for of a partition, and what has become of it: from the audit, which keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from mqi_dagster.ledger.audit import Action, AuditRow, Outcome
from mqi_dagster.partitions import root_of
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist import BeamStatus, CaseStatus

_ROWS = 60
"""Of the audit, that are looked through: each action has two."""
_ACTIONS = (Action.SEGMENTATION_REQUESTED, Action.RETRY, Action.CANCEL, Action.RETAKE, Action.PRIORITY)


class Standing(StrEnum):
    """How far a run is that somebody has asked for."""

    AWAITED = "not begun yet"
    LATEST = "latest"
    """The stage of its partition is its own."""
    FOLLOWED = "followed by another run"


@dataclass(frozen=True, slots=True)
class Asked:
    """One thing that somebody has asked for."""

    action: Action
    actor: str
    at: datetime
    outcome: Outcome
    """``BEGUN`` where its end is not recorded: it goes on, or ended with the process that did it."""
    details: Mapping[str, str]
    """What was asked for, and the run or backfill by partition."""
    subject: str

    @property
    def runs(self) -> dict[str, str]:
        """Run or backfill id by partition, of what was launched or ended."""
        root = root_of(self.subject)
        return {name: identity for name, identity in self.details.items() if root_of(name) == root}

    def standing(self, identity: str, row: CaseStatus | BeamStatus) -> Standing:
        """How far one of its runs is.

        Args:
            identity: Of the run or backfill.
            row: Where its partition stands.
        """
        asked_for = self.action in (Action.RETRY, Action.SEGMENTATION_REQUESTED)
        if asked_for and (row.run is None or row.since is None or row.since < self.at):
            return Standing.AWAITED
        # A backfill has a short name of its own, and makes one run of a partition.
        is_run = identity.count("-") > 1
        return Standing.FOLLOWED if is_run and row.run != identity else Standing.LATEST


def asked_of(site: Site, partition: str, limit: int = 5) -> list[Asked]:
    """What people have asked for of a partition and its parts, the newest first.

    What was refused, or has come to nothing, is left out.
    """
    ends: dict[tuple[str, ...], AuditRow] = {}
    found: list[Asked] = []
    for row in site.ledger.audit.newest(_ROWS, subject=partition):
        if row.action not in _ACTIONS or row.outcome is Outcome.REFUSED:
            continue
        mark = (row.actor, row.via, row.action, row.subject)
        if row.outcome is not Outcome.BEGUN:
            ends[mark] = row
            continue
        end = ends.pop(mark, row)
        made = Asked(row.action, row.actor, row.at, end.outcome, json.loads(end.details), row.subject)
        if end.outcome is not Outcome.FAILED or made.runs:
            found.append(made)
    return found[:limit]
