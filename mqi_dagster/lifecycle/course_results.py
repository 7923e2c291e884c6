"""The results of a course's stages by what the event log names, verified; what was not made is left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import dagster as dg

from mqi_dagster.lifecycle.lineage import latest_digest, resolve
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import Store

NOT_MADE = "has not been made"
GONE = "is gone from the store: materialise it again"


@dataclass(frozen=True, slots=True)
class StageResults:
    """What the stages of a course have made."""

    made: Mapping[str, Published]
    """By asset."""
    missing: Mapping[str, str]
    """Why there is nothing of the other assets."""

    @property
    def digests(self) -> dict[str, str]:
        """Of what there is, by asset."""
        return {asset: one.digest for asset, one in self.made.items()}


def stage_results(
    instance: dg.DagsterInstance, store: Store, key: str, assets: Collection[str]
) -> StageResults:
    """The latest results of a course.

    Args:
        instance: Dagster's records.
        store: Where they were published.
        key: Of the course.
        assets: Which are wanted.

    Raises:
        StoreError: One is there, but is not what its manifest says.
    """
    made: dict[str, Published] = {}
    missing: dict[str, str] = {}
    for asset in assets:
        digest = latest_digest(instance, asset, key)
        if digest is None:
            missing[asset] = NOT_MADE
        elif store.find(key, None, asset, digest) is None:
            missing[asset] = GONE
        else:
            made[asset] = resolve(instance, store, asset, key)
    return StageResults(made, missing)
