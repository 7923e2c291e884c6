"""Why queued runs wait: the limits of the instance against what is in work."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import dagster as dg

from mqi_dagster.lifecycle.jobs import CASE_TAG, GPU_TAG, POOL, UPLOAD_TAG
from mqi_dagster.lifecycle.runs import RunRow, RunState
from mqi_dagster.worklist.runs import RunIndex


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be in work at once; None where nothing limits it."""

    runs: int | None
    simulations: int | None
    per_case: int | None
    uploads: int | None
    """Runs that hand over to one target."""

    @classmethod
    def of(cls, instance: dg.DagsterInstance) -> Limits:
        """The limits of an instance."""
        config = instance.get_concurrency_config().run_queue_config
        tags = {
            limit["key"]: int(limit["limit"]) for limit in (config.tag_concurrency_limits if config else ())
        }
        pools = [
            int(pool.limit) for pool in instance.event_log_storage.get_pool_limits() if pool.name == POOL
        ]
        found = [*pools, *(limit for key, limit in tags.items() if key == GPU_TAG)]
        runs = config.max_concurrent_runs if config is not None else None
        return cls(
            runs if runs is not None and runs >= 0 else None,
            min(found, default=None),
            tags.get(CASE_TAG),
            tags.get(UPLOAD_TAG),
        )


@dataclass(frozen=True, slots=True)
class Queue:
    """The queued runs and why they wait."""

    reasons: dict[str, tuple[str, str]]
    """Reason, and the whole text with those who go first, by run id."""
    in_work: int
    pool_in_use: int

    @classmethod
    def of(cls, runs: RunIndex, limits: Limits, daemon_alive: bool) -> Queue:
        """The queue at this moment."""
        runs.need(runs.unfinished)
        queued = [run for run in runs.unfinished.values() if run.state is RunState.WAITING]
        working = [run for run in runs.unfinished.values() if run.state is not RunState.WAITING]
        details = {run.run_id: runs.detail(run.run_id) for run in runs.unfinished.values()}
        simulating = sum(details[run.run_id].simulates for run in working)
        of_case = Counter(details[run.run_id].case for run in working)
        to_target = Counter(details[run.run_id].target for run in working)

        def why(run: RunRow) -> str:
            detail = details[run.run_id]
            if not daemon_alive:
                return "Dagster's daemon does not run"
            if limits.runs is not None and len(working) >= limits.runs:
                return f"all {limits.runs} run places are taken (execution.max_runs)"
            if detail.simulates and limits.simulations is not None and simulating >= limits.simulations:
                return (
                    f"the pool is full: {simulating} of {limits.simulations}"
                    " (slots and execution.pool_buffer)"
                )
            same = of_case[detail.case] if detail.case is not None else 0
            if limits.per_case is not None and same >= limits.per_case:
                return f"{same} runs of its case are in work"
            same = to_target[detail.target] if detail.target is not None else 0
            if limits.uploads is not None and same >= limits.uploads:
                return f"{same} runs that hand over to {detail.target} are in work (handover.max_runs)"
            return "starts next"

        reasons: dict[str, tuple[str, str]] = {}
        queued.sort(key=lambda run: (-details[run.run_id].priority, run.id))
        above, last = 0, None
        for position, run in enumerate(queued):
            priority = details[run.run_id].priority
            if priority != last:
                above, last = position, priority
            reason = why(run)
            first = f"; {above} of higher priority go first" if above else ""
            reasons[run.run_id] = (reason, f"{reason}{first}")
        return cls(reasons, len(working), simulating)
