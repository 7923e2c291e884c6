"""The rows of a pipeline whose units are worked on whole."""

from __future__ import annotations

from collections.abc import Collection

from mqi_dagster.lifecycle.pipeline import Inventory
from mqi_dagster.lifecycle.runs import RunState
from mqi_dagster.lifecycle.unit_status import unit_status
from mqi_dagster.worklist.board_rows import BeamStatus, CaseStatus, unit_row
from mqi_dagster.worklist.partition_index import PartitionIndex


class UnitIndex(PartitionIndex):
    """The rows of units that have no parts."""

    def _read(self, units: Collection[str]) -> Collection[str]:
        for asset in self._pipeline.status_assets:
            self._from.events.read_latest(asset, units)
        return ()

    def _is_old(self, unit: str) -> bool:
        run = self._from.runs.latest.get(unit)
        if self._history is None or run is None or run.ended is None:
            return False
        old = self._now - run.ended >= self._history
        return old and run.state is RunState.DONE and self._concluded(unit)

    def _rows(self, unit: str) -> tuple[CaseStatus, dict[int, BeamStatus]]:
        arrival = self._from.ledger.arrivals.get(unit)
        latest = self._facts(unit, arrival.priority if arrival is not None else 0)
        jobs = self._pipeline.units.jobs
        command = self._pipeline.command
        status = unit_status(jobs, arrival, latest, lambda: self._concluded(unit), command)
        return unit_row(self._kind, unit, arrival, latest, status), {}

    def _concluded(self, unit: str) -> bool:
        arrival = self._from.ledger.arrivals.get(unit)
        return self._pipeline.concluded(self._from.events, unit, (), arrival, Inventory)
