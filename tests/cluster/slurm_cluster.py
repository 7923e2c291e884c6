"""Real clusters for tests: started from nothing in a folder of their own, and gone afterwards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, ClusterError, ClusterSettings, install, missing_packages

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


@contextmanager
def running_cluster(**settings: Any) -> Iterator[Cluster]:
    """A cluster that takes jobs; the test that needs it skips where none can be.

    Args:
        settings: Those of `ClusterSettings` that are not to have their defaults.
    """
    if os.geteuid() != 0:
        pytest.skip("a real cluster needs root")
    # Short, because sockets lie below it, and where the user of the jobs can go.
    root = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="mqc"))
    cluster = Cluster(ClusterSettings(root=root, **settings))
    try:
        if missing := missing_packages(cluster.settings.accounting):
            pytest.skip(f"python3 deploy/cluster install: {' '.join(missing)}")
        install(cluster.settings.user, cluster.settings.accounting)
        try:
            cluster.start()
        except ClusterError:
            print(logs(cluster))
            raise
        yield cluster
    finally:
        cluster.clean()
    assert processes_of(root) == {}


def logs(cluster: Cluster) -> str:
    """The end of what every daemon has said."""
    files = sorted(cluster.layout.log.glob("*"))
    return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in files)


def processes_of(root: Path) -> dict[int, str]:
    """Living processes that name a cluster's folder in their command or environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (entry / "environ").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        # A dead child that nobody has waited for has no command line.
        if command and str(root) in command + environment:
            found[int(entry.name)] = command
    return found
