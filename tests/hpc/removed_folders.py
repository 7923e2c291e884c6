"""The cluster's side of retention: what was removed there, and what stands in the way."""

from __future__ import annotations

from mqi_dagster.errors import MqiError
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.naming import JobFolder


class RemovedFolders:
    """Stands in for `remove_folder`, on however many clusters."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.fails: dict[str, MqiError] = {}

    def remove(self, connection: Connection, folder: JobFolder) -> None:
        """Note the folder, or fail as a test says."""
        if folder.key in self.fails:
            raise self.fails[folder.key]
        self.removed.append(folder.key)
