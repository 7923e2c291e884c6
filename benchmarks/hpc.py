"""What the way to a Slurm cluster costs, beside the plain ways, over SSH on the loopback in one run.

    python -m benchmarks.hpc [--quick]        (root; `python3 deploy/cluster install` before)

Starts a cluster of its own, moves a beam's files up and down, looks at up to 1,000 jobs, and submits. The
plain ways use paramiko as its documentation shows it, with sockets that do not delay (TCP_NODELAY), as the
platform's do; they neither verify what they moved nor wait for the disk, the platform does both. Whatever
was moved is compared with its source outside of the measured time. Exit code 0 whether targets are met or
not; 2 where no cluster can be started.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

from benchmarks.hpc_figures import load, ratios, show_target
from benchmarks.hpc_polling import measure_polling
from benchmarks.hpc_site import running_site
from benchmarks.hpc_staging import measure_staging
from benchmarks.hpc_submission import measure_submission

# The name of the package is known only once hpc_site has found its folder.
from cluster import NotPreparedError  # isort: skip

STAGING_TARGET = 10.0
POLL_TARGET = 3.0


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few and small: only to see that it works")
    quick = parser.parse_args().quick
    if os.geteuid() != 0:
        print("a cluster needs root: its daemons run jobs as other users", file=sys.stderr)
        return 2
    # Its end is a proper one also when somebody asks for it from outside.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    csvs, big, repetitions = (10, 5_000_000, 1) if quick else (50, 200_000_000, 5)
    counts, looks = ((1, 10, 20), 3) if quick else ((1, 100, 1000), 20)
    submissions = 3 if quick else 20
    try:
        with running_site() as site:
            print(f"loopback SSH, {load()}")
            each, staged = measure_staging(site, csvs, big, repetitions)
            one, many = measure_polling(site, counts, looks)
            measure_submission(site, submissions)
            print(f"\n{load()}")
    except NotPreparedError as error:
        print(error, file=sys.stderr)
        return 2
    # Each by the worse of medians and bests.
    faster, dearer = min(ratios(each, staged)), max(ratios(many, one))
    show_target(
        f"staging of {csvs} files at least {STAGING_TARGET:g} times faster than a connection per file",
        faster >= STAGING_TARGET,
        faster,
    )
    show_target(
        f"a look at {counts[-1]} pending jobs at most {POLL_TARGET:g} times one at {counts[0]}",
        dearer <= POLL_TARGET,
        dearer,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
