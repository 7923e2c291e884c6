"""How a run's worker shows that it lives, and how Dagster's own run monitoring is told that it does not.

A run is dead when its worker is: not when it is silent. A worker that waits for a cluster or a database, or
is stopped by the machine, keeps its run, whatever the clocks say.
"""

import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dagster as dg

from mqi_dagster.compute.run_workers import GONE, is_dead
from mqi_dagster.dagster_internals import CheckRunHealthResult, ConfigurableClassData, WorkerStatus
from mqi_dagster.execution.sign_of_life import Life
from mqi_dagster.ledger.database import utc_now

if TYPE_CHECKING:
    from mqi_dagster.resources.site import Site

NO_SIGN_SECONDS = 30.0
"""How long a started run may be without a sign of life: its worker gives one before the first step."""


class RunLauncher(dg.DefaultRunLauncher):
    """Dagster's own launcher, which can also tell whether the worker of a run lives.

    The daemon's run monitoring asks for every started run, and ends what is dead. What cannot be found out
    now is an error of the monitoring, and ends nothing.

    Args:
        inst_data: What Dagster has made this from.
        monotonic: Tells passing time in seconds; replaced in tests.
    """

    def __init__(
        self, inst_data: ConfigurableClassData | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(inst_data)
        # Measured here, not by the clock of the day, which may be set.
        self._monotonic = monotonic
        self._without_sign: dict[str, float] = {}

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether `check_run_worker_health` can be asked."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the worker of a started run lives.

        Raises:
            InfrastructureError: The site's disk or its ledger cannot be read.
        """
        if is_dead(self._instance, self._site, run) or self._has_waited_for_a_sign(run):
            return CheckRunHealthResult(WorkerStatus.FAILED, GONE)
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    @cached_property
    def _site(self) -> "Site":
        # The pages make a launcher as well, and have no need of what a site imports.
        from mqi_dagster.resources.site import Site

        return Site.from_environment()

    def _has_waited_for_a_sign(self, run: dg.DagsterRun) -> bool:
        run_id = run.run_id
        # One that a person has started in a terminal has no worker of the services: its sign alone tells.
        if run.remote_job_origin is None or self._site.signs_of_life.of(run_id) is not Life.NEVER_SEEN:
            self._without_sign.pop(run_id, None)
            return False
        since = self._without_sign.setdefault(run_id, self._monotonic())
        if self._monotonic() - since < NO_SIGN_SECONDS:
            return False
        # A worker of an older version gives no sign; its heartbeat speaks for it.
        stale_after = self._site.stale_after
        return all(
            lease.owner != run_id or lease.is_stale(utc_now(), stale_after)
            for lease in self._site.ledger.leases.all()
        )


class _WatchedExecutor(dg.Executor):
    def __init__(self, inner: dg.Executor, site: "Site") -> None:
        self._inner = inner
        self._site = site

    @property
    def retries(self) -> Any:
        return self._inner.retries

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[Any]:
        self._site.signs_of_life.give(plan_context.run_id)
        yield from self._inner.execute(plan_context, execution_plan)


def watched_executor(site: "Site") -> dg.ExecutorDefinition:
    """Dagster's in-process executor, whose workers show that they live until their process ends.

    Args:
        site: Where the signs stand.
    """
    inner = dg.in_process_executor

    @dg.executor(name=inner.name, config_schema=inner.config_schema.as_field())
    def in_process(init_context: dg.InitExecutorContext) -> dg.Executor:
        create = inner.executor_creation_fn
        assert create is not None
        return _WatchedExecutor(create(init_context), site)

    return in_process
