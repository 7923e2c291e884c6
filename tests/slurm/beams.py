"""Beams for the faults of a cluster: real jobs of the declared engine, driven as the platform drives them.

A `Bench` is one ledger and one account on one real cluster. What its beams must come to is computed by
running the same engine here on the same input.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mqi_dagster.compute.engine_run import EngineRun
from mqi_dagster.compute.retrying import Retrying
from mqi_dagster.delivery.summary import InterpretedBeam, InterpretedLayer
from mqi_dagster.engine_contract.view import prepare_view
from mqi_dagster.execution.job import Job, JobHandle, JobStatus
from mqi_dagster.hpc.executor import SlurmExecutor
from mqi_dagster.ledger.database import sqlite_url
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.machine import read_machines
from mqi_dagster.plan.reading import read_ion_plan
from mqi_dagster.settings import CsvDialect, Engine, Host, Samples
from mqi_dagster.synthetic.plans import BuiltInPlan, Patient, built_in_plan
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
ENGINE = Path(__file__).parents[1] / "engines" / "steady.py"
MACHINES = Path(__file__).parents[2] / "mqi_dagster" / "config" / "machines"
PYTHON = "/usr/bin/python3"
"""The system's: the jobs' account cannot read the one that runs the tests."""
PHANTOM = {"dimension": [12, 12, 40], "unit_mm": [10, 10, 10], "position_mm": [-60, -60, -365]}
MARKERS = ("MARKERID4711", "MARKERNAME", "19310203")
"""Patient ID, name and birth date of every plan here."""
INTERVALS: dict[str, float] = {
    "poll_seconds": 0.5,
    "poll_maximum_seconds": 1,
    "tail_seconds": 0.3,
    "result_wait_seconds": 6,
    "absent_seconds": 5,
    "lost_seconds": 8,
    "unknown_submission_seconds": 4,
    "retry_seconds": 0.5,
    "retry_maximum_seconds": 3,
    "alarm_seconds": 600,
}
NAME = "hpc"


class Spoken:
    """What people would see of a beam, in place of tags, the event log and the board."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def waiting(self, phase: str, reason: str) -> None:
        self.words.append(f"{phase}: {reason}")

    def started(self, slot: str, job_id: str, key: str) -> None:
        self.words.append(f"started: {job_id}")

    def running(self, message: str) -> None:
        self.words.append(f"running: {message}")

    def event(self, event: Any) -> None:
        self.words.append(f"batch {event.batch} of {event.batches}")


@dataclass
class Beam:
    """One beam of a bench with its job, and how it goes."""

    job: Job
    expected: dict[str, str]
    """SHA-256 of every output, as the same engine makes it here."""
    spoken: Spoken = field(default_factory=Spoken)
    status: JobStatus | None = None
    handle: JobHandle | None = None
    fetched: dict[str, Path] = field(default_factory=dict)
    error: BaseException | None = None
    stopped: threading.Event = field(default_factory=threading.Event)


class AbandonedError(Exception):
    """The test has given the beam up."""


class Bench:
    """One ledger, one account on a cluster, and beams.

    Args:
        folder: Everything local lies below it.
        connection: Of the cluster, as `Cluster.connection()` gives it.
        shared: Folder of engine, steering and trace that the jobs' account reads and writes.
        slurm: Changes of the Slurm settings.
        host: Changes of the host's settings.
    """

    def __init__(
        self,
        folder: Path,
        connection: Any,
        shared: Path,
        slurm: dict[str, Any] | None = None,
        host: dict[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.shared = shared
        self.trace = shared / f"trace-{uuid.uuid4().hex[:8]}"
        self.steering = shared / f"steer-{uuid.uuid4().hex[:8]}.json"
        given = dict(slurm or {})
        intervals = {**INTERVALS, **given.pop("intervals", {})}
        self.host = Host.model_validate(
            {
                "host": connection.host,
                "port": connection.port,
                "user": connection.user,
                "key_file": connection.key_file,
                "known_hosts": connection.known_hosts,
                "connect_seconds": 5,
                "call_seconds": 12,
                "breaker_seconds": 2,
                **(host or {}),
                "slurm": {"root": str(shared / "work"), "intervals": intervals, **given},
            }
        )
        assert self.host.slurm is not None
        self.slurm = self.host.slurm
        self.ledger = Ledger.open(sqlite_url(folder / "ledger.sqlite"))
        self.executor = self.another_executor()
        self.beams: list[Beam] = []

    def another_executor(self) -> SlurmExecutor:
        """One as another process has it: nothing in common but the ledger."""
        return SlurmExecutor(NAME, self.host, self.slurm, self.ledger, "moqui_tps.in")

    def steer(self, **values: float) -> None:
        """Say from now on how long engines take (``seconds``), what they take or how they end."""
        beside = self.steering.with_suffix(".part")
        beside.write_text(json.dumps(values))
        beside.chmod(0o644)
        beside.rename(self.steering)

    def beam(
        self,
        number: int = 2,
        *,
        counts: tuple[int, int] = (4000, 1000),
        seconds: float = 0.5,
        name: str | None = None,
        phantom: dict[str, Any] | None = None,
    ) -> Beam:
        """A beam of a case of its own, ready to be submitted; under another name than its plan's if given."""
        case = f"P{uuid.uuid4().hex[:9].upper()}.fx0001"
        parents = (case, f"b{number:02d}")
        trace = ["--trace", str(self.trace), "--steer", str(self.steering)]
        profile = {
            "command": [PYTHON, str(self.shared / "steady.py"), "{tps}", "--seconds", f"{seconds:g}", *trace],
            "version": "steady 1",
            "reads_beam_model": True,
        }
        engine = Engine.model_validate(
            {
                "profile": "steady",
                "profiles": {"steady": profile},
                "histories": 100000,
                "phantom": phantom or PHANTOM,
            }
        )
        folder = self.folder / case
        plan, beam, interpreted = _interpreted(folder, number, counts, name)

        def view_in(directory: Path, seen_as: PurePosixPath | None) -> Any:
            return prepare_view(
                directory,
                profile=engine.in_use(),
                plan_source=plan,
                plan_beam=beam,
                machine=read_machines(MACHINES).named("G2"),
                interpreted_dir=folder,
                interpreted=interpreted,
                ct_files=(),
                engine=engine,
                seen_as=seen_as,
            )

        here = view_in(folder / "here", None)
        done = subprocess.run(
            [PYTHON, ENGINE, here.tps_path, "--seconds", "0"], capture_output=True, check=True
        )
        assert b"Total histories" in done.stdout
        view = view_in(folder / "job", self.executor.engine_folder)
        job = Job(
            key=f"{uuid.uuid4().hex * 2}-1",
            name=f"{case}__b{number:02d}",
            parents=parents,
            directory=view.directory,
            manifest=view.manifest,
            argv=view.argv,
            outputs=view.outputs,
            log="engine.log",
            timeout_seconds=120,
        )
        made = Beam(job, {name: sha256(here.directory / name) for name in view.outputs})
        self.beams.append(made)
        return made

    def next_attempt(self, beam: Beam) -> Beam:
        """The same beam as the platform tries it again after a failure: by a key of its own."""
        digest, _, attempt = beam.job.key.rpartition("-")
        made = Beam(replace(beam.job, key=f"{digest}-{int(attempt) + 1}"), beam.expected)
        self.beams.append(made)
        return made

    # Driving, as the platform does

    def drive(self, beam: Beam, executor: SlurmExecutor | None = None) -> JobStatus:
        """Submit, watch and fetch a beam as a run does; the test's thread waits for the end."""
        runs_on = executor or self.executor

        def pause(reason: str) -> None:
            if beam.stopped.is_set():
                raise AbandonedError
            if reason:
                beam.spoken.waiting("waiting for the cluster", reason)

        def check() -> None:
            pause("")

        def note(handle: JobHandle) -> None:
            beam.handle = handle

        log: Any = logging.getLogger("bench")
        progress: Any = beam.spoken
        retrying = Retrying(log, self.slurm.intervals, pause)
        run = EngineRun(log, runs_on, beam.job, progress, retrying, check, note, "hpc/gpu0")
        beam.status = run.run()
        if beam.status.state == "succeeded":
            beam.fetched = run.fetch()
        return beam.status

    @contextmanager
    def driven(self, *beams: Beam) -> Iterator[None]:
        """Drive beams in threads while the block does its harm; at its end wait for theirs."""

        def one(beam: Beam) -> None:
            try:
                self.drive(beam)
            except BaseException as error:  # noqa: BLE001 - shown by the test that waits
                beam.error = error

        for beam in beams:
            beam.status = beam.handle = beam.error = None
            beam.stopped.clear()
        threads = [threading.Thread(target=one, args=(beam,), daemon=True) for beam in beams]
        for thread in threads:
            thread.start()
        try:
            yield
        except BaseException:
            for beam in beams:
                beam.stopped.set()
            raise
        for thread in threads:
            thread.join(150)
        for beam in beams:
            beam.stopped.set()
            if beam.error is not None:
                raise beam.error
            assert beam.status is not None, ("the beam has not ended", beam.spoken.words[-5:])

    # What there is

    def traced(self) -> list[tuple[str, str, str, str, str, float]]:
        """The engines' own trace: start or end, job, start of the job, node, GPUs, time."""
        lines = self.trace.read_text().splitlines() if self.trace.exists() else []
        fields = [line.split(" ", 6) for line in lines]
        return [
            (what, job, start, node, gpus, float(when)) for what, job, start, node, gpus, when, _ in fields
        ]

    def folder_of(self, beam: Beam) -> Path:
        """The job's folder on the cluster, seen from here: the cluster is this machine."""
        return Path(self.slurm.root, *beam.job.parents, beam.job.key)


def sha256(path: Path) -> str:
    """Of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def jobs_of(cluster: Any, beam: Beam) -> list[tuple[str, str]]:
    """Id and state of every job that the accounting knows of a beam, by its comment.

    It has the comment when a job ends, and never that of one whose controller died: there the name has to do.
    """
    if cluster.settings.accounting == "none":
        # The controller's own list of ended jobs, which knows no comments.
        text = (cluster.layout.log / "jobcomp.log").read_text()
        ended = [dict(word.partition("=")[::2] for word in line.split()) for line in text.splitlines()]
        return [(job["JobId"], job["JobState"]) for job in ended if job["Name"] == f"moqui_{beam.job.name}"]
    done = cluster.slurm(
        "sacct", "-a", "-X", "-n", "-P", "-S", "now-1days", "-o", "JobIDRaw,State,Comment,JobName"
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines()]
    ours = [
        row for row in rows if row[2] == beam.job.key or (not row[2] and row[3] == f"moqui_{beam.job.name}")
    ]
    return [(job, state.split()[0]) for job, state, *_ in ours]


def live_jobs(cluster: Any) -> list[str]:
    """Ids of the jobs that the queue holds as not ended."""
    done = cluster.slurm("squeue", "-h", "-t", "PD,CF,R,CG,S", "-o", "%A")
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.split())


def assert_done_once(cluster: Any, bench: Bench, *beams: Beam, ended: str = "COMPLETED") -> None:
    """Each beam has exactly one successful job and the outputs of its own content, and nothing is left.

    Args:
        cluster: Where they ran.
        bench: Whose they are.
        beams: All of them succeeded.
        ended: What Slurm says of a job that has succeeded.
    """
    for beam in beams:
        assert beam.status is not None and beam.status.state == "succeeded", (beam.status, beam.spoken.words)
        assert {name: sha256(path) for name, path in beam.fetched.items()} == beam.expected
        # The accounting is late by some seconds.
        wait_for(lambda beam=beam: settled(cluster, beam, ended), f"{beam.job.key} {ended} in the accounting")
        done = [job for job, state in jobs_of(cluster, beam) if state == ended]
        assert len(done) == 1, jobs_of(cluster, beam)
        row = bench.ledger.jobs.get(NAME, beam.job.key)
        assert row is not None and row.job_id == done[0]
    wait_for(lambda: not live_jobs(cluster), "an empty queue")


def settled(cluster: Any, beam: Beam, ended: str) -> bool:
    """Whether the accounting knows of a job that has ended so, and of none that still lives."""
    live, known = live_jobs(cluster), jobs_of(cluster, beam)
    return ended in (state for _, state in known) and not any(job in live for job, _ in known)


def make_shared(folder: Path, user: str) -> Path:
    """A folder that the jobs' account can write, with the engine in it."""
    folder.mkdir(mode=0o755)
    shutil.copy(ENGINE, folder / ENGINE.name)
    (folder / ENGINE.name).chmod(0o755)
    for path in (folder, folder / ENGINE.name):
        shutil.chown(path, user)
    return folder


def worker(bench: Bench, beam: Beam, *, processes: int = 1) -> subprocess.Popen[bytes]:
    """Drive a beam in a process of its own, which the test may kill; it prints the outcome.

    Args:
        bench: Whose beam it is.
        beam: It is driven to its end, by one process.
        processes: Several only submit it, all at once.
    """
    job = beam.job
    spec = {
        "processes": processes,
        "ledger": str(bench.folder / "ledger.sqlite"),
        "host": json.loads(bench.host.model_dump_json()),
        "job": {
            "key": job.key,
            "name": job.name,
            "parents": job.parents,
            "directory": str(job.directory),
            "manifest": dict(job.manifest),
            "argv": job.argv,
            "outputs": job.outputs,
            "log": job.log,
            "timeout_seconds": job.timeout_seconds,
        },
    }
    path = bench.folder / f"{job.name}.json"
    path.write_text(json.dumps(spec))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.slurm.beam_worker", str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def _interpreted(
    folder: Path, number: int, counts: tuple[int, int], name: str | None
) -> tuple[Path, Any, InterpretedBeam]:
    """A plan of G2 and two hand-written layers of one of its beams."""
    machine = read_machines(MACHINES).named("G2")
    options = BuiltInPlan(beams=2, layers=2, spots=4, energies_mev=(150.0, 150.0), energy_step_mev=40.0)
    patient = Patient(MARKERS[0], f"{MARKERS[1]}^HONG", MARKERS[2])
    dataset = built_in_plan(machine, options, patient=patient)
    if name is not None:
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.IonBeamSequence[number - 1].BeamName = name
    plan = folder / "source" / "RP.dcm"
    plan.parent.mkdir(parents=True)
    dataset.save_as(plan, enforce_file_format=True)
    beam = read_ion_plan(plan).beam(number)
    layers = []
    for index, (energy, count) in enumerate(zip((150.0, 110.0), counts, strict=True), start=1):
        file = f"log/{beam.name.replace(':', '_')}/{index:02d}_{energy:.2f}MeV.csv"
        text = f"0.06,1.5,-2.5,{count}\r\n0.12,2.5,-1.5,{count // 2}\r\n"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(text.encode())
        layers.append(
            InterpretedLayer(
                number=index,
                energy_mev=energy,
                file=file,
                sha256=hashlib.sha256(text.encode()).hexdigest(),
                rows=2,
                beam_on_samples=2,
                samples=2,
                count_sum=count + count // 2,
                raw_dose1_sum=count,
                raw_dose2_sum=count,
                delivered_mu=1.0,
                planned_mu=1.0,
                ratio=1.0,
                range_codes=(2,),
                timeline=None,
                position_difference_mm=None,
                compared_samples=0,
            )
        )
    interpreted = InterpretedBeam(
        number=number,
        name=beam.name,
        folder=beam.name.replace(":", "_"),
        machine_id="G2",
        dialect=CsvDialect.ROWS,
        selection=Samples.BEAM_ON,
        mu_per_count=2.12e-8,
        dose_dividing_factor=1.0,
        complete=True,
        layers=tuple(layers),
        count_sum=sum(layer.count_sum for layer in layers),
        delivered_mu=2.0,
        planned_mu=2.0,
        ratio=1.0,
        position_difference_mm=None,
    )
    return plan, beam, interpreted
