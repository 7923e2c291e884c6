"""How fast simulations go, from the steps of ten percent that their workers write into the event log."""

from __future__ import annotations

import time
from collections.abc import Mapping

import dagster as dg

from mqi_dagster.ledger.progress import ProgressReport

_STEP_PERCENT = 10
_AT_MOST = 1000
_EVERY_SECONDS = 2.0
_RAW_DOSE = dg.AssetKey("raw_dose")


class Pace:
    """The pace of the simulations in work.

    Args:
        instance: Dagster's records.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._steps: dict[str, list[tuple[float, float]]] = {}
        """Seconds and percent by run, from a start of the engine on."""
        self._after: int | None = None
        self._read_at = -_EVERY_SECONDS

    def refresh(self, simulating: Mapping[str, ProgressReport]) -> None:
        """Read the new steps, where there can be some.

        Args:
            simulating: What the ledger says of each beam in simulation.
        """
        reached = {row.run_id: int(row.percent // _STEP_PERCENT) for row in simulating.values()}
        known = {run_id: self._steps.get(run_id, []) for run_id in reached}
        behind = any(
            step > 0 and (not known[run_id] or known[run_id][-1][1] < step * _STEP_PERCENT)
            for run_id, step in reached.items()
        )
        self._steps = known
        if not behind or time.monotonic() - self._read_at < _EVERY_SECONDS:
            return
        self._read_at = time.monotonic()
        records = self._instance.fetch_observations(
            dg.AssetRecordsFilter(
                _RAW_DOSE, asset_partitions=sorted(simulating), after_storage_id=self._after
            ),
            limit=_AT_MOST,
        ).records
        for record in reversed(records):
            self._after = max(self._after or 0, record.storage_id)
            observation = record.event_log_entry.asset_observation
            value = observation.metadata.get("progress [%]") if observation is not None else None
            if value is not None and record.run_id in self._steps:
                self._add(self._steps[record.run_id], record.timestamp, float(str(value.value)))

    @staticmethod
    def _add(steps: list[tuple[float, float]], seconds: float, percent: float) -> None:
        if steps and percent <= steps[-1][1]:
            # The engine has begun anew: what it did before says nothing of this start.
            steps.clear()
        steps.append((seconds, percent))

    def remaining(self, run_id: str, now: float) -> float | None:
        """Seconds to the end of a run's simulation; None before two steps of it were timed.

        Args:
            run_id: The run.
            now: Seconds since 1970.
        """
        steps = self._steps.get(run_id, [])
        if len(steps) < 2:
            return None
        (began, first), (last, percent) = steps[0], steps[-1]
        if last <= began:
            return None
        left = (100.0 - percent) * (last - began) / (percent - first)
        return max(0.0, left - (now - last))
