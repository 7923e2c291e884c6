"""What a run worker costs before its first step: forked from one warm process, or in a new interpreter.

python -m benchmarks.workers [--workers 8]

Each way starts the workers one after the other; every one imports what a run needs and stays until all are
there. Told are seconds until it is ready, its processor seconds, and its share of memory (PSS).
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import time
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.synchronize import Event
from pathlib import Path

from mqi_dagster.operations.code_server import WARM


def share_of_memory_mb() -> float:
    """This process's proportional share of the memory that it uses [MB]."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def work(ready: Connection, everybody: Event) -> None:
    """Import what a run needs, collect garbage as runs do, and tell the cost once everybody is there."""
    import_module(WARM)
    gc.collect()
    ready.send(None)
    everybody.wait()
    ready.send((time.process_time(), share_of_memory_mb()))


def measured(context: SpawnContext | ForkServerContext, workers: int) -> list[tuple[float, float, float]]:
    """Seconds until ready, processor seconds and MB of each worker."""
    everybody = context.Event()
    waits, pipes, processes = [], [], []
    for _ in range(workers):
        mine, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, everybody))
        began = time.perf_counter()
        process.start()
        mine.recv()
        waits.append(time.perf_counter() - began)
        pipes.append(mine)
        processes.append(process)
    everybody.set()
    costs = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    return [(wait, *cost) for wait, cost in zip(waits, costs, strict=True)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=8)
    workers = parser.parse_args().workers
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload([WARM])
    print(f"{workers} workers          first ready   others ready   processor   memory each")
    for name, context in (("forked", forked), ("spawned", multiprocessing.get_context("spawn"))):
        first, *others = measured(context, workers)
        seconds, busy, memory = (sum(one[column] for one in others) / len(others) for column in range(3))
        print(f"{name:18} {first[0]:9.2f} s {seconds:12.2f} s {busy:9.2f} s {memory:10.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
