"""Reading in bulk: what changes is seen, what does not costs nothing, and nothing is asked beam by beam."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event

from mqi_dagster.operations.priority import make_urgent
from mqi_dagster.partitions import beam_key
from mqi_dagster.people.rights import Actor
from mqi_dagster.worklist import CaseState, Stage, Work
from tests.worklist.between import Snapshot, snapshot, wrong
from tests.worklist.seeded import BEGAN, Seeded

OWNER = Actor.of_this_account()
GPU = {"mqi/gpu": "simulation"}


@contextmanager
def counted() -> Iterator[list[str]]:
    """Every statement that any database is asked while the block runs."""
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def questions(site: Seeded, beams: int) -> tuple[int, int, Work]:
    site.waiting(beams, queued=min(200, beams // 2), working=3)
    work = site.worklist(history=timedelta(hours=24))
    with counted() as first:
        work.snapshot(BEGAN + timedelta(seconds=30))
    with counted() as second:
        seen = work.snapshot(BEGAN + timedelta(seconds=31))
    return len(first), len(second), seen


@pytest.mark.slow
def test_ten_thousand_waiting_beams_are_all_read(seeded: Seeded) -> None:
    seeded.waiting(10_000)
    seen = seeded.worklist().snapshot(BEGAN + timedelta(seconds=30))
    assert len(seen.beams) == 10_000
    assert (seen.queue.queued, seen.queue.in_work, seen.queue.waiting_beams) == (200, 8, 9792)


def test_the_number_of_questions_does_not_grow_with_the_beams(seeded: Seeded) -> None:
    first, second, seen = questions(seeded, 900)
    assert len(seen.beams) == 900
    assert first < 60
    assert second < 25


def test_nor_does_it_with_cases_that_were_concluded(seeded: Seeded) -> None:
    for number in range(20):
        done(seeded, f"P{number:09d}.fx0001")
    work = seeded.worklist()
    with counted() as asked:
        seen = work.snapshot(BEGAN + timedelta(minutes=5))
    assert [row.stage for row in seen.cases] == [Stage.CONCLUDED] * 20
    assert len(asked) < 60


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_what_was_read_bit_by_bit_is_what_is_read_at_once(seeded: Seeded, seed: int) -> None:
    chance = random.Random(seed)
    seeded.now = datetime.now(UTC)
    followed = seeded.worklist()
    cases, runs = [f"P{number:09d}.fx0001" for number in range(4)], {}
    for step in range(25):
        case = chance.choice(cases)
        change(seeded, chance, case, runs)
        now = datetime.now(UTC) + timedelta(seconds=10 * step)
        seeded.now = datetime.now(UTC)
        looked = followed.snapshot(now)
        fresh = seeded.worklist().snapshot(now)
        assert looked.model_dump(exclude={"at"}) == fresh.model_dump(exclude={"at"}), step


def change(site: Seeded, chance: random.Random, case: str, runs: dict[str, list[str]]) -> None:
    """One thing that may happen to a case, whether it fits or not."""
    beam = beam_key(case, chance.randint(1, 2))
    what = chance.randrange(9)
    if what == 0:
        site.arrive(case, ready=chance.random() < 0.7, reason="a reason", asked=chance.random() < 0.7)
    elif what == 1:
        site.partitions("case", [case])
        site.partitions("beam", [beam])
    elif what in (2, 3):
        status = chance.choice(["QUEUED", "STARTED", "SUCCESS", "FAILURE", "CANCELED"])
        runs.setdefault(beam, []).append(site.run("beam", beam, status, tags=GPU))
    elif what == 4:
        job = chance.choice(["intake", "conclusion"])
        site.run(job, case, chance.choice(["STARTED", "SUCCESS", "FAILURE"]))
    elif what == 5 and runs.get(beam):
        site.end(runs[beam][-1], chance.choice(["STARTED", "SUCCESS", "FAILURE", "CANCELED"]))
    elif what == 6 and runs.get(beam):
        phase = chance.choice(["waiting", "simulating", "verifying"])
        site.ledger().progress.record(beam, runs[beam][-1], phase, 3, 10, chance.uniform(0, 100))
    elif what == 7:
        site.made(chance.choice(["case_manifest", "case_handed_over"]), [case])
    else:
        site.made(chance.choice(["rt_dose", "handed_over"]), [beam])


def test_runs_and_cases_that_were_deleted_are_gone(seeded: Seeded) -> None:
    seeded.waiting(9, queued=2, working=1)
    work = seeded.worklist()
    assert work.snapshot(BEGAN + timedelta(seconds=30)).queue.queued == 2
    for run in seeded.instance.get_runs():
        if run.job_name == "beam":
            seeded.instance.delete_run(run.run_id)
    seeded.ledger().arrivals.record("elsewhere", "X000000001.fx0001", "f", False, "unreadable", None)
    assert work.snapshot(BEGAN + timedelta(seconds=31)).queue.inbox == 1
    seeded.ledger().arrivals.forget_unrequested("elsewhere", [])
    seen = work.snapshot(BEGAN + timedelta(seconds=32))
    assert (seen.queue.queued, seen.queue.in_work, seen.queue.inbox) == (0, 0, 0)


def test_a_board_that_is_open_shows_what_was_made_urgent_meanwhile(seeded: Seeded) -> None:
    cases = ["P000000001.fx0001", "P000000002.fx0001"]
    for case in cases:
        seeded.arrive(case)
        seeded.partitions("case", [case])
        seeded.run("intake", case, "SUCCESS")
        seeded.made("case_manifest", [case])
        seeded.partitions("beam", [f"{case}__b01"])
        seeded.run("beam", f"{case}__b01", "QUEUED", tags={**GPU, "mqi/case": case})
    seeded.daemon_alive()
    work = seeded.worklist()
    work.snapshot(BEGAN + timedelta(seconds=60))

    def shown() -> list[tuple[int, int, str]]:
        stands = [work.case(case) for case in cases]
        beams = [work.beams_of(case)[0] for case in cases]
        return [
            (stand.priority, beam.priority, beam.reason)
            for stand, beam in zip(stands, beams, strict=True)
            if stand is not None
        ]

    assert shown() == [(0, 0, "starts next"), (0, 0, "starts next")]
    seeded.now = BEGAN + timedelta(seconds=70)
    assert make_urgent(seeded.instance, seeded.site, OWNER, cases[1], 5) == 1
    work.snapshot(BEGAN + timedelta(seconds=71))
    assert shown() == [(0, 0, "starts next; 1 of higher priority go first"), (5, 5, "starts next")]
    # Whom nothing in the queue speaks for: only its arrival says so.
    seeded.arrive("P000000003.fx0001", asked=False)
    work.snapshot(BEGAN + timedelta(seconds=100))
    seeded.now = BEGAN + timedelta(seconds=110)
    make_urgent(seeded.instance, seeded.site, OWNER, "P000000003.fx0001", 7)
    work.snapshot(BEGAN + timedelta(seconds=111))
    urgent = work.case("P000000003.fx0001")
    assert urgent is not None and urgent.priority == 7


def test_old_cases_are_counted_and_not_listed(seeded: Seeded) -> None:
    done(seeded, "P000000001.fx0001")
    seeded.now = BEGAN + timedelta(hours=30)
    done(seeded, "P000000002.fx0001")
    work = seeded.worklist(history=timedelta(hours=24))
    seen = work.snapshot(seeded.now + timedelta(hours=1))
    assert [row.case for row in seen.cases] == ["P000000002.fx0001"]
    assert seen.concluded_cases == 2
    assert [row.state for row in work.every_case()] == [CaseState.COMPLETE, CaseState.COMPLETE]
    # What happens to it brings it back.
    seeded.run("beam", "P000000001.fx0001__b01", "STARTED", tags=GPU)
    again = work.snapshot(seeded.now + timedelta(hours=1, seconds=5))
    assert {row.case for row in again.cases if row.stage is Stage.BEAMS} == {"P000000001.fx0001"}


def done(site: Seeded, case: str) -> None:
    beams = [beam_key(case, 1), beam_key(case, 2)]
    site.arrivals([case])
    site.partitions("case", [case])
    site.partitions("beam", beams)
    site.run("intake", case, "SUCCESS")
    site.made("case_manifest", [case])
    for beam in beams:
        site.run("beam", beam, "SUCCESS", tags=GPU)
    site.made("rt_dose", beams)
    site.made("handed_over", beams)
    site.run("conclusion", case, "SUCCESS")
    site.made("case_handed_over", [case])


def test_a_case_that_retention_has_removed_does_not_wait_for_anything(seeded: Seeded) -> None:
    case = "P000000001.fx0001"
    done(seeded, case)
    seeded.instance.delete_dynamic_partition("case", case)
    for number in (1, 2):
        seeded.instance.delete_dynamic_partition("beam", beam_key(case, number))
    seen = seeded.worklist().snapshot(BEGAN + timedelta(days=11))
    assert [(row.case, row.state, row.stage, row.reason) for row in seen.cases] == [
        (case, CaseState.COMPLETE, Stage.CONCLUDED, "its results were removed since")
    ]
    assert list(seen.beams) == []
    seen = seeded.worklist(history=timedelta(hours=24)).snapshot(BEGAN + timedelta(days=11))
    assert (list(seen.cases), seen.concluded_cases) == ([], 1)


def said(work: Work) -> dict[str, Any]:
    return dict(json.loads(work.model_dump_json()))


def taken(site: Seeded) -> tuple[Snapshot, dict[str, Any], Snapshot]:
    site.now = datetime.now(UTC)
    site.waiting(12, queued=4, working=3)
    before = snapshot(site.instance, site.ledger())
    shown = said(site.worklist().snapshot())
    return before, shown, snapshot(site.instance, site.ledger())


def test_what_is_right_passes_the_comparison(seeded: Seeded) -> None:
    before, shown, after = taken(seeded)
    assert len(shown["beams"]) == 12
    assert shown["alarms"] == []
    assert wrong(before, shown, after) == []


def test_an_invented_alarm_does_not_pass_the_comparison(seeded: Seeded) -> None:
    before, shown, after = taken(seeded)
    shown["alarms"].append({"kind": "beam_failed", "subject": "P000000000.fx0001__b01"})
    assert wrong(before, shown, after) == [
        "an alarm ('beam_failed', 'P000000000.fx0001__b01'), which is none"
    ]


@pytest.mark.parametrize(
    ("rows", "key", "value", "complaint"),
    [
        ("beams", "stage", "queued", "stage queued"),
        ("beams", "percent", 99.0, "percent"),
        ("beams", "batch", 9, "batch"),
        ("beams", "run", "another", "run another"),
        ("beams", "slot", "node/gpu7", "slot node/gpu7"),
        ("beams", "elapsed_seconds", 1e6, "1000000.0 s"),
        ("cases", "stage", "concluded", "concluded"),
        ("cases", "beams_done", 3, "3 beams done"),
        ("queue", "queued", 7, "7 runs queued"),
    ],
)
def test_what_is_wrong_does_not_pass_the_comparison(
    seeded: Seeded, rows: str, key: str, value: object, complaint: str
) -> None:
    before, shown, after = taken(seeded)
    row = shown[rows] if rows == "queue" else shown[rows][0]
    row[key] = value
    assert any(complaint in text for text in wrong(before, shown, after))
