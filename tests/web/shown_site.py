"""A site as people find it in the morning: something has failed, something is in work, and most is done."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData
from dagster._daemon.types import DaemonHeartbeat

from mqi_dagster.ledger.cluster_jobs import ClusterJobState, Observation
from mqi_dagster.ledger.gpus import GpuUsage
from mqi_dagster.ledger.leases import Need
from mqi_dagster.ledger.slots import Slot, SlotKind
from mqi_dagster.operations.instance import open_instance, write_instance
from mqi_dagster.operations.people import add_user, make_token
from mqi_dagster.operations.review import Verdict, review
from mqi_dagster.operations.service_locks import Service, take
from mqi_dagster.partitions import beam_key
from mqi_dagster.people.rights import Actor, Right, Role
from mqi_dagster.resources.site import Site
from mqi_dagster.synthetic.request import BuiltInPlan
from mqi_dagster.web.live import Live
from mqi_dagster.worklist import GpuStatus
from tests.chain.chain import Chain, faulty_engine, quick_engine
from tests.chain.ended_runs import evaluate
from tests.courses.made_objects import Made
from tests.radiotherapy.reported_courses import ReportedCourses, whole
from tests.web.conftest import OWNER, PASSWORD
from tests.worklist.seeded import Seeded

HOST, MEMORY_MB = "gpu-node", 24564
THREE = BuiltInPlan(beams=3, layers=5, spots=49, gantry_deg=(0.0, 90.0, 180.0))
TWO = BuiltInPlan(beams=2, layers=4, spots=25, gantry_deg=(45.0, 315.0))
FINE = {"dimension": [75, 75, 175], "unit_mm": [2, 2, 2], "position_mm": [-75, -75, -320]}
"""Of the phantom: fine enough that its pictures look like a dose."""
GROWS = "its files still change"
PEOPLE = {
    "ada": ("Dr. Ada Kim", (Role.APPROVER, Role.ENGINEER)),
    "ben": ("Ben Lee", (Role.PHYSICIST,)),
    "vera": ("Vera Park", (Role.VIEWER,)),
    "boss": ("Site administrator", (Role.ADMIN,)),
}


class Rows(Seeded):
    """Rows written into the records of a real site."""

    def __init__(self, site: Site, instance: dg.DagsterInstance) -> None:
        self.site, self.instance, self.now = site, instance, datetime.now(UTC)


class Courses(ReportedCourses):
    """Courses of a real site."""

    def __init__(self, chain: Chain) -> None:
        self.instance, self.site, self.tree = chain.instance, chain.site, chain.folder / "dicom"


@dataclass(frozen=True)
class Shown:
    """The site, what reads it, and the keys of what stands on it."""

    chain: Chain
    live: Live
    done: str
    failed: str
    working: str
    refused: str
    course: str


def deliver(chain: Chain, number: int, minutes: float, plan: BuiltInPlan, *defects: str) -> str:
    """A delivery that began so many minutes ago is taken in; the key of its case."""
    known = set(chain.runs_of("intake"))
    start = datetime.now(chain.site.timezone).replace(tzinfo=None) - timedelta(minutes=minutes)
    chain.deliver(
        *defects, plan=plan, seed=number, start=start, patient_id=f"QA-{number:04d}",
        patient_name=f"Phantom^Water {number}", patient_birth_date="20000101",
    )  # fmt: skip
    chain.tick("case_arrivals")
    (case,) = set(chain.runs_of("intake")) - known
    return case


def at_work(chain: Chain, rows: Rows, case: str) -> Callable[[], None]:
    """Beams of a case at work: one on a GPU, one on a cluster, one that waits; gives their signs of life."""
    ledger, keys = chain.site.ledger, [beam_key(case, number) for number in (2, 3, 4)]
    tags = {"mqi/gpu": "simulation", "mqi/case": case}
    chain.instance.add_dynamic_partitions("beam", keys)
    rows.now = datetime.now(UTC) - timedelta(minutes=7)
    here, there = rows.runs([("beam", key, "STARTED", tags) for key in keys[:2]])
    rows.run("beam", keys[2], "QUEUED", tags=tags)
    ledger.database.clock = lambda: datetime.now(UTC)
    for known in ledger.slots.all():
        ledger.slots.declare(known.host, [])
    ledger.slots.declare(HOST, [Slot(SlotKind.GPU, index, f"GPU-{index}", MEMORY_MB) for index in range(3)])
    ledger.leases.acquire(keys[0], here, Need(SlotKind.GPU), stale_after=timedelta(days=1))
    ledger.slots.switch_off(HOST, "gpu", 2, "its fan is loud: the workshop has it on Thursday")
    ledger.progress.record(keys[0], here, "simulating", 7, 20, 31.0)
    ledger.jobs.reserve("hpc", "5e" * 32, keys[1], "/scratch/mqi/jobs/one")
    ledger.jobs.mark_submitted("hpc", "5e" * 32, "48121")
    seen = Observation("5e" * 32, "48121", ClusterJobState.RUNNING, "RUNNING", "node07")
    ledger.jobs.observe("hpc", [seen])
    ledger.progress.record(keys[1], there, "simulating", 3, 20, 11.5)

    def beat() -> None:
        now = datetime.now(UTC)
        samples = [
            GpuUsage(HOST, index, f"GPU-{index}", "NVIDIA RTX A5000", MEMORY_MB, used, use, heat,
                     None, None, 0, now)
            for index, used, use, heat in ((0, 8870, 96, 71), (1, 412, 0, 38), (2, 0, 0, 34))
        ]  # fmt: skip
        ledger.gpus.record(HOST, samples)
        turn = ledger.clusters.take_turn("hpc", shortest=timedelta(0), hold=timedelta(seconds=60))
        if turn is not None:
            ledger.clusters.end_turn(turn, next_in=timedelta(0), interval=timedelta(0))

    return beat


def an_hour(live: Live) -> None:
    """What the GPUs did in the last hour, as if the pages had run for so long."""
    now = datetime.now(UTC)
    for minute in range(60, 0, -1):
        uses = (96.0 - minute % 3 if minute % 19 < 15 else 2.0, 91.0 if minute > 38 else 0.0)
        live.gpus.add(
            GpuStatus(
                host=HOST, kind="gpu", index=index, uuid=f"GPU-{index}", slot=True, in_service=True,
                owner=None, leased_at=None, heartbeat_at=None, memory_mb=MEMORY_MB, utilisation_percent=use,
                seen_at=now - timedelta(minutes=minute),
            )
            for index, use in enumerate(uses)
        )  # fmt: skip


def beat_of_daemon(rows: Rows) -> None:
    """Dagster's daemon lives, and has looked by every sensor."""
    rows.now = datetime.now(UTC)
    rows.instance.run_storage.add_daemon_heartbeat(
        DaemonHeartbeat(rows.now.timestamp(), "SENSOR", "the daemon", [])
    )
    location = GrpcServerCodeLocationOrigin(host="localhost", socket="/none")
    for name in ("case_arrivals", "beams_to_simulate", "cases_to_conclude", "run_outcomes", "reaper"):
        data = SensorInstigatorData(last_tick_timestamp=rows.now.timestamp(), min_interval=30)
        origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), name)
        state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.DECLARED_IN_CODE, data)
        known = rows.instance.get_instigator_state(state.instigator_origin_id, state.selector_id)
        (rows.instance.update_instigator_state if known else rows.instance.add_instigator_state)(state)


@contextmanager
def beating(*beats: Callable[[], None]) -> Iterator[None]:
    """Signs of life, over and over."""
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(5.0):
            for beat in beats:
                beat()

    for beat in beats:
        beat()
    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def shown_site(folder: Path, engine: Mapping[str, Any] | None = None) -> Iterator[Shown]:
    """The site, with everything that a page can show.

    Args:
        folder: Everything of it lies below.
        engine: Settings of the engine of the concluded case; the quick one where None.
    """
    (folder / "dicom").mkdir(parents=True)
    mode = folder / "mode"
    chain = Chain(
        folder,
        {
            "site": {"name": "Proton QA", "timezone": "Asia/Seoul"},
            "radiotherapy": {"dicom_root": str(folder / "dicom")},
            "engine": engine or {**quick_engine(), "phantom": FINE},
            "alarms": {"disk_free_gb": 0},
            "execution": {"stale_seconds": 86400},
        },
    )
    write_instance(chain.site.settings)
    with open_instance(chain.site.settings) as chain.instance:
        for name, (full_name, roles) in PEOPLE.items():
            add_user(chain.site, OWNER, name, roles, full_name=full_name, password=PASSWORD)
        rows = Rows(chain.site, chain.instance)
        rows.now -= timedelta(hours=20)
        rows.concluded(
            [f"PK{number}7QDX4NTA.fx000{number}" for number in (1, 2, 3)], plan="LUNG 2A", machine="G1"
        )
        chain.site.ledger.database.clock = lambda: datetime.now(UTC)
        done = deliver(chain, 1, 95, THREE)
        chain.tick_sensors(rounds=2)
        ada = Actor("ada", frozenset(Right), "pages")
        review(chain.instance, chain.site, ada, done, Verdict.ACCEPTED, "as measured", PASSWORD)
        mode.write_text("good")
        chain.change({"engine": faulty_engine(mode)})
        failed = deliver(chain, 2, 50, TWO)
        chain.run("beam", beam_key(failed, 2))
        mode.write_text("crash-text")
        chain.run("beam", beam_key(failed, 3))
        refused = deliver(chain, 3, 40, TWO, "truncated:beam=2,layer=2")
        evaluate(chain, "run_outcomes")
        working = deliver(chain, 4, 12, THREE)
        chain.site.ledger.arrivals.record("place", "PM3W7TQ2LC.fx0001", "f" * 16, False, GROWS, None)
        courses, one = Courses(chain), Made(1, patient_id="QA-0009", name="Phantom^Thorax")
        courses.add(one, whole(one))
        course = courses.scan()[one.patient_id]
        assert courses.run("course_inventory", course)
        courses.stages(one, course)
        assert courses.run("course_report", course)
        make_token(chain.site, ada, "ada", "trend of R80", [Right.LOOK], timedelta(days=90))
        locks = [take(chain.site.settings, service) for service in Service if service is not Service.VIEWER]
        live = Live(chain.site, 0.5)
        an_hour(live)
        rows = Rows(chain.site, chain.instance)
        with rows.served(), beating(at_work(chain, rows, working), lambda: beat_of_daemon(rows)):
            yield Shown(chain, live, done, failed, working, refused, course)
        for lock in locks:
            os.close(lock)
    chain.site.ledger.close()
