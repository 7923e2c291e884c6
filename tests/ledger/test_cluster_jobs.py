"""Jobs on clusters: one row a key, whoever asks and however often, and ids that are never mixed up."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update

from mqi_dagster.errors import InfrastructureError
from mqi_dagster.ledger.cluster_jobs import ClusterJob, Observation
from mqi_dagster.ledger.cluster_jobs import ClusterJobState as State
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.tables import CLUSTER_JOB

if TYPE_CHECKING:
    from tests.ledger.ledger_doubles import Clock

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
KEY, BEAM, PLACE = "d1-1", "P1.fx0001__b01", "P1.fx0001/b01"


def reserve(ledger: Ledger, key: str = KEY, cluster: str = "hpc", beam: str = BEAM) -> ClusterJob:
    return ledger.jobs.reserve(cluster, key, beam, PLACE)


def job(ledger: Ledger, key: str = KEY) -> ClusterJob:
    found = ledger.jobs.get("hpc", key)
    assert found is not None
    return found


def submitted(ledger: Ledger, job_id: str = "100", key: str = KEY) -> ClusterJob:
    reserve(ledger, key)
    return ledger.jobs.mark_submitted("hpc", key, job_id)


def see(ledger: Ledger, state: State, job_id: str = "100", key: str = KEY, **more: object) -> int:
    return ledger.jobs.observe("hpc", [Observation(key, job_id, state, **more)])  # type: ignore[arg-type]


def test_a_job_is_written_down_before_it_is_submitted(ledger: Ledger) -> None:
    made = reserve(ledger)
    assert made == ClusterJob(
        cluster="hpc",
        key=KEY,
        partition=BEAM,
        folder=PLACE,
        state=State.RESERVED,
        job_id=None,
        retired=(),
        adopted=False,
        submitted=None,
        scheduler_state="",
        reason="",
        exit_code=None,
        result=None,
        missing_since=None,
        created_at=NOON,
        changed_at=NOON,
        ended_at=None,
        cancel_requested_at=None,
        removed_at=None,
    )
    assert ledger.jobs.get("hpc", "d1-2") is None
    assert ledger.jobs.get("other", KEY) is None


def test_reserving_again_changes_nothing(ledger: Ledger, clock: Clock) -> None:
    made = reserve(ledger)
    clock.forward(60)
    assert reserve(ledger) == made
    ledger.jobs.mark_submitted("hpc", KEY, "100", adopted=True)
    see(ledger, State.SUCCEEDED, exit_code=0, result="{}")
    ended = job(ledger)
    clock.forward(60)
    assert reserve(ledger) == ended


def test_clusters_do_not_share_keys(ledger: Ledger) -> None:
    submitted(ledger)
    assert reserve(ledger, cluster="other").job_id is None
    assert [one.cluster for one in ledger.jobs.all()] == ["hpc", "other"]
    assert [one.job_id for one in ledger.jobs.all("hpc")] == ["100"]


def test_the_id_of_a_job_is_noted_once(ledger: Ledger, clock: Clock) -> None:
    first = submitted(ledger)
    assert (first.job_id, first.state, first.adopted) == ("100", State.QUEUED, False)
    see(ledger, State.RUNNING, scheduler_state="RUNNING", submitted="2026-03-01T12:00:00")
    running = job(ledger)
    clock.forward(60)
    assert ledger.jobs.mark_submitted("hpc", KEY, "100", adopted=True) == running
    with pytest.raises(InfrastructureError):
        ledger.jobs.mark_submitted("hpc", "never-reserved", "1")


def test_what_a_look_has_seen_is_written_down(ledger: Ledger, clock: Clock) -> None:
    submitted(ledger)
    clock.forward(10)
    assert see(ledger, State.HELD, scheduler_state="PENDING", reason="JobHeldUser", submitted="S1") == 1
    seen = job(ledger)
    assert (seen.state, seen.scheduler_state, seen.reason) == (State.HELD, "PENDING", "JobHeldUser")
    assert (seen.submitted, seen.changed_at, seen.ended_at) == ("S1", NOON + timedelta(seconds=10), None)
    clock.forward(10)
    assert see(ledger, State.HELD, scheduler_state="PENDING", reason="JobHeldUser", missing_since=NOON) == 0
    again = job(ledger)
    assert again == replace(seen, missing_since=NOON), "nothing moved, and the time of submission is kept"
    clock.forward(10)
    assert see(ledger, State.FAILED, scheduler_state="FAILED", exit_code=3, result="{}") == 1
    ended = job(ledger)
    assert (ended.exit_code, ended.result, ended.missing_since) == (3, "{}", None)
    assert ended.ended_at == ended.changed_at == NOON + timedelta(seconds=30)


def test_an_end_is_final(ledger: Ledger) -> None:
    ends = [State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.OUT_OF_MEMORY, State.CANCELLED, State.LOST]
    for number, end in enumerate(ends):
        submitted(ledger, str(100 + number), f"d{number}-1")
        see(ledger, end, str(100 + number), f"d{number}-1", result="{}")
    ended = ledger.jobs.all("hpc")
    assert [one.state for one in ended] == ends
    for other in State:
        late = [Observation(one.key, str(one.job_id), other, reason="late") for one in ended]
        assert ledger.jobs.observe("hpc", late) == 0
    assert ledger.jobs.all("hpc") == ended
    assert ledger.jobs.open("hpc") == []


def test_what_was_seen_of_another_id_or_an_unknown_key_is_dropped(ledger: Ledger) -> None:
    before = submitted(ledger)
    assert see(ledger, State.SUCCEEDED, job_id="99") == 0
    assert see(ledger, State.SUCCEEDED, key="d9-9") == 0
    reserve(ledger, "d2-1")
    assert see(ledger, State.SUCCEEDED, key="d2-1") == 0, "it has no id yet"
    assert job(ledger) == before
    assert job(ledger, "d2-1").state is State.RESERVED


def test_many_looks_count_what_they_have_changed(ledger: Ledger) -> None:
    for number in range(5):
        submitted(ledger, str(100 + number), f"d{number}-1")
    looks = [Observation(f"d{number}-1", str(100 + number), State.RUNNING) for number in range(5)]
    assert ledger.jobs.observe("hpc", looks) == 5
    assert ledger.jobs.observe("hpc", looks) == 0
    assert ledger.jobs.observe("hpc", []) == 0


def test_the_owner_of_the_folder_takes_the_place_of_the_job(ledger: Ledger) -> None:
    submitted(ledger)
    see(ledger, State.QUEUED, submitted="S1")
    see(ledger, State.RUNNING, adopted_id="101")
    found = job(ledger)
    assert (found.job_id, found.state, found.submitted) == ("101", State.RUNNING, None)
    assert see(ledger, State.FAILED) == 0, "what is seen of the first one does not count any more"
    see(ledger, State.RUNNING, job_id="101", submitted="S2")
    assert job(ledger).submitted == "S2"


def test_a_requeued_job_has_a_new_time_of_submission(ledger: Ledger) -> None:
    submitted(ledger)
    see(ledger, State.RUNNING, submitted="S1")
    see(ledger, State.QUEUED, submitted="S2")
    see(ledger, State.QUEUED)
    assert job(ledger).submitted == "S2"


def test_a_job_that_is_set_aside_is_remembered_and_begins_anew(ledger: Ledger, clock: Clock) -> None:
    submitted(ledger)
    ledger.jobs.request_cancel("hpc", KEY)
    see(ledger, State.CANCELLED, scheduler_state="CANCELLED", reason="why", submitted="S1", result="{}")
    ledger.jobs.mark_removed("hpc", KEY)
    clock.forward(60)
    anew = ledger.jobs.retire("hpc", KEY, "100")
    assert anew == replace(
        reserve(ledger, KEY), retired=("100",), changed_at=NOON + timedelta(seconds=60), created_at=NOON
    )
    assert (anew.state, anew.job_id, anew.submitted, anew.result) == (State.RESERVED, None, None, None)
    assert (anew.ended_at, anew.cancel_requested_at, anew.removed_at) == (None, None, None)
    assert ledger.jobs.retire("hpc", KEY, "100").retired == ("100",), "once"
    ledger.jobs.mark_submitted("hpc", KEY, "101")
    assert ledger.jobs.retire("hpc", KEY, "100").job_id == "101", "another one than was meant"
    assert ledger.jobs.retire("hpc", KEY, "101").retired == ("100", "101")
    with pytest.raises(InfrastructureError):
        ledger.jobs.retire("hpc", "d9-9", "1")


def test_an_id_that_was_given_out_again_is_the_job_itself(ledger: Ledger) -> None:
    submitted(ledger)
    see(ledger, State.LOST)
    ledger.jobs.retire("hpc", KEY, "100")
    again = ledger.jobs.mark_submitted("hpc", KEY, "100")
    assert (again.job_id, again.retired, again.state) == ("100", (), State.QUEUED)


def test_that_a_job_is_not_wanted_is_written_down_once(ledger: Ledger, clock: Clock) -> None:
    assert ledger.jobs.request_cancel("hpc", KEY) is None
    submitted(ledger)
    asked = ledger.jobs.request_cancel("hpc", KEY)
    assert asked is not None
    assert (asked.cancel_requested_at, asked.state) == (NOON, State.QUEUED)
    clock.forward(60)
    assert ledger.jobs.request_cancel("hpc", KEY) == asked
    see(ledger, State.RUNNING)
    assert job(ledger).cancel_requested_at == NOON


def test_a_job_that_never_came_to_the_cluster_ends_without_an_id(ledger: Ledger, clock: Clock) -> None:
    reserve(ledger)
    clock.forward(5)
    ledger.jobs.end_unsubmitted("hpc", KEY)
    ended = job(ledger)
    assert (ended.state, ended.ended_at) == (State.CANCELLED, NOON + timedelta(seconds=5))
    submitted(ledger, key="d2-1")
    ledger.jobs.end_unsubmitted("hpc", "d2-1")
    assert job(ledger, "d2-1").state is State.QUEUED, "this one is there"
    ledger.jobs.end_unsubmitted("hpc", "d9-9")


def test_a_job_that_never_came_to_the_cluster_can_be_wanted_again(ledger: Ledger) -> None:
    reserve(ledger)
    ledger.jobs.request_cancel("hpc", KEY)
    ledger.jobs.end_unsubmitted("hpc", KEY)
    again = reserve(ledger)
    assert (again.state, again.ended_at, again.cancel_requested_at) == (State.RESERVED, None, None)
    assert not again.state.ended, "whoever looks for what a dead worker left asks the cluster after it"


def test_open_jobs_are_those_the_cluster_can_be_asked_after(ledger: Ledger) -> None:
    reserve(ledger, "d1-1")
    for number, state in enumerate((State.QUEUED, State.HELD, State.RUNNING, State.SUCCEEDED, State.LOST)):
        submitted(ledger, str(100 + number), f"e{number}-1")
        see(ledger, state, str(100 + number), f"e{number}-1")
    reserve(ledger, "d1-1", cluster="other")
    ledger.jobs.mark_submitted("other", "d1-1", "1")
    assert [one.job_id for one in ledger.jobs.open("hpc")] == ["100", "101", "102"]
    assert [one.job_id for one in ledger.jobs.open("other")] == ["1"]


def test_jobs_are_listed_oldest_first_by_cluster_and_beam(ledger: Ledger, clock: Clock) -> None:
    for key, beam in (("b-1", "b1"), ("a-1", "b2"), ("c-1", "b1")):
        reserve(ledger, key, beam=beam)
        clock.forward(1)
    assert [one.key for one in ledger.jobs.all("hpc")] == ["b-1", "a-1", "c-1"]
    assert [one.key for one in ledger.jobs.all("hpc", "b1")] == ["b-1", "c-1"]
    assert [one.key for one in ledger.jobs.all(partition="b2")] == ["a-1"]
    assert ledger.jobs.all("other") == []


def test_a_job_that_is_found_after_all_has_not_ended_and_keeps_its_folder(
    ledger: Ledger, clock: Clock
) -> None:
    reserve(ledger)
    ledger.jobs.request_cancel("hpc", KEY)
    ledger.jobs.end_unsubmitted("hpc", KEY)
    clock.forward(60)
    # sbatch had got through, and its answer came late.
    found = ledger.jobs.mark_submitted("hpc", KEY, "100")
    assert (found.state, found.ended_at, found.cancel_requested_at) == (State.QUEUED, None, NOON)
    assert ledger.jobs.removable("hpc", NOON + timedelta(days=100)) == []
    ledger.jobs.mark_removed("hpc", KEY)
    assert job(ledger).removed_at is None, "only the folder of a job that has ended goes"
    with ledger.database.write() as connection:
        # As it stands in ledgers in which that moment was left.
        connection.execute(update(CLUSTER_JOB).values(ended_at=NOON))
    assert ledger.jobs.removable("hpc", NOON + timedelta(days=100)) == []


def test_folders_are_kept_until_they_are_removed(ledger: Ledger, clock: Clock) -> None:
    for number, state in enumerate((State.FAILED, State.SUCCEEDED, State.RUNNING)):
        submitted(ledger, str(100 + number), f"d{number}-1")
        see(ledger, state, str(100 + number), f"d{number}-1")
        clock.forward(3600)

    def kept(hours: float) -> list[str]:
        return [one.key for one in ledger.jobs.removable("hpc", NOON + timedelta(hours=hours))]

    assert (kept(0), kept(0.5), kept(10)) == ([], ["d0-1"], ["d0-1", "d1-1"])
    ledger.jobs.mark_removed("hpc", "d0-1")
    assert kept(10) == ["d1-1"]
    assert job(ledger, "d0-1").removed_at == NOON + timedelta(hours=3)
    assert ledger.jobs.removable("other", NOON + timedelta(hours=10)) == []
