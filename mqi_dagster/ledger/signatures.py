"""Signatures: who has accepted or rejected which results, and why."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Row, insert, select

from mqi_dagster.ledger.database import Database, batched
from mqi_dagster.ledger.tables import SIGNATURE


class Verdict(StrEnum):
    """What a person says of a result."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature."""

    id: int
    partition: str
    verdict: Verdict
    reason: str
    user: str
    """Login."""
    full_name: str
    """As it was when it was signed."""
    digests: Mapping[str, str]
    """Digest by asset: what was signed. It is void where one of them is another one now."""
    signed_at: datetime


def _signature(row: Row[tuple[object, ...]]) -> Signature:
    values = dict(row._mapping)
    return Signature(
        **{**values, "verdict": Verdict(values["verdict"]), "digests": json.loads(str(values["digests"]))}
    )


class Signatures:
    """The signatures; a later one of the same partition takes the place of an earlier one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        partition: str,
        verdict: Verdict,
        reason: str,
        user: str,
        full_name: str,
        digests: Mapping[str, str],
    ) -> Signature:
        """Add a signature."""
        with self._database.write() as connection:
            row = connection.execute(
                insert(SIGNATURE)
                .values(
                    partition=partition,
                    verdict=verdict.value,
                    reason=reason,
                    user=user,
                    full_name=full_name,
                    digests=json.dumps(dict(digests), sort_keys=True),
                    signed_at=self._database.clock(),
                )
                .returning(SIGNATURE)
            ).one()
        return _signature(row)

    def history(self, partition: str) -> list[Signature]:
        """The signatures of a partition, the newest first."""
        query = select(SIGNATURE).where(SIGNATURE.c.partition == partition)
        with self._database.read() as connection:
            return [_signature(row) for row in connection.execute(query.order_by(SIGNATURE.c.id.desc()))]

    def latest(self, partitions: Collection[str]) -> dict[str, Signature]:
        """The newest signature of each of some partitions that have one."""
        found: dict[str, Signature] = {}
        with self._database.read() as connection:
            for some in batched(partitions):
                query = select(SIGNATURE).where(SIGNATURE.c.partition.in_(some)).order_by(SIGNATURE.c.id)
                found |= {one.partition: one for one in map(_signature, connection.execute(query))}
        return found
