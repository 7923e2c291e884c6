"""The backfill of a failed beam as the page asks for it, carried out by Dagster's own backfill daemon."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import InProcessTestWorkspaceLoadTarget
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._daemon.backfill import execute_backfill_iteration
from dagster_graphql.test.utils import execute_dagster_graphql

from tests.chain.chain import Chain, faulty_engine
from tests.pages.mutations import BEAM_ASSETS, FAILED_PARTITIONS, LAUNCH_BACKFILL, backfill_params

LAUNCHER = {
    "module": "dagster._core.launcher.sync_in_memory_run_launcher",
    "class": "SyncInMemoryRunLauncher",
}
COORDINATOR = {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"}
LOCATION = """
from pathlib import Path
from mqi_dagster.definitions import build_definitions
from mqi_dagster.resources.site import Site
defs = build_definitions(Site(Path({settings!r})))
"""


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    """A site whose engine does what the file ``mode`` says, with Dagster's storage on disk."""
    home = tmp_path / "dagster"
    home.mkdir()
    overrides = {"run_launcher": LAUNCHER, "run_coordinator": COORDINATOR}
    with dg.DagsterInstance.local_temp(str(home), overrides=overrides) as instance:
        assert instance.is_persistent
        yield Chain(tmp_path / "site", {"engine": faulty_engine(tmp_path / "mode")}, instance=instance)


@pytest.fixture
def pages(chain: Chain, tmp_path: Path) -> Iterator[WorkspaceProcessContext]:
    """What stands behind the pages: the schema's context with this site's code location."""
    file = tmp_path / "location_of_the_pages_test.py"
    file.write_text(LOCATION.format(settings=str(chain.settings_file)))
    origin = InProcessCodeLocationOrigin(LoadableTargetOrigin(python_file=str(file)), location_name="mqi")
    target = InProcessTestWorkspaceLoadTarget(origin)
    with WorkspaceProcessContext(chain.instance, target) as context:
        yield context


def test_the_page_backfills_a_failed_beam_alone_and_its_case_concludes_once(
    chain: Chain, pages: WorkspaceProcessContext, tmp_path: Path
) -> None:
    mode = tmp_path / "mode"
    chain.deliver()
    mode.write_text("good")
    chain.tick("case_arrivals")
    requests = chain.tick("beams_to_simulate", launch=False)
    good, bad = (str(request.partition_key) for request in requests)
    case = good.split("__")[0]
    chain.run("beam", good)
    mode.write_text("exit-1")
    assert not chain.run("beam", bad).success
    chain.tick("cases_to_conclude")
    assert chain.runs_of("conclusion") == []
    starts = chain.engine_starts()
    made_before = chain.published(good)

    with pages.create_request_context() as context:
        asked = execute_dagster_graphql(context, FAILED_PARTITIONS, {"assetKey": {"path": ["handed_over"]}})
    statuses = asked.data["assetNodeOrError"]["assetPartitionStatuses"]
    assert statuses["failedPartitions"] == [bad]
    assert statuses["materializedPartitions"] == [good]

    mode.write_text("good")
    with pages.create_request_context() as context:
        launched = execute_dagster_graphql(
            context, LAUNCH_BACKFILL, backfill_params(statuses["failedPartitions"])
        )
    answer = launched.data["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    for _ in range(3):
        errors = [
            error for error in execute_backfill_iteration(pages, logging.getLogger("backfill")) if error
        ]
        assert errors == []
    runs = chain.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": answer["backfillId"]}))
    assert [(run.tags["dagster/partition"], run.status) for run in runs] == [
        (bad, dg.DagsterRunStatus.SUCCESS)
    ]
    assert {key.to_user_string() for key in runs[0].asset_selection or ()} == set(BEAM_ASSETS)
    backfill = chain.instance.get_backfill(answer["backfillId"])
    assert backfill is not None and backfill.status.value == "COMPLETED_SUCCESS"
    assert chain.engine_starts() == starts + 1
    assert chain.published(good) == made_before

    chain.tick_sensors(rounds=3)
    assert chain.runs_of("conclusion") == [case]
    assert f"{case}/_COMPLETE" in chain.handed_over_files()
