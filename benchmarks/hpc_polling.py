"""A look at many jobs: the platform's one round trip against one `squeue -j` a job."""

from __future__ import annotations

import time
from collections import Counter

from benchmarks.hpc_figures import Figure, show
from benchmarks.hpc_site import Site
from mqi_dagster.hpc.naming import JobFolder
from mqi_dagster.hpc.polling import PollResult, poll_jobs
from mqi_dagster.hpc.shell import require, run

_ONE_BY_ONE = 100
"""Most jobs that are asked after one by one; what more would take is computed."""
_FINISH_SECONDS = 400
_PAUSE_SECONDS = 0.4
"""Between two looks: what else the machine does for a second then does not decide about a figure."""
_JOB = """\
#!/bin/sh
mkdir -p starts/$SLURM_JOB_ID-0
echo $SLURM_JOB_ID >owner
sum=$(echo $SLURM_JOB_ID | sha256sum)
cat >starts/$SLURM_JOB_ID-0/result.json <<END
{"job":"$SLURM_JOB_ID","start":0,"node":"$SLURMD_NODENAME","gpus":"0","exit_code":0,"signal":"",\
"began":1767600000,"ended":1767600600,"outputs":[{"number":1,"sha256":"${sum%% *}","size":4194304}]}
END
"""
_SUBMIT = """\
xargs -P 4 -n 1 sh -c 'cd -- "$1" && id=$(sbatch --parsable --hold --time=10 --mem=10M \
--job-name=moqui_P0123456789.fx0001__b02 --comment="${1##*/}" --output=/dev/null job.sh) && \
echo "$id $1"' mqi-one
"""


def measure_polling(site: Site, counts: tuple[int, ...], repetitions: int) -> tuple[Figure, Figure]:
    """Measure and print.

    Args:
        site: With an empty queue.
        counts: Numbers of pending jobs, growing; at the last, half of them are then let go.
        repetitions: Looks at each.

    Returns:
        A look at the fewest, and at the most.
    """
    jobs: dict[str, JobFolder] = {}
    looks, singles = [], []
    for count in counts:
        jobs |= _submit(site, len(jobs), count)
        _require_seen(poll_jobs(site.connection, jobs.items()), {"PENDING": count}, 0)
        ours = Figure(f"{count} pending: ours, one round trip")
        _time_looks(site, jobs, ours, repetitions)
        looks.append(ours)
        singles.append(_one_by_one(site, list(jobs), repetitions))
    live, finished = list(jobs)[::2], list(jobs)[1::2]
    _finish(site, jobs, finished)
    mixed = Figure(f"{len(live)} pending + {len(finished)} just finished: ours")
    _time_looks(site, jobs, mixed, repetitions)
    _require_seen(
        poll_jobs(site.connection, jobs.items()),
        {"PENDING": len(live), "COMPLETED": len(finished)},
        len(finished),
    )
    rows = [row for pair in zip(looks, singles, strict=True) for row in pair]
    show("a look at all jobs", [*rows, mixed], compared_with=looks[0])
    return looks[0], looks[-1]


def _time_looks(site: Site, jobs: dict[str, JobFolder], figure: Figure, repetitions: int) -> None:
    for _ in range(repetitions):
        time.sleep(_PAUSE_SECONDS)
        figure.time(poll_jobs, site.connection, jobs.items())


def _submit(site: Site, first: int, stop: int) -> dict[str, JobFolder]:
    """Jobs that wait for somebody to release them, in folders as they stand when a job is submitted."""
    folders = {str(one.path): one for one in (site.folder("b02", number) for number in range(first, stop))}
    for path in folders.values():
        here = site.remote / path.below / path.key
        here.mkdir(parents=True)
        (here / "job.sh").write_text(_JOB)
        site.own(here.parents[1], here.parent, here, here / "job.sh")
    feed = "".join(f"{path}\n" for path in folders).encode()
    said = require(run(site.connection, ["sh", "-c", _SUBMIT], feed=feed, timeout=300), "sbatch").text
    made = {job_id: folders[path] for job_id, path in (line.split(" ", 1) for line in said.splitlines())}
    if len(made) != len(folders):
        raise RuntimeError(f"{len(made)} of {len(folders)} jobs were submitted")
    return made


def _one_by_one(site: Site, ids: list[str], repetitions: int) -> Figure:
    asked = ids[:_ONE_BY_ONE]
    made = Figure(f"{len(ids)} pending: one squeue -j per job, one connection")
    if len(asked) < len(ids):
        made.factor = len(ids) / len(asked)
        made.note = f"EXTRAPOLATED: {len(asked)} measured, times {made.factor:g}"

    def ask() -> None:
        for job_id in asked:
            answer = run(site.connection, ["squeue", "-h", "-j", job_id, "-o", "%T"])
            assert answer.text.strip() == "PENDING", answer

    for _ in range(repetitions if len(asked) < 10 else max(1, repetitions // 5)):
        made.time(ask)
    return made


def _finish(site: Site, jobs: dict[str, JobFolder], chosen: list[str]) -> None:
    """Let jobs run, until queue, accounting and their own accounts all say that they have ended."""
    for start in range(0, len(chosen), 100):
        done = site.cluster.slurm("scontrol", "release", ",".join(chosen[start : start + 100]))
        if done.returncode != 0:
            raise RuntimeError(f"scontrol release: {done.stderr.strip()}")
    end = time.monotonic() + _FINISH_SECONDS
    while True:
        seen = poll_jobs(site.connection, jobs.items())
        ended = [one for one in chosen if one in seen.history and seen.history[one].state == "COMPLETED"]
        states = {seen.queue[one].state for one in chosen}
        if len(ended) == len(chosen) and states == {"COMPLETED"}:
            return
        if time.monotonic() > end:
            raise RuntimeError(f"{len(ended)} of {len(chosen)} jobs have ended in time")
        time.sleep(1)


def _require_seen(seen: PollResult, states: dict[str, int], results: int) -> None:
    found = Counter(record.state for record in seen.queue.values())
    if found != Counter(states) or len(seen.results) != results or len(seen.owners) != results:
        raise RuntimeError(f"the look saw {dict(found)}, {len(seen.results)} results")
