"""A worker process of its own, to be killed or to run beside another: ``worker.py <settings> <case folder>
<instance folder> <job> <partition>``. Prints ``done`` and whether the run succeeded."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import dagster as dg

warnings.simplefilter("ignore")

from mqi_dagster.definitions import build_definitions  # noqa: E402
from mqi_dagster.resources.site import Site  # noqa: E402


def main() -> int:
    """Run one partition of a job."""
    settings, given, folder, job, key = sys.argv[1:]
    instance = dg.DagsterInstance.local_temp(folder)
    definitions = build_definitions(Site(Path(settings), given=Path(given)))
    result = definitions.resolve_job_def(job).execute_in_process(
        instance=instance, partition_key=key, raise_on_error=False
    )
    print("done", result.success, flush=True)
    return 0 if result.success else 1


if __name__ == "__main__":
    sys.exit(main())
