"""The worker of a run: all steps in one process, which shows that it lives until it ends."""

from collections.abc import Iterator

import dagster as dg

from mqi_dagster.dagster_internals import (
    DagsterEvent,
    ExecutionPlan,
    InProcessExecutor,
    PlanOrchestrationContext,
    RetryMode,
)
from mqi_dagster.resources.site import Site


class _WatchedExecutor(InProcessExecutor):
    def __init__(self, site: Site) -> None:
        super().__init__(retries=RetryMode.ENABLED)
        self._site = site

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        self._site.signs_of_life.give(plan_context.run_id)
        yield from super().execute(plan_context, execution_plan)


def watched_executor(site: Site) -> dg.ExecutorDefinition:
    """Dagster's in-process executor, whose workers give a sign of life.

    Args:
        site: Where the signs stand.
    """

    @dg.executor(name="in_process")
    def in_process(init_context: dg.InitExecutorContext) -> dg.Executor:
        return _WatchedExecutor(site)

    return in_process
