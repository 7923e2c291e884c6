"""How many courses are in one stage at once on this machine: an asset enters a slot around its work.

A slot is a lock on a file below the site's state, so that it is free again when its process ends, however.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from mqi_dagster.errors import InfrastructureError
from mqi_dagster.execution.locks import hold
from mqi_dagster.files import private_folder
from mqi_dagster.lifecycle.stages import WorkPhase
from mqi_dagster.processes.worker_counts import stage_limit
from mqi_dagster.resources.site import Site

_POLL_SECONDS = 0.5
_PHASES = {
    "organize": WorkPhase.ORGANISING,
    "segmentation": WorkPhase.SEGMENTING,
    "segmentation_custom": WorkPhase.SEGMENTING,
    "crop_ct": WorkPhase.MAKING_STRUCTURES,
    "dvh": WorkPhase.MAKING_TABLES,
    "visualize": WorkPhase.CONCLUDING,
    "radiomics": WorkPhase.MAKING_TABLES,
}
_ORDER = ("organize", "segmentation", "segmentation_custom", "crop_ct", "dvh", "radiomics", "visualize")
"""In which a course goes through them."""


@contextmanager
def stage_slot(context: dg.AssetExecutionContext, site: Site, stage: str) -> Iterator[None]:
    """Be one of the courses in a stage while the block lasts; wait in sight until there is room.

    Args:
        context: Of the step.
        site: The installation.
        stage: One of those above.

    Raises:
        InfrastructureError: The disk does not take the lock, or the ledger not the progress.
    """
    limit = stage_limit(site.settings.radiotherapy, stage)
    descriptor, waited = _free_slot(site, stage, limit), False
    while descriptor is None:
        if not waited:
            words = f"waits for its turn: {limit} in the stage {stage} at once"
            context.log.info(words)
            _report(context, site, stage, words)
        waited = True
        time.sleep(_POLL_SECONDS)
        descriptor = _free_slot(site, stage, limit)
    try:
        _report(context, site, stage, "")
        yield
    finally:
        os.close(descriptor)


def _report(context: dg.AssetExecutionContext, site: Site, stage: str, message: str) -> None:
    percent = 100 * _ORDER.index(stage) / len(_ORDER)
    key, run_id = context.partition_key, context.run.run_id
    site.ledger.progress.record(key, run_id, _PHASES[stage], percent=percent, message=message)


def _free_slot(site: Site, stage: str, limit: int) -> int | None:
    folder = site.settings.paths.state / "stages"
    try:
        private_folder(folder)
        for number in range(1, limit + 1):
            descriptor = hold(folder / f"{stage}.{number}", tries=1)
            if descriptor is not None:
                return descriptor
    except OSError as error:
        raise InfrastructureError(f"the turn in a stage cannot be taken: {error.strerror}") from None
    return None
