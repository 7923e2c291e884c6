"""What has to be true after the chaos, looked at past the product's own boards."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import dagster as dg
from sqlalchemy import NullPool, create_engine, text

from tests.chain.chain import Chain
from tests.chaos.chaos_faults import SLURMCTLD
from tests.chaos.chaos_run import BEAMS, Chaos
from tests.chaos.chaos_site import ChaosSite
from tests.services.stack import SERVICES
from tests.slurm.beams import live_jobs
from tests.slurm.site_on_slurm import jobs_of_root, traced

KEPT = (".staging", ".quarantine", ".trash")
"""Folders that are always there; what lies in the first and the last is temporary."""
FORGETS_SECONDS = 15.0
"""What a controller has learnt in so many seconds, its death may make unknown."""
LEAVE_A_RESULT = ("COMPLETED", "NODE_FAIL", "CANCELLED")
"""What a killed controller calls the end of a job that it had forgotten says nothing of its engine."""


def violations(chaos: Chaos, shared: Path, folder: Path) -> list[str]:
    """Everything that is not as it has to be; the services are stopped on the way.

    Args:
        chaos: After its drain.
        shared: Folder of the cluster's jobs; each site's lies below it.
        folder: Where the undisturbed run is made.
    """
    found = list(_jobs(chaos, shared))
    for site in chaos.sites:
        ends = sum(what == "end" for what, *_ in traced(shared, site.name))
        chaos.log.say(f"{site.name}: {ends} engines ended, {len(list(site.receipts()))} beams handed over")
        told = [*_conclusions(site), *_records(site, chaos.postgres.url(site.name)), *_processes(site)]
        site.stack.stop()
        told += [f"lives on after the stop: {one}" for one in site.stack.processes().values()]
        kept = _kept_by_policy(chaos.postgres.url(site.name))
        told += [*_temporary(site, shared / site.name, kept), *_doses(site, folder / site.name)]
        found += [f"{site.name}: {one}" for one in told]
    return found


def _conclusions(site: ChaosSite) -> Iterator[str]:
    succeeded = Counter(
        str(run.tags["dagster/partition"])
        for run in site.stack.runs("conclusion")
        if run.status is dg.DagsterRunStatus.SUCCESS
    )
    for case in site.cases:
        if succeeded[case] != 1:
            yield f"case {case} has {succeeded[case]} successful conclusion runs"
        target = site.stack.handover / case
        summary, marker = target / "summary.json", target / "_COMPLETE"
        if not marker.is_file():
            yield f"case {case} has no completion marker"
        elif marker.read_text().split()[0] != hashlib.sha256(summary.read_bytes()).hexdigest():
            yield f"the completion marker of {case} is of another summary"
    for case in set(succeeded) - set(site.cases):
        yield f"case {case} was concluded and never arrived"


def _query(url: str, sql: str) -> list[tuple[Any, ...]]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


def _records(site: ChaosSite, url: str) -> Iterator[str]:
    for host, kind, index, beam in _query(
        url, "SELECT host, kind, slot_index, partition FROM mqi_slot WHERE partition IS NOT NULL"
    ):
        yield f"slot {host}/{kind}{index} is still leased to {beam}"
    attempts: dict[str, list[tuple[int, str | None]]] = {}
    for beam, number, outcome in _query(
        url, "SELECT partition, number, outcome FROM mqi_attempt ORDER BY id"
    ):
        attempts.setdefault(beam, []).append((number, outcome))
    for beam, made in attempts.items():
        outcomes = [outcome for _, outcome in made]
        if outcomes.count("succeeded") != 1 or outcomes[-1] != "succeeded" or None in outcomes:
            yield f"beam {beam} has the attempts {made}"
        number = 1
        for given, outcome in made:
            if given != number:
                yield f"beam {beam} has the attempts {made}: {number} was due where {given} stands"
                break
            number += outcome == "failed"
    beams = {str(receipt.parent.name) for receipt in site.receipts()}
    if set(attempts) != beams:
        yield f"beams with attempts and beams handed over differ: {sorted(set(attempts) ^ beams)}"


def _processes(site: ChaosSite) -> Iterator[str]:
    services = {site.pid(name) for name in SERVICES}
    if workers := site.workers():
        yield f"run workers live after the drain: {workers}"
    if engines := site.engines():
        yield f"engines live after the drain: {engines}"
    yield from (f"a service does not live: {pid}" for pid in services - set(site.stack.processes()))


def _jobs(chaos: Chaos, shared: Path) -> Iterator[str]:
    yield from (f"job {job} is still in the queue" for job in live_jobs(chaos.cluster))
    (site,) = [site for site in chaos.sites if site.name == "slurm"]
    states: dict[str, dict[str, str]] = {}
    for number, state, name in jobs_of_root(chaos.cluster, shared / site.name):
        states.setdefault(name.removeprefix("moqui_"), {})[number] = state
    taken: dict[str, list[str]] = {}
    for beam, number in _query(
        chaos.postgres.url(site.name),
        "SELECT partition, job_id FROM mqi_cluster_job WHERE state = 'succeeded'",
    ):
        taken.setdefault(beam, []).append(number)
    ended = Counter(job for what, job, *_ in traced(shared, site.name) if what == "end")
    forgettable = _forgettable(chaos, traced(shared, site.name))
    for beam in {receipt.parent.name for receipt in site.receipts()}:
        known = states.get(beam, {})
        completed = {number for number, state in known.items() if state == "COMPLETED"}
        # The job that was taken is one, has ended in a way that leaves a result, and no other has completed.
        ours = taken.get(beam, [])
        may_be = (*LEAVE_A_RESULT, None) if forgettable & set(ours) else LEAVE_A_RESULT
        if len(ours) != 1 or known.get(ours[0]) not in may_be or completed - set(ours):
            yield f"the accounting knows the jobs {known} of beam {beam}, the ledger took {taken.get(beam)}"
        yield from (
            f"job {job} of beam {beam} was ended by {ended[job]} engines" for job in ours if ended[job] != 1
        )
    for beam, jobs in states.items():
        if set(jobs.values()) & {"RUNNING", "PENDING"}:
            yield f"the accounting holds jobs of {beam} as {jobs}"


def _forgettable(chaos: Chaos, trace: list[tuple[str, str, str, str, float, str]]) -> set[str]:
    """Jobs that were new or ending when a controller was killed: it may have told the accounting nothing."""
    since_boot = time.time() - time.monotonic()
    kills = [fault.at + chaos.log.began + since_boot for fault in chaos.log.faults if fault.kind == SLURMCTLD]
    return {job for _, job, _, _, at, _ in trace if any(abs(at - kill) < FORGETS_SECONDS for kill in kills)}


def _kept_by_policy(url: str) -> set[tuple[str, str]]:
    """Beam and number of the attempts that failed: what they left on a cluster stays there for some days."""
    failed = _query(url, "SELECT partition, number FROM mqi_attempt WHERE outcome = 'failed'")
    return {(str(beam), str(number)) for beam, number in failed}


def _is_kept(path: Path, kept: set[tuple[str, str]]) -> bool:
    """Whether a path below the root of a cluster's jobs is of one of those attempts."""
    case, beam, job = path.parts[:3] if len(path.parts) >= 3 else ("", "", "")
    return (f"{case}__{beam}", job.removesuffix(".lock").rpartition("-")[2]) in kept


def _temporary(site: ChaosSite, remote: Path, kept: set[tuple[str, str]]) -> Iterator[str]:
    for root in (site.stack.site / "data", site.stack.handover, site.stack.inbox, remote):
        for path in sorted(root.rglob("*")) if root.is_dir() else []:
            name = path.relative_to(root)
            if root == remote and _is_kept(name, kept):
                continue
            if (path.name.startswith(".") and path.name not in KEPT) or path.parent.name in (
                KEPT[0],
                KEPT[2],
            ):
                yield f"temporary: {root.name}/{name}"
    state = site.stack.site / "state"
    yield from (f"temporary: state/{path.relative_to(state)}" for path in state.rglob(".*"))
    yield from (f"temporary: state/work/{path.name}" for path in (state / "work").glob("*"))
    jobs = (path.relative_to(remote) for path in remote.glob("*/*/*"))
    yield from (f"of a job: {path}" for path in jobs if not _is_kept(path, kept))


def _doses(site: ChaosSite, folder: Path) -> Iterator[str]:
    """Differences from an undisturbed run of the same cases by the same engine, in one process."""
    secret = (site.stack.site / "secret").read_text().strip()
    settings = {"engine": site.engine, "execution": {"slots": 1}}
    chain = Chain(folder, settings, secret=secret)
    shutil.rmtree(chain.inbox)
    shutil.copytree(site.stack.inbox, chain.inbox)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        # Ten runs are asked for at each look.
        chain.tick_sensors(rounds=2 + BEAMS * len(site.cases) // 10)
    for case in site.cases:
        for expected in sorted((chain.handover / case).rglob("*")):
            if not expected.is_file() or expected.suffix != ".dcm":
                continue
            name = expected.relative_to(chain.handover)
            here = site.stack.handover / name
            if not here.is_file():
                yield f"{name} was not handed over"
            elif here.read_bytes() != expected.read_bytes():
                yield f"{name} differs from that of an undisturbed run"
        if not (chain.handover / case / "_COMPLETE").is_file():
            yield f"the undisturbed run has not concluded {case}"
