"""However many beams wait and in however many processes, a cluster is asked once an interval."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from mqi_dagster.hpc import polling
from tests.slurm.beams import NAME, Bench, assert_done_once, live_jobs
from tests.slurm.faults import login
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

JOBS = 30


def test_thirty_jobs_and_two_executors_cost_one_round_trip_a_look(
    cluster: Any, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    on = bench()
    looks: list[float] = []
    real = polling.run_script

    def counted(*arguments: Any, **options: Any) -> Any:
        looks.append(time.monotonic())
        return real(*arguments, **options)

    monkeypatch.setattr(polling, "run_script", counted)
    keys = [f"{number:032x}-1" for number in range(JOBS)]
    names = [f"case__b{number:02d}" for number in range(JOBS)]
    held = "/usr/bin/sbatch --hold --parsable -o /dev/null --wrap true"
    pairs = zip(keys, names, strict=True)
    ids = login(
        cluster, "; ".join(f"{held} --job-name=moqui_{name} --comment={key}" for key, name in pairs)
    ).split()
    for key, name, job in zip(keys, names, ids, strict=True):
        on.ledger.jobs.reserve(NAME, key, name, "case/beam")
        on.ledger.jobs.mark_submitted(NAME, key, job)
    beam = on.beam(seconds=2)
    on.executor.submit(beam.job)
    executors = [on.executor, on.another_executor()]
    handle = on.executor.submit(beam.job)
    looks.clear()

    def poll(executor: Any) -> None:
        while len(looks) < 5:
            executor.poll(beam.job, handle)

    threads = [threading.Thread(target=poll, args=(executor,)) for executor in executors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shortest = on.slurm.intervals.poll_seconds
    gaps = [after - before for before, after in itertools.pairwise(looks)]
    # However often the two ask: no two looks are nearer to each other than one interval.
    assert len(looks) >= 5 and min(gaps) >= shortest, gaps
    states = {on.ledger.jobs.get(NAME, key).state for key in keys}  # type: ignore[union-attr]
    assert states == {"held"}
    on.drive(beam)
    before = len(looks)
    cluster.slurm("scancel", *ids)
    wait_for(lambda: not live_jobs(cluster), "an empty queue")
    wait_for(on.executor._watcher.poll_if_due, "a look")
    assert len(looks) == before + 1
    wait_for(lambda: on.executor._watcher.poll_if_due() or not on.ledger.jobs.open(NAME), "all ends")
    assert_done_once(cluster, on, beam)
