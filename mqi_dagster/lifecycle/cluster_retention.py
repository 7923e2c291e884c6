"""The folders that jobs have left on clusters, and their removal."""

from collections.abc import Iterator

from mqi_dagster.errors import MqiError
from mqi_dagster.hpc.executor import SlurmExecutor
from mqi_dagster.ledger.cluster_jobs import ClusterJob
from mqi_dagster.resources.site import Site

_AT_ONCE = 10
"""Folders that one tick of a sensor removes on a cluster: each takes some calls to it."""


def old_job_folders(site: Site) -> Iterator[tuple[str, ClusterJob]]:
    """The jobs whose folders may go, each with its cluster; nothing is asked of the clusters."""
    for name, executor in _clusters(site):
        for job in executor.housekeeping.kept_too_long():
            yield name, job


def tidy_clusters(site: Site, *, at_once: int | None = _AT_ONCE) -> tuple[int, bool, list[str]]:
    """Remove those folders; a cluster that is away, or a folder that cannot go, holds up no other.

    Args:
        site: The site.
        at_once: How many at most on each cluster; None: all.

    Returns:
        How many went, whether those were all, and what could not be done.
    """
    count, whole, problems = 0, True, list[str]()
    for name, executor in _clusters(site):
        before = len(executor.housekeeping.kept_too_long())
        if not before:
            # Where there is nothing to do, a cluster is left alone.
            continue
        try:
            whole = executor.housekeeping.remove_kept(limit=at_once) != at_once and whole
        except MqiError as error:
            problems.append(f"cluster {name}: {error.message}")
        count += before - len(executor.housekeeping.kept_too_long())
    return count, whole, problems


def _clusters(site: Site) -> Iterator[tuple[str, SlurmExecutor]]:
    # Also those that nothing is simulated on any more.
    for name in sorted(site.settings.hosts):
        executor = site.executor_on(name)
        if isinstance(executor, SlurmExecutor):
            yield name, executor
