"""What our own pages cost: time of the worklist, share of a core with open streams, memory over many events.

    python -m benchmarks.web [--cases 10000] [--streams 100] [--events 10000] [--idle 60]

For SQLite and for PostgreSQL, one after the other: a site of so many cases is seeded, most of them concluded,
with 200 runs in Dagster's queue and 8 beams in work. Its pages run as `mqi web` runs them, in a process of
their own. Once they have read every case one browser asks for the worklist again and again, in several views;
so many streams are opened by as many sessions, first while nothing changes, then while the priority of a case
changes, until so many events were pushed. On a busy machine the time of the processor tells more than the
time on the wall: it is told beside it, and holds what the boards cost that are read meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deploy"))

from mqi_dagster.operations.instance import open_instance, write_instance
from mqi_dagster.operations.people import add_user, sign_in
from mqi_dagster.people.rights import Actor, Role
from mqi_dagster.resources.site import SETTINGS_VARIABLE
from mqi_dagster.web.access import Doorkeeper
from tests.postgres.postgres_server import running_postgres
from tests.worklist.seeded import Seeded

VIEWS = {
    "as it opens": "/",
    "searched for": "/?q=field+2",
    "by arrival, last page": "/?sort=arrived&page=200",
    "of one machine": "/?machine=G2&state=concluded",
    "board": "/board",
}
ASKED = 50
_AT_ONCE = 4
"""Browsers that open the page at the same moment."""
_FLAT_MIB = 5.0
"""Within so much the memory stays over the second half of the events."""
Cookies = dict[str, str]


def seed(site: Seeded, cases: int) -> str:
    """Fill a site; the key of a case in work."""
    now = datetime.now(UTC)
    working, waiting, failed = 8, min(300, cases // 10), min(60, cases // 50)
    site.now = now - timedelta(days=30)
    names = iter(f"P{number:09d}.fx0001" for number in range(cases))
    done = [next(names) for _ in range(cases - waiting - failed - working)]
    for number, machine in enumerate(("G1", "G2", "G3")):
        site.concluded(done[number::3], machine=machine, plan=f"PLAN {number}")
    site.now = now - timedelta(hours=1)
    broken = [next(names) for _ in range(failed)]
    site.taken_in(broken)
    for case in broken:
        run = site.run("beam", f"{case}__b01", "FAILURE")
        site.judged(run, case, "failed", "the engine ended with exit status 3", "engine")
    tags = {"mqi/gpu": "simulation"}
    keys = site.taken_in(names)
    runs = site.runs([("beam", key, "STARTED", tags) for key in keys[:working]])
    site.runs([("beam", key, "QUEUED", tags) for key in keys[working : working + 200]])
    for key, run in zip(keys, runs, strict=False):
        site.ledger().progress.record(key, run, "simulating", 1, 10, 1.0)
    site.daemon_alive()
    return keys[0].partition("__")[0]


@contextmanager
def served(site: Seeded) -> Iterator[tuple[int, int]]:
    """Process and port of the pages of a site."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, SETTINGS_VARIABLE: str(site.site.settings_file)}
    command = [sys.executable, "-m", "mqi_dagster.web.server", "--port", str(port)]
    with subprocess.Popen(command, env=environment) as process:
        try:
            while True:
                try:
                    httpx.get(f"http://127.0.0.1:{port}/healthz")
                    break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield process.pid, port
        finally:
            process.terminate()
            process.wait(30)


def cpu_seconds(process: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(process: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def sessions(site: Seeded, count: int) -> list[Cookies]:
    """Cookies of so many signed-in browsers."""
    site.site.ledger.database.clock = lambda: datetime.now(UTC)
    account = add_user(
        site.site, Actor.of_this_account(), "vera", [Role.VIEWER], password="benchmark of pages"
    )
    cookie = Doorkeeper(site.site).cookie
    return [{cookie: sign_in(site.site, account, "password").secret} for _ in range(count)]


def pages(process: int, port: int, cookies: Cookies, cases: int) -> dict[str, tuple[list[float], float]]:
    """Seconds of each view once every case was read, and CPU seconds of one on average."""
    found: dict[str, tuple[list[float], float]] = {}
    # A server that has closed a kept connection just now resets it.
    limits = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}", cookies=cookies, timeout=300, limits=limits
    ) as client:
        while f"of {cases}<" not in client.get(VIEWS["searched for"]).raise_for_status().text:
            time.sleep(2)
        for name, path in VIEWS.items():
            client.get(path).raise_for_status()
            seconds, cpu = [], cpu_seconds(process)
            for _ in range(ASKED):
                began = time.monotonic()
                client.get(path).raise_for_status()
                seconds.append(time.monotonic() - began)
            found[name] = seconds, (cpu_seconds(process) - cpu) / ASKED
    return found


async def listen(port: int, cookies: Cookies, counted: dict[str, int], turn: asyncio.Semaphore) -> None:
    """Open a page, and read its stream for as long as it is let."""
    limits = httpx.Timeout(120, read=120)
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", cookies=cookies, timeout=limits) as client,
        contextlib.AsyncExitStack() as opened,
    ):
        async with turn:
            # Who is not known yet is asked to come again while a busy ledger does not answer in time.
            while (await client.get("/?state=work")).status_code == httpx.codes.SERVICE_UNAVAILABLE:
                await asyncio.sleep(1)
            stream = client.stream("GET", "/stream/worklist?state=work")
            answer = await opened.enter_async_context(stream)
            answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                counted[line[7:]] = counted.get(line[7:], 0) + 1


async def streamed(
    site: Seeded,
    process: int,
    port: int,
    browsers: list[Cookies],
    case: str,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Figures of open streams, idle and busy."""
    counted: dict[str, int] = {}
    turn = asyncio.Semaphore(_AT_ONCE)
    tasks = [asyncio.create_task(listen(port, cookies, counted, turn)) for cookies in browsers]
    while counted.get("part", 0) < len(browsers):
        await asyncio.sleep(0.2)
        for task in tasks:
            if task.done():
                task.result()
    began, cpu, parts = time.monotonic(), cpu_seconds(process), counted["part"]
    await asyncio.sleep(options.idle)
    idle = (cpu_seconds(process) - cpu) / (time.monotonic() - began)
    print(
        f"  {len(browsers)} streams, nothing changes: {idle:.1%} of a core,"
        f" {counted['part'] - parts} parts, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    step, memory, start = 0, [memory_mib(process)], counted["part"]
    began, cpu = time.monotonic(), cpu_seconds(process)
    while (pushed := counted["part"] - start) < options.events:
        step += 1
        site.site.ledger.arrivals.set_priority(case, step % 1000)
        if pushed * 10 // options.events >= len(memory):
            memory.append(memory_mib(process))
        await asyncio.sleep(0.5)
    memory.append(memory_mib(process))
    busy = (cpu_seconds(process) - cpu) / (time.monotonic() - began)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "idle": idle,
        "busy": busy,
        "memory": memory,
        "pushed": counted["part"] - start,
    }


def measured(name: str, folder: Path, section: dict[str, object] | None, options: argparse.Namespace) -> bool:
    """Print the figures of one site; whether they are what they have to be."""
    site = Seeded(folder, None, {} if section is None else {"database": section})
    write_instance(site.site.settings)
    with open_instance(site.site.settings) as instance:
        site.instance = instance
        began = time.monotonic()
        case = seed(site, options.cases)
        print(f"{name}: {options.cases:,} cases seeded in {time.monotonic() - began:.0f} s", flush=True)
        browsers = sessions(site, options.streams)
        with served(site) as (process, port):
            times = pages(process, port, browsers[0], options.cases)
            for view, (seconds, cpu) in times.items():
                print(
                    f"  {view:24} median {1000 * statistics.median(seconds):5.0f} ms,"
                    f" worst {1000 * max(seconds):5.0f} ms, CPU {1000 * cpu:5.0f} ms",
                    flush=True,
                )
            found = asyncio.run(streamed(site, process, port, browsers, case, options))
        site.site.ledger.close()
    memory = ", ".join(f"{one:.0f}" for one in found["memory"])
    print(f"  {options.streams} streams, a case changes:  {found['busy']:.1%} of a core")
    print(f"  memory over {found['pushed']:,} events [MiB]: {memory}")
    half = found["memory"][len(found["memory"]) // 2 :]
    met = {
        "pages below 300 ms": all(statistics.median(one) < 0.3 for one, _ in times.values()),
        "idle streams below 10 % of a core": found["idle"] < 0.1,
        "memory flat over the second half": half[-1] - half[0] < _FLAT_MIB,
    }
    for bar, holds in met.items():
        print(f"  {bar}: {'met' if holds else 'NOT MET'}", flush=True)
    return all(met.values())


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--events", type=int, default=10_000, help="parts that are pushed, to all together")
    parser.add_argument("--idle", type=float, default=60, help="seconds in which nothing changes")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    options = parser.parse_args()
    met = True
    with tempfile.TemporaryDirectory(prefix="mqi-web.") as base:
        for name in options.database or ("sqlite", "postgresql"):
            folder = Path(base) / name
            if name == "sqlite":
                met &= measured(name, folder, None, options)
            else:
                with running_postgres() as server:
                    met &= measured(name, folder, server.section, options)
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
