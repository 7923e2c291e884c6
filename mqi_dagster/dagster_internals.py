"""What is used of Dagster that its public interface does not offer: the one place that names it.

Dagster is pinned; `tests/test_dagster_internals.py` says of each name what is relied upon.
"""

from dagster._config.config_schema import UserConfigSchema
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.event_api import PartitionKeyFilter, RunStatusChangeEventType
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, TickStatus
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._core.storage.schedules import SqliteScheduleStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._core.storage.tags import (
    BACKFILL_ID_TAG,
    GRPC_INFO_TAG,
    PARENT_RUN_ID_TAG,
    ROOT_RUN_ID_TAG,
    SENSOR_NAME_TAG,
)
from dagster._core.utils import make_new_run_id
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._serdes import ConfigurableClassData

__all__ = [
    "BACKFILL_ID_TAG",
    "FINISHED_STATUSES",
    "GRPC_INFO_TAG",
    "INDEX_SHARD_NAME",
    "PARENT_RUN_ID_TAG",
    "ROOT_RUN_ID_TAG",
    "SENSOR_NAME_TAG",
    "AssetCheckExecutionsTable",
    "CheckRunHealthResult",
    "ConfigurableClassData",
    "DagsterSqliteStorage",
    "InstanceRef",
    "InstigatorState",
    "InstigatorStatus",
    "InstigatorType",
    "PartitionKeyFilter",
    "RunStatusChangeEventType",
    "RunsTable",
    "SqlEventLogStorage",
    "SqlEventLogStorageTable",
    "SqlRunStorage",
    "SqliteEventLogStorage",
    "SqliteRunStorage",
    "SqliteScheduleStorage",
    "TickStatus",
    "UnresolvedAssetJobDefinition",
    "UserConfigSchema",
    "WorkerStatus",
    "WorkspaceFileTarget",
    "WorkspaceProcessContext",
    "make_new_run_id",
]
