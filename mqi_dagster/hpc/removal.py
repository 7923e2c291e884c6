"""Removing a job's folder from a cluster: only one that is ours, at exactly its place."""

from __future__ import annotations

from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.errors import PathRejectedError
from mqi_dagster.hpc.naming import JobFolder
from mqi_dagster.hpc.shell import require, run, run_script

_REFUSALS = {
    3: "the root on the cluster is '/' or the account's home",
    4: "a link lies on the way to the job's folder",
    5: "the job's folder does not carry our marker",
}


def remove_folder(connection: Connection, folder: JobFolder) -> None:
    """Remove a job's folder; where it is gone already nothing happens.

    Raises:
        PathRejectedError: What lies there is not ours.
        UnreachableError: The cluster cannot be reached.
        RemoteCommandError: It cannot be removed.
    """
    answer = run_script(connection, "remove", folder.root, folder.below, folder.key)
    if answer.exit_code in _REFUSALS:
        raise PathRejectedError(f"nothing was removed: {_REFUSALS[answer.exit_code]}")
    require(answer, "the job's folder cannot be removed")


def used_bytes(connection: Connection, root: str) -> int:
    """What all our folders take below the root; 0 where it is not there."""
    answer = run(connection, ["sh", "-c", '[ ! -d "$1" ] || du -s -B1 -- "$1" | cut -f1', "mqi-used", root])
    text = require(answer, "the space below the root cannot be measured").text.strip()
    return int(text or 0)
