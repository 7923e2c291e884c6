"""What `load.py` measures while it watches: processes, sensor ticks, pages, and the way of an urgent case."""

from __future__ import annotations

import json
import os
import statistics
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.load_site import LoadSite

_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
_CLOCK = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 5.0
PAGES = {
    # What the page of an asset asks: its partitions, their states, its latest materialisations.
    "partitions of the asset": (
        "query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {"
        " partitionKeysByDimension { name partitionKeys }"
        " assetPartitionStatuses { ... on DefaultPartitionStatuses {"
        " materializedPartitions materializingPartitions failedPartitions } }"
        " partitionStats { numMaterialized numMaterializing numPartitions numFailed } } } }"
    ),
    "events of the asset": (
        "query($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset {"
        " assetMaterializations(limit: 100) { runId partition timestamp } } } }"
    ),
    "queued runs": (
        "query { runsOrError(filter: {statuses: [QUEUED]}, limit: 25) { ... on Runs { count"
        " results { runId status jobName tags { key value } } } } }"
    ),
}


@dataclass
class Watched:
    """The figures of one site."""

    cpu: dict[str, list[float]] = field(default_factory=dict)
    """Per cent of one core between two samples, by service."""
    memory: dict[str, list[float]] = field(default_factory=dict)
    """MiB, by service."""
    pages: dict[str, list[float]] = field(default_factory=dict)
    """Seconds, by page."""
    ticks: dict[str, list[float]] = field(default_factory=dict)
    """Seconds, by sensor."""
    queued: list[int] = field(default_factory=list)
    urgent: dict[str, float] = field(default_factory=dict)
    """Seconds since the urgent case arrived."""


class Watch:
    """Looks at a running site.

    Args:
        site: Its services run.
    """

    def __init__(self, site: LoadSite) -> None:
        self._site = site
        self.found = Watched()
        self._ticks_after = time.time()
        self._used: dict[str, tuple[float, float]] = {}

    def until(self, seconds: float, urgent: str | None = None) -> None:
        """Look every few seconds; where an urgent case has arrived just now, also how far it has come."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            time.sleep(SAMPLE_SECONDS)
            self._processes()
            self._pages()
            with self._site.instance() as instance:
                waiting = dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])
                self.found.queued.append(instance.get_runs_count(waiting))
                if urgent is not None:
                    self._follow(instance, urgent, time.monotonic() - began)
        self._read_ticks()

    def _processes(self) -> None:
        for name, process in self._site.services["processes"].items():
            pid = process.split(":")[0]
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used, now = (int(fields[11]) + int(fields[12])) / _CLOCK, time.monotonic()
            before = self._used.get(name)
            self._used[name] = (used, now)
            if before is not None:
                percent = 100 * (used - before[0]) / (now - before[1])
                self.found.cpu.setdefault(name, []).append(percent)
            resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB
            self.found.memory.setdefault(name, []).append(resident)

    def _pages(self) -> None:
        services = self._site.services
        address = f"http://{services['host']}:{services['port']}/graphql"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for name, query in PAGES.items():
            variables = {"key": {"path": ["raw_dose"]}} if "$key" in query else {}
            body = json.dumps({"query": query, "variables": variables}).encode()
            request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
            started = time.perf_counter()
            with opener.open(request, timeout=120) as answer:
                content = json.load(answer)
            if content.get("errors"):
                raise SystemExit(f"{name}: {content['errors']}")
            self.found.pages.setdefault(name, []).append(time.perf_counter() - started)

    def _follow(self, instance: dg.DagsterInstance, case: str, now: float) -> None:
        for job in ("intake", "beam"):
            runs = instance.get_runs(dg.RunsFilter(job_name=job, tags={"mqi/case": case}))
            if runs:
                self.found.urgent.setdefault(f"{job} asked for", now)
            if any(run.status is not dg.DagsterRunStatus.QUEUED for run in runs):
                self.found.urgent.setdefault(f"{job} started", now)

    def _read_ticks(self) -> None:
        with self._site.instance() as instance:
            for state in instance.all_instigator_state():
                ticks: list[Any] = list(
                    instance.get_ticks(state.instigator_origin_id, state.selector_id, after=self._ticks_after)
                )
                ended = [tick for tick in ticks if tick.end_timestamp]
                self.found.ticks[state.instigator_name] = [
                    tick.end_timestamp - tick.timestamp for tick in ended
                ]


def spread(values: list[float], unit: str) -> str:
    """Median and worst."""
    if not values:
        return "none"
    return f"{statistics.median(values):7.2f} / {max(values):7.2f} {unit} ({len(values)})"


def course(values: list[float], unit: str) -> str:
    """How a value stood at the start, in the middle and at the end."""
    if not values:
        return "none"
    return f"{values[0]:.0f} -> {values[len(values) // 2]:.0f} -> {values[-1]:.0f} {unit}"
