"""What is relied upon of each private name of Dagster: after an upgrade, this says which one has changed."""

from __future__ import annotations

import ast
import inspect
import subprocess
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from mqi_dagster import dagster_internals as internals
from mqi_dagster import dagster_server_internals as server

ROOT = Path(__file__).resolve().parents[1]


def takes(function: Callable[..., object], *names: str) -> bool:
    return set(names) <= set(inspect.signature(function).parameters)


def columns(table: object, *names: str) -> bool:
    return set(names) <= set(table.c.keys())  # type: ignore[attr-defined]


RELIED_UPON: dict[str, Callable[[], bool]] = {
    "BACKFILL_ID_TAG": lambda: internals.BACKFILL_ID_TAG == "dagster/backfill",
    "FINISHED_STATUSES": lambda: (
        {one.value for one in internals.FINISHED_STATUSES} == {"SUCCESS", "FAILURE", "CANCELED"}
    ),
    "GRPC_INFO_TAG": lambda: internals.GRPC_INFO_TAG == ".dagster/grpc_info",
    "PARENT_RUN_ID_TAG": lambda: internals.PARENT_RUN_ID_TAG == "dagster/parent_run_id",
    "ROOT_RUN_ID_TAG": lambda: internals.ROOT_RUN_ID_TAG == "dagster/root_run_id",
    "SENSOR_NAME_TAG": lambda: internals.SENSOR_NAME_TAG == "dagster/sensor_name",
    "AssetCheckExecutionsTable": lambda: columns(
        internals.AssetCheckExecutionsTable, "asset_key", "check_name", "partition", "run_id"
    ),
    "CheckRunHealthResult": lambda: internals.CheckRunHealthResult._fields[:2] == ("status", "msg"),
    "ConfigurableClassData": lambda: takes(
        internals.ConfigurableClassData.__new__, "module_name", "class_name", "config_yaml"
    ),
    "DagsterSqliteStorage": lambda: (
        internals.DagsterSqliteStorage.__mro__[1].__name__ == "DagsterStorage"
        and "_run_storage" in inspect.getsource(internals.DagsterSqliteStorage)
    ),
    "INDEX_SHARD_NAME": lambda: internals.INDEX_SHARD_NAME == "index",
    "InstanceRef": lambda: takes(internals.InstanceRef.from_dir, "base_dir", "overrides"),
    "InstigatorState": lambda: hasattr(internals.InstigatorState, "status"),
    "InstigatorStatus": lambda: {"RUNNING", "STOPPED"} <= set(internals.InstigatorStatus.__members__),
    "InstigatorType": lambda: "SENSOR" in internals.InstigatorType.__members__,
    "PartitionKeyFilter": lambda: internals.PartitionKeyFilter(key="one").key == "one",
    "RunStatusChangeEventType": lambda: internals.RunStatusChangeEventType is not None,
    "RunsTable": lambda: columns(
        internals.RunsTable, "id", "run_id", "pipeline_name", "status", "partition", "create_timestamp",
        "start_time", "end_time", "update_timestamp",
    ),
    "SqlEventLogStorage": lambda: takes(
        internals.SqlEventLogStorage.get_latest_storage_id_by_partition, "asset_key", "event_type"
    ),
    "SqlEventLogStorageTable": lambda: columns(
        internals.SqlEventLogStorageTable, "id", "run_id", "event", "asset_key", "partition", "timestamp"
    ),
    "SqlRunStorage": lambda: hasattr(internals.SqlRunStorage, "connect"),
    "SqliteEventLogStorage": lambda: (
        {"path_for_shard", "_connect", "_initdb"} <= set(dir(internals.SqliteEventLogStorage))
        and all(
            name in inspect.getsource(internals.SqliteEventLogStorage._connect)
            for name in ("self._db_lock", "self._initialized_dbs", "self._initdb")
        )
    ),
    "SqliteRunStorage": lambda: takes(internals.SqliteRunStorage.from_local, "base_dir", "inst_data"),
    "SqliteScheduleStorage": lambda: takes(
        internals.SqliteScheduleStorage.from_local, "base_dir", "inst_data"
    ),
    "TickStatus": lambda: {"SUCCESS", "SKIPPED", "FAILURE"} <= set(internals.TickStatus.__members__),
    "UnresolvedAssetJobDefinition": lambda: isinstance(
        dg.define_asset_job("one", selection="*"), internals.UnresolvedAssetJobDefinition
    ),
    "UserConfigSchema": lambda: internals.UserConfigSchema is not None,
    "WorkerStatus": lambda: {"RUNNING", "FAILED"} <= set(internals.WorkerStatus.__members__),
    "WorkspaceFileTarget": lambda: internals.WorkspaceFileTarget(paths=["one.yaml"]).paths == ["one.yaml"],
    "WorkspaceProcessContext": lambda: takes(
        internals.WorkspaceProcessContext.__init__, "instance", "workspace_load_target"
    ),
    "make_new_run_id": lambda: len(internals.make_new_run_id()) == 36,
    "DagsterApiServer": lambda: (
        takes(
            server.DagsterApiServer.__init__, "server_termination_event", "logger", "location_name",
            "server_threadpool_executor", "loadable_target_origin",
        )
        and all(
            f"self._mp_ctx.{name}(" in inspect.getsource(server.DagsterApiServer)
            for name in ("Queue", "Event", "Process")
        )
    ),
    "DagsterGrpcServer": lambda: takes(
        server.DagsterGrpcServer.__init__, "server_termination_event", "dagster_api_servicer", "logger",
        "threadpool_executor", "socket",
    ),
    "FuturesAwareThreadPoolExecutor": lambda: takes(
        server.FuturesAwareThreadPoolExecutor.__init__, "max_workers"
    ),
    "LoadableTargetOrigin": lambda: (
        server.LoadableTargetOrigin(executable_path="p", working_directory="w", module_name="m").module_name
        == "m"
    ),
    "configure_loggers": lambda: takes(server.configure_loggers, "formatter", "log_level"),
    "setup_interrupt_handlers": lambda: not inspect.signature(server.setup_interrupt_handlers).parameters,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted([*internals.__all__, *server.__all__]))
def test_a_private_name_of_dagster_is_what_it_was(name: str) -> None:
    assert RELIED_UPON[name]()


def test_every_row_is_about_a_name_that_is_used() -> None:
    assert set(RELIED_UPON) == {*internals.__all__, *server.__all__}
    assert dg.__version__.startswith("1.13.")


PRIVATE = ("mqi_dagster/dagster_internals.py", "mqi_dagster/dagster_server_internals.py")


def test_no_other_module_of_the_package_names_what_is_private() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--", "mqi_dagster/*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    others = []
    for name in listed.stdout.split():
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.startswith("dagster._") and name not in PRIVATE:
                others.append(f"{name}:{node.lineno}")
    assert others == []
