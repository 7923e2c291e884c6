"""Workers behind a link that is cut, killed one after the other, and a server that is killed: each job once.

`make test-chaos` runs the whole of it, with PULL_REQUESTS as many; a small one is part of `make test-all`.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import pytest
import yaml

from mqi_dagster.execution.job import Job, JobHandle, JobState
from tests.pull.lab import Lab
from tests.waiting import wait_for

LEASE_SECONDS = 15.0
WHOLE = int(os.environ.get("PULL_REQUESTS", "200"))


class Link:
    """A network namespace whose one cable leads here; cut, it swallows what is sent and refuses nothing."""

    SERVER, WORKER = "10.213.77.1", "10.213.77.2"

    def __init__(self) -> None:
        self.name = f"mqi{os.getpid() % 100000}"
        self._cables = f"{self.name}s", f"{self.name}w"

    def make(self) -> None:
        """Make namespace and cable."""
        here, there = self._cables
        self._ip("netns", "add", self.name)
        self._ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", self.name)
        self._ip("addr", "add", f"{self.SERVER}/30", "dev", here)
        self._ip("link", "set", here, "up")
        for words in (f"addr add {self.WORKER}/30 dev {there}", f"link set {there} up", "link set lo up"):
            self._ip("-n", self.name, *words.split())

    def remove(self) -> None:
        """Remove both."""
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)

    @property
    def inside(self) -> list[str]:
        """Before a command that shall run there."""
        return ["ip", "netns", "exec", self.name]

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Lose every packet to the server while the block lasts: they go to a card that is not there."""
        where = ["-n", self.name, "neigh"]
        place = [self.SERVER, "dev", self._cables[1]]
        self._ip(*where, "replace", *place, "lladdr", "02:de:ad:be:ef:01", "nud", "permanent")
        try:
            yield
        finally:
            self._ip(*where, "del", *place)

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def link() -> Iterator[Link]:
    """The link to the workers."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    made = Link()
    made.make()
    yield made
    made.remove()


class Storm:
    """So many jobs, workers and kills."""

    def __init__(
        self, folder: Path, link: Link, requests: int, workers: int, kill_seconds: float, kills: int
    ) -> None:
        settings = folder / "site" / "mqi.yaml"
        settings.parent.mkdir(parents=True)
        pull = {"lease_seconds": LEASE_SECONDS, "claims": 100}
        content = {
            "site": {"timezone": "Asia/Seoul"},
            "hosts": {"lab": {"pull": pull}},
            "web": {"host": Link.SERVER, "behind_proxy": True},
        }
        settings.write_text(yaml.safe_dump(content))
        self.lab, self.link, self.kill_seconds = Lab(folder, settings_file=settings), link, kill_seconds
        self.jobs: list[tuple[Job, JobHandle]] = []
        self.names = [f"w{number}" for number in range(workers)]
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.requests, self.server_kills, self.random = requests, kills, random.Random(7)
        self.refused: list[int] = []
        self.over = threading.Event()

    def start_worker(self, name: str) -> None:
        """Start a worker behind the link, by the configuration that it has."""
        if not (self.lab.folder / name / "worker.yaml").exists():
            address = f"http://{Link.SERVER}:{self.lab.port}"
            self.lab.configure(
                name, server=address, allow_http=True, slots=2, wait_seconds=2, call_seconds=10
            )
        self.workers[name] = self.lab.work(name, prefix=self.link.inside)

    def serve(self) -> None:
        """Start the server."""
        self.lab.serve(host=Link.SERVER)

    def run(self) -> None:
        """The storm, until every job has ended."""
        self.lab.token()
        self.serve()
        for number in range(self.requests):
            job = self.lab.job(f"r{number}", seconds=self.random.uniform(0.0, 1.0))
            self.jobs.append((job, self.lab.executor.submit(job)))
        for name in self.names:
            self.start_worker(name)
        killer = threading.Thread(target=self._kill)
        forger = threading.Thread(target=self._forge)
        for thread in (killer, forger):
            thread.start()
        try:
            for part in range(1, self.server_kills + 1):
                self._wait_for_done(part * self.requests // 4)
                self.lab.kill_server()
                self.serve()
            self._wait_for_done(self.requests // 2 + 1)
            with self.link.cut():
                self._wait_for_leases_to_end()
            self._wait_for_done(self.requests)
        finally:
            self.over.set()
            killer.join()
            forger.join()

    def done(self) -> int:
        """How many jobs have ended."""
        return sum(row.ended for row in self.lab.site.ledger.work.all())

    def _wait_for_done(self, count: int) -> None:
        wait_for(lambda: self.done() >= count, f"{count} jobs have ended", 1800, report=self.lab.report)

    def _wait_for_leases_to_end(self) -> None:
        """Until every job that is at work when the link is cut has been taken back."""
        before = {row.id: row.token for row in self.lab.site.ledger.work.all(states=("running",))}
        wait_for(
            lambda: (
                not [
                    row
                    for row in self.lab.site.ledger.work.all(states=("running",))
                    if before.get(row.id) == row.token
                ]
            ),
            "the leases have ended",
            report=self.lab.report,
        )

    def _kill(self) -> None:
        """kill -9 of a worker, and its start again, as a service manager does, every few seconds."""
        while not self.over.wait(self.kill_seconds):
            name = self.random.choice(self.names)
            self.workers[name].kill()
            self.workers[name].wait()
            self.start_worker(name)

    def _forge(self) -> None:
        """Completions by somebody who has the right to work, and no lease."""
        headers = {"authorization": f"Bearer {self.lab.token()}", "content-type": "application/json"}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while not self.over.wait(0.5):
            _, handle = self.random.choice(self.jobs)
            for what in ("complete", "fail", "release"):
                url = f"http://{Link.SERVER}:{self.lab.port}/api/v1/work/{handle.job_id}/{what}"
                body = json.dumps({"exit_code": 0, "reason": "forged"}).encode()
                asked = urllib.request.Request(url, body, {**headers, "mqi-lease": "invented"}, method="POST")
                try:
                    opener.open(asked, timeout=5).close()
                    self.refused.append(200)
                except urllib.error.HTTPError as error:
                    # A server that has too much to do refuses nothing for good.
                    self.refused += [error.code] if error.code != HTTPStatus.SERVICE_UNAVAILABLE else []
                except OSError:
                    continue

    def check(self) -> None:
        """Every job has ended well, once, with the outputs of its last lease, and nothing is left."""
        rows = {row.id: row for row in self.lab.site.ledger.work.all()}
        assert len(rows) == self.requests
        for job, handle in self.jobs:
            row = rows[handle.job_id]
            assert row.state == JobState.SUCCEEDED, (row, self.lab.report())
            name = (job.directory / "name").read_text()
            content = self.lab.executor.fetch(job, handle)["out/deep/copy"].read_bytes()
            assert content == name.encode() * 300_000
            assert self.lab.executor.tail(job, handle, 0).text == b"begins\nis done\n"
        assert set(self.refused) == {409}
        starts = self.lab.starts()
        assert set(starts) == {f"r{number}" for number in range(self.requests)}
        told = f"{len(starts)} starts of {self.requests} jobs; {len(self.refused)} forged calls were refused"
        print(told)

    def check_leases_live(self) -> None:
        """No job is at work whose worker was not heard of for a lease and what a server needs to see it."""
        limit = datetime.now(UTC) - timedelta(seconds=LEASE_SECONDS + 60)
        for row in self.lab.site.ledger.work.all(states=("running",)):
            assert row.heartbeat_at is not None and row.heartbeat_at > limit, row


@pytest.mark.parametrize(
    ("requests", "workers", "kill_seconds", "kills"),
    [
        pytest.param(
            WHOLE, 5, 10.0, 2, marks=[pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(3600)]
        ),
        pytest.param(12, 2, 8.0, 1, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
    ids=["whole", "small"],
)
def test_every_job_is_completed_exactly_once(
    tmp_path: Path, link: Link, requests: int, workers: int, kill_seconds: float, kills: int
) -> None:
    storm = Storm(tmp_path, link, requests, workers, kill_seconds, kills)
    began = time.monotonic()
    try:
        storm.run()
        storm.check()
        storm.check_leases_live()
        print(f"{time.monotonic() - began:.0f} s")
    finally:
        storm.lab.close()
