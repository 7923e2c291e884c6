"""Whether what ``mqi top --json`` has said is right: compared with the records just before and just after.

The records are read here by Dagster's own questions and the ledger's plain rows, not by the reader under
test. What did not change between the two snapshots must be said exactly; what did, must lie between them.

    before = snapshot(instance, ledger)
    said = json.loads(subprocess.run(["mqi", "top", "--json", ...]).stdout)
    after = snapshot(instance, ledger)
    assert wrong(before, said, after) == []
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from mqi_dagster.ledger.ledger import Ledger
from tests.ledger.ledger_rows import progress_reports

QUEUED = ("NOT_STARTED", "QUEUED")
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
BY_PHASE = {
    "waiting": "waiting_for_slot",
    "waiting for the cluster": "waiting_for_cluster",
    "preparing": "preparing",
    "submitting": "submitting",
    "queued": "queued_on_cluster",
    "simulating": "simulating",
    "verifying": "verifying",
    "simulated": "making_rt_dose",
    "waiting for the target": "waiting_for_target",
}
AT_WORK = {"interpreting", *BY_PHASE.values()}
AFTER_END = {
    "SUCCESS": {"handed_over", "waiting"},
    "FAILURE": {"failed", "retried"},
    "CANCELED": {"cancelled"},
}
SLACK_SECONDS = 2.0
SEEN_BY_THE_BOARD = {
    *("daemon_away", "code_away", "watch_away", "services_away", "sensor_failing", "sensor_stopped"),
    *("inbox_away", "target_away", "cluster_away", "disk_full"),
}
"""Alarms that a board finds by itself at its own moment, whether the ledger has them or not."""


@dataclass(frozen=True)
class RunSeen:
    """The latest run of a partition."""

    number: int
    run_id: str
    job: str
    status: str
    will_retry: bool | None
    """None where nobody has judged its end yet."""
    started: float | None
    ended: float | None
    runs: frozenset[str]
    """Ids of all runs of the partition."""


@dataclass(frozen=True)
class Snapshot:
    """The records at one moment."""

    at: datetime
    until: datetime
    """When the last of them was read."""
    runs: dict[str, RunSeen]
    unfinished: dict[str, bool]
    """By run id: whether it is queued."""
    progress: dict[str, Any]
    leases: dict[str, tuple[str, str, int]]
    """Slot, owner and token by beam: the token tells a lease from a later one of the same run."""
    alarms: frozenset[tuple[str, str]]
    """Kind and subject of those that are open."""
    arrivals: dict[str, Any]
    made: dict[str, dict[str, int]]
    beams: frozenset[str]
    cases: frozenset[str]


def snapshot(instance: dg.DagsterInstance, ledger: Ledger) -> Snapshot:
    """The records now."""
    at = datetime.now(UTC)
    records = instance.get_run_records()
    judged = ledger.outcomes.get_many([record.dagster_run.run_id for record in records])
    runs: dict[str, RunSeen] = {}
    unfinished: dict[str, bool] = {}
    for record in reversed(records):
        run = record.dagster_run
        partition, status = run.tags.get("dagster/partition"), run.status.value
        if status not in ENDED:
            unfinished[run.run_id] = status in QUEUED
        if partition is None:
            continue
        others = runs[partition].runs if partition in runs else frozenset()
        runs[partition] = RunSeen(
            record.storage_id,
            run.run_id,
            run.job_name,
            status,
            judged[run.run_id].verdict.value == "retry" if run.run_id in judged else None,
            record.start_time,
            record.end_time,
            others | {run.run_id},
        )
    made: dict[str, dict[str, int]] = {}
    for asset in ("case_manifest", "rt_dose", "handed_over", "case_handed_over"):
        found = made.setdefault(asset, {})
        for event in instance.fetch_materializations(dg.AssetKey(asset), limit=10_000).records:
            found.setdefault(str(event.partition_key), event.storage_id)
    return Snapshot(
        at=at,
        runs=runs,
        unfinished=unfinished,
        progress=progress_reports(ledger),
        leases={lease.partition: (lease.name, lease.owner, lease.token) for lease in ledger.leases.all()},
        alarms=frozenset((alarm.kind.value, alarm.subject) for alarm in ledger.alarms.open()),
        arrivals={row.case: row for row in ledger.arrivals.all()},
        made=made,
        beams=frozenset(instance.get_dynamic_partitions("beam")),
        cases=frozenset(instance.get_dynamic_partitions("case")),
        until=datetime.now(UTC),
    )


def wrong(before: Snapshot, said: dict[str, Any], after: Snapshot) -> list[str]:
    """Everything that ``said`` has wrong; empty where all of it is right."""
    found: list[str] = []
    at = datetime.fromisoformat(said["at"])
    if not before.at <= at <= after.until:
        found.append(f"it was read at {at}, not between {before.at} and {after.until}")
    listed = {row["beam"]: row for row in said["beams"]}
    cases = {row["case"]: row for row in said["cases"]}
    for beam in before.beams & after.beams:
        if beam not in listed:
            if not _over(before, beam.partition("__")[0]) and beam.partition("__")[0] in cases:
                found.append(f"{beam}: not listed")
            continue
        found += [f"{beam}: {text}" for text in _beam(before, listed[beam], after)]
    for case in before.cases & after.cases:
        if case in cases:
            found += [f"{case}: {text}" for text in _case(before, cases[case], after)]
        elif not _over(before, case):
            found.append(f"{case}: not listed")
    for beam in listed.keys() - after.beams:
        # A manifest names its beams a little before they are partitions.
        if beam.partition("__")[0] not in after.made["case_manifest"]:
            found.append(f"{beam}: nobody knows it")
    return found + _queue(before, said, after) + _slots(before, said, after) + _alarms(before, said, after)


def _over(seen: Snapshot, case: str) -> bool:
    run = seen.runs.get(case)
    return run is not None and run.job == "conclusion" and run.status == "SUCCESS"


def _beam(before: Snapshot, row: dict[str, Any], after: Snapshot) -> list[str]:
    beam = row["beam"]
    old, new = before.runs.get(beam), after.runs.get(beam)
    found = _run(old, row["run"], new)
    stages = _stages(before, beam, row["run"]) | _stages(after, beam, row["run"])
    moved = _moved(before, beam, after)
    if moved and row["run"] is not None:
        # Between the two it may have been anywhere on its way.
        stages |= AT_WORK | {"queued"}
        if new is not None and (new.run_id != row["run"] or new.status in ENDED):
            stages |= set().union(*AFTER_END.values())
    if row["stage"] not in stages:
        found.append(f"stage {row['stage']}, not one of {sorted(stages)}")
    found += _progress(before, row, after)
    slots = {seen.leases.get(beam, (None,))[0] for seen in (before, after)}
    if row["stage"] in AT_WORK and not moved and row["slot"] not in slots:
        found.append(f"slot {row['slot']}, not {slots}")
    if old is not None and old == new and old.started is not None and row["elapsed_seconds"] is not None:
        least = (old.ended or before.at.timestamp()) - old.started
        most = (old.ended or after.until.timestamp()) - old.started
        if not least - SLACK_SECONDS <= row["elapsed_seconds"] <= most + SLACK_SECONDS:
            found.append(f"{row['elapsed_seconds']} s, not between {least} and {most}")
    return found


def _moved(before: Snapshot, beam: str, after: Snapshot) -> bool:
    old, new = (
        (seen.runs.get(beam), seen.progress.get(beam), seen.leases.get(beam)) for seen in (before, after)
    )
    return old != new


def _run(old: RunSeen | None, run: str | None, new: RunSeen | None) -> list[str]:
    allowed = {one.run_id if one is not None else None for one in (old, new)}
    if new is not None:
        allowed |= new.runs - (old.runs if old is not None else frozenset())
    return [] if run in allowed else [f"run {run}, not one of {allowed}"]


def _stages(seen: Snapshot, beam: str, shown_run: str | None) -> set[str]:
    run = seen.runs.get(beam)
    if run is None:
        return {"waiting"}
    if run.run_id != shown_run:
        return set()
    if run.status in QUEUED:
        return {"queued"}
    if run.status == "SUCCESS":
        handed = seen.made["handed_over"].get(beam, -1) > seen.made["rt_dose"].get(beam, 0)
        return {"handed_over"} if handed else {"waiting"}
    if run.status == "FAILURE":
        return {None: {"retried", "failed"}, True: {"retried"}, False: {"failed"}}[run.will_retry]
    if run.status == "CANCELED":
        return {"cancelled"}
    report = seen.progress.get(beam)
    if report is None or report.run_id != run.run_id:
        # A run that begins after the simulation reports nothing before its end.
        return {"interpreting", "making_rt_dose"}
    return {BY_PHASE[report.phase]}


def _progress(before: Snapshot, row: dict[str, Any], after: Snapshot) -> list[str]:
    old, new = before.progress.get(row["beam"]), after.progress.get(row["beam"])
    if row["stage"] not in BY_PHASE.values() or new is None or new.run_id != row["run"]:
        return []
    if old == new:
        names = ("percent", "batch", "batches")
        said, true = [row[name] for name in names], [getattr(new, name) for name in names]
        return [] if said == true else [f"{names} {said}, not {true}"]
    if old is not None and (old.run_id, old.attempt) == (new.run_id, new.attempt):
        if not old.percent <= row["percent"] <= new.percent:
            return [f"{row['percent']} %, not between {old.percent} and {new.percent}"]
    elif row["percent"] > new.percent:
        return [f"{row['percent']} %, more than {new.percent}"]
    return []


def _case(before: Snapshot, row: dict[str, Any], after: Snapshot) -> list[str]:
    case = row["case"]
    old, new = before.runs.get(case), after.runs.get(case)
    found = _run(old, row["run"], new)
    done = [
        sum(
            _stages(seen, beam, run.run_id) == {"handed_over"}
            for beam, run in seen.runs.items()
            if _of(beam, case)
        )
        for seen in (before, after)
    ]
    if row["beams_total"] is not None and not min(done) <= row["beams_done"] <= max(done):
        found.append(f"{row['beams_done']} beams done, not between {done}")
    if row["stage"] == "concluded" and not (_over(before, case) or _over(after, case)):
        found.append("concluded, which it is not")
    same = old == new and all(
        before.runs.get(beam) == after.runs.get(beam) for beam in after.runs if _of(beam, case)
    )
    if not same or before.arrivals.get(case) != after.arrivals.get(case):
        return found
    stages = _case_stages(after, case)
    if row["stage"] not in stages:
        found.append(f"stage {row['stage']}, not one of {sorted(stages)}")
    return found


def _of(beam: str, case: str) -> bool:
    return beam.startswith(f"{case}__")


def _case_stages(seen: Snapshot, case: str) -> set[str]:
    """Where a case stands that has not moved."""
    run, arrival = seen.runs.get(case), seen.arrivals.get(case)
    beams = {key: one for key, one in seen.runs.items() if _of(key, case)}
    if run is not None and run.status not in ENDED:
        return {"concluding"} if run.job == "conclusion" else {"intake"}
    if run is None:
        return {"inbox"} if arrival is not None and not arrival.ready else {"ready"}
    ends = [one for one in (run, *beams.values()) if one.status == "FAILURE"]
    if any(one.will_retry is None for one in ends):
        return {"retried", "beams", "failed", "cancelled"}
    if run.status == "FAILURE" and run.will_retry:
        return {"retried"}
    if any(one.status not in ENDED or (one.status == "FAILURE" and one.will_retry) for one in beams.values()):
        return {"beams"}
    if run.status != "SUCCESS":
        return {"failed", "cancelled"}
    if any(one.status != "SUCCESS" for one in beams.values()):
        return {"failed", "cancelled"}
    if arrival is not None and arrival.ready and arrival.fingerprint != arrival.requested_fingerprint:
        return {"ready"}
    waiting = [key for key in seen.beams if _of(key, case) and key not in beams]
    return {"waiting"} if waiting or run.job != "conclusion" else {"concluded", "waiting"}


def _queue(before: Snapshot, said: dict[str, Any], after: Snapshot) -> list[str]:
    both = before.unfinished.keys() | after.unfinished.keys()
    moved = sum(before.unfinished.get(run) != after.unfinished.get(run) for run in both)
    # Those that have come and gone in between.
    moved += len(_ids(after) - _ids(before) - both)
    found = []
    for name, queued in (("queued", True), ("in_work", False)):
        counts = [
            sum(is_queued is queued for is_queued in seen.unfinished.values()) for seen in (before, after)
        ]
        if not min(counts) - moved <= said["queue"][name] <= max(counts) + moved:
            found.append(f"{said['queue'][name]} runs {name}, not {counts}")
    return found


def _ids(seen: Snapshot) -> set[str]:
    return set().union(*(run.runs for run in seen.runs.values()))


def _slots(before: Snapshot, said: dict[str, Any], after: Snapshot) -> list[str]:
    found = []
    for slot in (one for one in said["gpus"] if one["slot"]):
        place = f"{slot['host']}/{slot['kind']}{slot['index']}"
        old, new = (
            {(beam, *lease) for beam, lease in seen.leases.items() if lease[0] == place}
            for seen in (before, after)
        )
        owners: set[str | None] = {beam for beam, *_ in new} or {None}
        # A beam that moved may have had the slot in between; one that gave it back and took it again had not.
        passed = slot["owner"] is not None and _moved(before, slot["owner"], after)
        if old == new and slot["owner"] not in owners and not passed:
            found.append(f"{place} is of {slot['owner']}, not of {owners} all the time ({new or 'free'})")
    return found


def _alarms(before: Snapshot, said: dict[str, Any], after: Snapshot) -> list[str]:
    told = {(one["kind"], one["subject"]) for one in said["alarms"]}
    found = [f"no alarm {one}" for one in sorted(before.alarms & after.alarms - told)]
    unknown = sorted(one for one in told - before.alarms - after.alarms if one[0] not in SEEN_BY_THE_BOARD)
    return found + [f"an alarm {one}, which is none" for one in unknown]
