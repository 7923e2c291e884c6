"""The hand-over target of the settings; where it is a host that is away, it is waited for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import dagster as dg

from mqi_dagster.compute.retrying import Retrying
from mqi_dagster.errors import HandoverError
from mqi_dagster.handover.target import Receipt, ReceiptEntry, Target
from mqi_dagster.lifecycle.stages import WorkPhase
from mqi_dagster.resources.site import Site
from mqi_dagster.resources.site_folders import target_trouble
from mqi_dagster.settings import LOCAL, Intervals

T = TypeVar("T")


class RetriedTarget:
    """A target whose host may be away for as long as it likes.

    Args:
        context: Of the step.
        site: The installation.
        target: Where its results are handed over.
        afterwards: What is done once there is no more to wait for.
    """

    def __init__(
        self, context: dg.AssetExecutionContext, site: Site, target: Target, afterwards: WorkPhase
    ) -> None:
        self._context = context
        self._site = site
        self._target = target
        self._afterwards = afterwards
        self._waited = False
        self._retrying = Retrying(context.log, Intervals.model_validate({}), self._say)

    @property
    def name(self) -> str:
        """Kind of the target."""
        return self._target.name

    def deliver(self, folder: str, files: Mapping[str, Path]) -> Receipt:
        """See `Target.deliver`."""
        return self._retried(lambda: self._target.deliver(folder, files))

    def state(self, folder: str, name: str, content: bytes) -> ReceiptEntry:
        """See `Target.state`."""
        return self._retried(lambda: self._target.state(folder, name, content))

    def withdraw(self, folder: str, name: str) -> None:
        """See `Target.withdraw`."""
        self._retried(lambda: self._target.withdraw(folder, name))

    def _retried(self, call: Callable[[], T]) -> T:
        # A folder of this machine is tried again by the step: nothing of it can be away for hours.
        if self._site.settings.handover.target == LOCAL:
            if why := target_trouble(self._site):
                # Written into an empty mount point, results would be where nobody looks.
                raise HandoverError(why)
            return call()
        done = self._retrying.call("handing over", call)
        if self._waited:
            self._report(self._afterwards, "")
            self._waited = False
        return done

    def _say(self, reason: str) -> None:
        if reason:
            self._waited = True
            self._report(WorkPhase.WAITING_FOR_TARGET, reason)

    def _report(self, phase: WorkPhase, message: str) -> None:
        key, run_id = self._context.partition_key, self._context.run.run_id
        self._site.ledger.progress.record(key, run_id, phase, percent=100.0, message=message)
