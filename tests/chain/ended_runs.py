"""Runs as the services make them, in a state that a test wants; and ticks of the sensors that see them."""

from __future__ import annotations

from typing import Any

import dagster as dg
from dagster._core.events import JobFailureData, RunFailureReason
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.test_utils import create_run_for_test

from tests.chain.chain import Chain

BEAM = "P123456789.fx0001__b02"
CASE = "P123456789.fx0001"


def started(
    chain: Chain,
    job: str = "beam",
    partition: str = BEAM,
    *,
    selection: frozenset[dg.AssetKey] | None = None,
    **tags: str,
) -> dg.DagsterRun:
    """A run that the services have started, for some assets alone where a test says which."""
    return made(chain, job, partition, dg.DagsterRunStatus.STARTED, tags, selection)


def queued(chain: Chain, job: str = "beam", partition: str = BEAM, **tags: str) -> dg.DagsterRun:
    """A run that stands in Dagster's queue."""
    return made(chain, job, partition, dg.DagsterRunStatus.QUEUED, tags)


def made(
    chain: Chain,
    job: str,
    partition: str,
    status: dg.DagsterRunStatus,
    tags: dict[str, str],
    selection: frozenset[dg.AssetKey] | None = None,
) -> dg.DagsterRun:
    """A run of the services in any state."""
    chain.instance.add_dynamic_partitions("beam" if "__" in partition else "case", [partition])
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("mqi"), "repository"), job)
    run = create_run_for_test(
        chain.instance,
        job_name=job,
        tags={"dagster/partition": partition, **tags},
        remote_job_origin=origin,
        asset_selection=selection,
        status=status,
    )
    assert isinstance(run, dg.DagsterRun)
    return run


def lost(chain: Chain, run: dg.DagsterRun) -> None:
    """Its worker is gone, and somebody has said so."""
    chain.instance.report_run_failed(run)


def failed(chain: Chain, run: dg.DagsterRun, text: str, code: str, retry: str) -> None:
    """A step of it has failed with an error of ours."""
    from dagster._core.definitions.metadata import normalize_metadata
    from dagster._core.events import DagsterEvent, StepFailureData
    from dagster._core.execution.plan.objects import UserFailureData

    metadata = normalize_metadata({"error": code, "retry": retry})
    event = DagsterEvent(
        event_type_value="STEP_FAILURE",
        job_name=run.job_name,
        step_key="simulation",
        event_specific_data=StepFailureData(
            error=None, user_failure_data=UserFailureData(label="", description=text, metadata=metadata)
        ),
    )
    chain.instance.report_dagster_event(event, run.run_id)
    data = JobFailureData(error=None, failure_reason=RunFailureReason.STEP_FAILURE)
    chain.instance.report_run_failed(run, "a step has failed", data)


def succeeded(chain: Chain, run: dg.DagsterRun) -> None:
    """It has ended well."""
    from dagster._core.events import DagsterEvent

    event = DagsterEvent(event_type_value="PIPELINE_SUCCESS", job_name=run.job_name)
    chain.instance.report_dagster_event(event, run.run_id)


def step(chain: Chain, run: dg.DagsterRun, key: str) -> None:
    """A step of it has begun."""
    from dagster._core.events import DagsterEvent

    event = DagsterEvent(event_type_value="STEP_START", job_name=run.job_name, step_key=key)
    chain.instance.report_dagster_event(event, run.run_id)


def evaluate(chain: Chain, name: str, *, keep_cursor: bool = True) -> list[dg.RunRequest]:
    """One tick of a sensor; what it asks for, of which nothing is started.

    Args:
        keep_cursor: False is a crash before the daemon has written the cursor down.
    """
    sensor = next(s for s in chain.definitions.sensors or () if s.name == name)
    with dg.build_sensor_context(
        instance=chain.instance,
        cursor=chain.cursors.get(name),
        resources=dict(chain.definitions.resources or {}),
        repository_def=chain.definitions.get_repository_def(),
        sensor_name=name,
    ) as context:
        without_reference: Any = context
        if context.instance_ref is None:
            without_reference._instance_ref = True
        data = sensor.evaluate_tick(context)
    if keep_cursor:
        chain.cursors[name] = data.cursor
    return list(data.run_requests or ())
