"""A run in work that waits for too long is an alarm, whatever it waits for: one, for as long as it waits."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mqi_dagster.compute import retried_target
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.ledger.cluster_jobs import ClusterJobState, Observation
from mqi_dagster.ledger.leases import Need
from mqi_dagster.ledger.slots import Slot, SlotKind
from mqi_dagster.lifecycle.stages import WorkPhase
from tests.chain.chain import Chain
from tests.chain.ended_runs import BEAM, CASE, evaluate, lost, started
from tests.chain.test_alarm_sensors import HOST, ago, standing
from tests.chain.test_reaper import lease_of, worker_of

OTHER = f"{BEAM[:-2]}03"
SETTINGS: dict[str, Any] = {"hosts": {"hpc": HOST, "pacs": HOST}, "alarms": {"disk_free_gb": 0}}


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path / "site", SETTINGS)


@pytest.fixture
def remote(tmp_path: Path) -> Chain:
    """A site that simulates on a cluster, and hands over to a host."""
    return Chain(
        tmp_path / "remote",
        {
            **SETTINGS,
            "execution": {"simulation": "hpc"},
            "handover": {"target": "pacs", "folder": "/srv/results"},
        },
    )


def text_of(chain: Chain, kind: str) -> str:
    (text,) = (alarm.text for alarm in chain.site.ledger.alarms.open() if alarm.kind == kind)
    return text


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dg.DagsterRun]:
    """Starts a run whose beam has reported a phase some minutes ago."""

    def make(chain: Chain, phase: str, minutes: float, beam: str = BEAM, message: str = "") -> dg.DagsterRun:
        run = started(chain, partition=beam)
        ledger = chain.site.ledger
        with monkeypatch.context() as earlier:
            earlier.setattr(ledger.database, "clock", ago(minutes))
            ledger.progress.record(beam, run.run_id, phase, message=message)
        return run

    return make


Reported = Callable[..., dg.DagsterRun]


def test_beams_that_wait_for_a_slot_while_nothing_works_are_one_alarm(
    chain: Chain, reported: Reported
) -> None:
    reason = "no free slot: 1 switched off (fan): gpu0"
    first = reported(chain, "waiting", 31, message=reason)
    reported(chain, "waiting", 40, OTHER, reason)
    for _ in range(3):
        assert standing(chain) == {"beams_waiting": "slots"}
    (alarm,) = chain.site.ledger.alarms.open()
    assert f"2 runs wait, {OTHER} since " in alarm.text and reason in alarm.text
    assert "while no engine runs" in alarm.text
    assert alarm.text.endswith("The limit is 30 min (alarms.stuck_minutes)")
    assert len(chain.site.ledger.alarms.all()) == 1
    chain.site.ledger.progress.record(BEAM, first.run_id, "preparing")
    lost(chain, chain.instance.get_runs(dg.RunsFilter(tags={"dagster/partition": OTHER}))[0])
    assert standing(chain) == {}


def test_a_run_whose_worker_is_gone_waits_for_nothing(
    chain: Chain, reported: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = reported(chain, "waiting", 31)
    with worker_of(chain, run):
        assert standing(chain) == {"beams_waiting": "slots"}
    assert standing(chain) == {}, "the reaper has it executed again"

    def unreadable(run_id: str) -> object:
        raise InfrastructureError("a sign of life cannot be read: Input/output error")

    monkeypatch.setattr(chain.site.signs_of_life, "of", unreadable)
    assert standing(chain) == {"beams_waiting": "slots"}, "and a disk in trouble hides no alarm"


@pytest.mark.parametrize(("minutes", "found"), [(31, {}), (719, {}), (721, {"beams_waiting": "slots"})])
def test_while_engines_run_a_beam_may_wait_for_hours(
    chain: Chain, reported: Reported, minutes: float, found: dict[str, str]
) -> None:
    lease_of(chain, started(chain))
    reported(chain, "waiting", minutes, OTHER, "no free slot: 1 leased")
    assert standing(chain) == found
    if found:
        text = text_of(chain, "beams_waiting")
        assert text.endswith("The limit is 720 min (alarms.waiting_minutes)")


def test_a_beam_that_waits_for_its_own_lease_is_an_alarm(chain: Chain, reported: Reported) -> None:
    lease_of(chain, started(chain))
    reported(chain, "waiting", 31, message="it still holds a slot of old")
    assert standing(chain) == {"beams_waiting": "slots"}


def test_what_is_reported_anew_at_every_poll_has_still_begun_when_it_did(
    chain: Chain, reported: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mqi_dagster.sensors import alarms

    begin = datetime.now(UTC)
    run = reported(chain, "waiting", 0, message="no free slot: there is none")
    for minutes in (1, 15, 29):
        then = begin + timedelta(minutes=minutes)
        with monkeypatch.context() as later:
            later.setattr(alarms, "utc_now", lambda now=then: now)
            later.setattr(chain.site.ledger.database, "clock", lambda now=then: now)
            chain.site.ledger.progress.record(BEAM, run.run_id, "waiting", message=f"reason {minutes}")
            assert standing(chain) == {}
    chain.reopen()
    monkeypatch.setattr(alarms, "utc_now", lambda: begin + timedelta(minutes=32))
    assert standing(chain) == {"beams_waiting": "slots"}, "also after a restart of the services"


def test_a_cluster_that_was_gone_before_any_job_is_away(remote: Chain, reported: Reported) -> None:
    run = reported(remote, "waiting for the cluster", 0.5, message="no route to host")
    assert standing(remote) == {}
    with pytest.MonkeyPatch.context() as later:
        from mqi_dagster.sensors import alarms

        later.setattr(alarms, "utc_now", lambda: datetime.now(UTC) + timedelta(minutes=2))
        for _ in range(2):
            assert standing(remote) == {"cluster_away": "hpc"}
        assert "no route to host" in text_of(remote, "cluster_away")
    remote.site.ledger.progress.record(BEAM, run.run_id, "preparing")
    assert standing(remote) == {}


def test_an_engine_on_a_cluster_that_is_away_is_not_stuck_as_well(
    remote: Chain, reported: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, minute = remote.site.ledger, timedelta(minutes=1)
    run = reported(remote, "simulating", 45)
    with monkeypatch.context() as earlier:
        earlier.setattr(ledger.database, "clock", ago(45))
        ledger.slots.declare("hpc", [Slot(SlotKind.GPU, 0)])
        ledger.leases.acquire(BEAM, run.run_id, Need(SlotKind.GPU, "hpc"), stale_after=minute)
        turn = ledger.clusters.take_turn("hpc", shortest=minute, hold=minute)
        assert turn is not None
        ledger.clusters.end_turn(turn, next_in=minute, interval=minute, failure="no route to host")
    assert standing(remote) == {"cluster_away": "hpc"}


def with_a_job(chain: Chain, run: dg.DagsterRun, *ids: str) -> None:
    """The jobs that a beam has had one after the other on the cluster, the last one in the queue."""
    ledger = chain.site.ledger
    ledger.slots.declare("hpc", [Slot(SlotKind.GPU, 0)])
    ledger.leases.acquire(BEAM, run.run_id, Need(SlotKind.GPU, "hpc"), stale_after=timedelta(minutes=1))
    ledger.jobs.reserve("hpc", "d1-1", BEAM, "c/b02")
    for number, job_id in enumerate(ids):
        ledger.jobs.mark_submitted("hpc", "d1-1", job_id)
        if number + 1 < len(ids):
            ledger.jobs.observe("hpc", [Observation("d1-1", job_id, ClusterJobState.LOST)])
            ledger.jobs.retire("hpc", "d1-1", job_id)


def test_a_job_that_is_held_is_an_alarm_until_it_is_released(
    remote: Chain, reported: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = remote.site.ledger
    run = reported(remote, "queued", 2, message="PENDING: JobHeldAdmin")
    with_a_job(remote, run, "17")
    assert standing(remote) == {}
    with monkeypatch.context() as earlier:
        earlier.setattr(ledger.database, "clock", ago(2))
        held = Observation("d1-1", "17", ClusterJobState.HELD, "PENDING", "JobHeldAdmin")
        ledger.jobs.observe("hpc", [held])
    for _ in range(2):
        assert standing(remote) == {"jobs_held": "hpc"}
    assert f"{BEAM} (job 17)" in text_of(remote, "jobs_held")
    assert "JobHeldAdmin" in text_of(remote, "jobs_held")
    ledger.jobs.observe("hpc", [Observation("d1-1", "17", ClusterJobState.RUNNING, "RUNNING")])
    assert standing(remote) == {}


def test_a_job_that_stands_in_the_queue_for_long_is_an_alarm(remote: Chain, reported: Reported) -> None:
    with_a_job(remote, reported(remote, "queued", 721, message="PENDING: Priority"), "17")
    assert standing(remote) == {"beams_waiting": "hpc"}
    assert "PENDING: Priority" in text_of(remote, "beams_waiting")


def test_jobs_that_are_lost_again_and_again_are_an_alarm_until_the_beam_is_done(
    remote: Chain, reported: Reported
) -> None:
    run = reported(remote, "simulating", 0)
    with_a_job(remote, run, "17", "18", "19")
    assert standing(remote) == {}, "twice may be a node or two"
    ledger = remote.site.ledger
    ledger.jobs.observe("hpc", [Observation("d1-1", "19", ClusterJobState.LOST)])
    assert standing(remote) == {"jobs_lost": "hpc"}
    ledger.jobs.retire("hpc", "d1-1", "19")
    assert standing(remote) == {"jobs_lost": "hpc"}, "also between two jobs"
    assert f"of {BEAM} 3 in a row" in text_of(remote, "jobs_lost")
    lease = ledger.leases.get(BEAM)
    assert lease is not None
    ledger.leases.release(lease)
    assert standing(remote) == {}


@pytest.mark.parametrize("partition", [BEAM, CASE])
def test_a_hand_over_host_that_is_away_is_one_alarm(
    remote: Chain, reported: Reported, partition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mqi_dagster.sensors import alarms

    run = started(remote, "beam" if partition == BEAM else "conclusion", partition)
    context: Any = type("Context", (), {"run": run, "log": None, "partition_key": partition})
    target = retried_target.RetriedTarget(context, remote.site, remote.site.target, WorkPhase.SIMULATED)
    target._say("no route to host")
    other = f"{BEAM[:-2]}04"
    reported(remote, "waiting for the target", 0, other, "no route to host")
    assert standing(remote) == {}
    with monkeypatch.context() as later:
        later.setattr(alarms, "utc_now", lambda: datetime.now(UTC) + timedelta(minutes=11))
        for _ in range(2):
            assert standing(remote) == {"target_away": "pacs"}
        assert "2 runs wait, " in text_of(remote, "target_away")
        assert ": no route to host." in text_of(remote, "target_away")
        lost(remote, remote.instance.get_runs(dg.RunsFilter(tags={"dagster/partition": other}))[0])
        monkeypatch.setattr(target, "_retrying", Answering())
        assert target.state("folder", "name", b"") == "stated"
        assert standing(remote) == {}


class Answering:
    """The host is back."""

    def call(self, what: str, function: Callable[[], Any]) -> str:
        return "stated"


def test_what_waits_for_nothing_known_is_stuck_in_the_end(chain: Chain, reported: Reported) -> None:
    reported(chain, "simulated", 719)
    assert standing(chain) == {}
    reported(chain, "simulated", 721, OTHER)
    assert standing(chain) == {"beam_stuck": OTHER}


def test_the_report_of_an_earlier_run_says_nothing(chain: Chain, reported: Reported) -> None:
    lost(chain, reported(chain, "waiting", 500))
    started(chain)
    assert standing(chain) == {}


def test_a_tick_asks_no_more_questions_the_more_wait(
    chain: Chain, reported: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy import event

    def questions() -> int:
        asked = []
        engine = chain.site.ledger.database._engine

        def count(*statement: Any) -> None:
            asked.append(statement[2])

        event.listen(engine, "before_cursor_execute", count)
        evaluate(chain, "alarms")
        event.remove(engine, "before_cursor_execute", count)
        return len(asked)

    reported(chain, "waiting", 31)
    evaluate(chain, "alarms")
    few = questions()
    for number in range(10, 60):
        reported(chain, "waiting", 31, f"{BEAM[:-2]}{number}")
    evaluate(chain, "alarms")
    assert questions() == few


@pytest.mark.parametrize("minutes", [1, 5])
def test_a_gpu_of_the_pool_that_is_not_seen_any_more_is_an_alarm(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, minutes: float
) -> None:
    from mqi_dagster.ledger.gpus import GpuUsage

    ledger = chain.site.ledger
    there = [Slot(SlotKind.GPU, index, uuid=f"GPU-{index}") for index in range(2)]
    ledger.slots.declare("here", there)
    seen = {"memory_mb": 1, "used_mb": 0, "utilisation_percent": 0, "temperature_c": 40}
    look = GpuUsage(
        "here",
        1,
        "GPU-1",
        "A100",
        **seen,
        sm_clock_mhz=1,
        memory_clock_mhz=1,
        foreign_processes=0,
        seen_at=datetime.now(UTC) - timedelta(minutes=minutes),
    )
    ledger.gpus.record("here", [look])
    assert standing(chain) == {}
    ledger.leases.acquire(BEAM, "run1", Need(SlotKind.GPU, "here", count=2), stale_after=timedelta(minutes=1))
    # Its engine holds it, so that it is known as one that is gone.
    ledger.slots.declare("here", there[:1])
    found = {"gpu_lost": "here/gpu1"} if minutes == 5 else {}
    for _ in range(2):
        assert standing(chain) == found, "a driver that is loaded anew takes a moment"
    assert ("GPU-1 was not seen since" in text_of(chain, "gpu_lost")) if found else True
    ledger.slots.switch_off("here", "gpu", 1, "sent in for repair")
    assert standing(chain) == {}
    ledger.slots.switch_on("here", "gpu", 1)
    ledger.slots.declare("here", there)
    assert standing(chain) == {}
