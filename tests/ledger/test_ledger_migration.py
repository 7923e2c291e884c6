"""A ledger of the revision before, with a beam in flight, becomes one of this code and goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
from alembic import command

from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.ledger.attempts import Outcome
from mqi_dagster.ledger.leases import Need
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.slots import Slot, SlotKind
from tests.ledger.ledger_rows import progress_reports, waiting
from tests.ledger.revisions import moved

if TYPE_CHECKING:
    from tests.ledger.ledger_doubles import Forked

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MINUTE = timedelta(seconds=60)
COLUMNS = "host, kind, slot_index, uuid, memory_mb, in_service, token, beam, owner, job_id"
ROWS = (
    "'here', 'gpu', 0, 'GPU-a', 24000, true, 3, 'P1.fx0001__b02', 'run1', '77:88'",
    "'here', 'gpu', 1, 'GPU-b', 24000, true, 0, NULL, NULL, NULL",
    # Left behind when a GPU got another index: the same GPU twice.
    "'here', 'gpu', 2, 'GPU-a', 24000, true, 0, NULL, NULL, NULL",
    "'hpc', 'gpu', 0, '', 0, true, 1, 'P1.fx0001__b03', 'run2', '4711'",
    "'hpc', 'gpu', 1, '', 0, false, 0, NULL, NULL, NULL",
)


def test_leases_of_revision_2_are_kept_and_one_gpu_is_never_two_slots(url: str) -> None:
    engine = moved(url, command.upgrade, "0002")
    with engine.begin() as connection:
        for row in ROWS:
            connection.exec_driver_sql(f"INSERT INTO mqi_slot ({COLUMNS}) VALUES ({row})")
        connection.execute(
            sqlalchemy.text("UPDATE mqi_slot SET acquired_at = :now, heartbeat_at = :now WHERE beam > ''"),
            {"now": NOW},
        )
    ledger = Ledger.open(url, lambda: NOW)
    assert [(s.host, s.index, s.uuid, s.usable) for s in ledger.slots.all()] == [
        ("here", 0, "GPU-a", True),
        ("here", 1, "GPU-b", True),
        ("hpc", 0, "", True),
        ("hpc", 1, "", False),
    ]
    held = ledger.leases.get("P1.fx0001__b02")
    assert held is not None
    assert (held.owner, held.token, held.name, held.job_id) == ("run1", 3, "here/gpu0", "77:88")
    assert ledger.leases.renew(held).heartbeat_at == NOW
    assert ledger.leases.release(held)
    ledger.slots.declare(
        "here", [Slot(SlotKind.GPU, 0, "GPU-a", 24000), Slot(SlotKind.GPU, 1, "GPU-b", 24000)]
    )
    found = ledger.leases.acquire("P2.fx0001__b02", "run3", Need(SlotKind.GPU, "here", 2), stale_after=MINUTE)
    assert found == ledger.leases.get("P2.fx0001__b02")
    assert (ledger.gpus.all(), waiting(ledger), ledger.slots.pool_limit("gpu")) == ([], [], None)


def test_a_migration_back_leaves_each_beam_one_slot(url: str) -> None:
    ledger = Ledger.open(url)
    ledger.slots.declare("here", [Slot(SlotKind.CPU, index) for index in range(3)])
    ledger.leases.acquire("b1", "run1", Need(SlotKind.CPU, count=2), stale_after=MINUTE)
    engine = moved(url, command.downgrade, "0002")
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT slot_index, beam FROM mqi_slot ORDER BY slot_index").all()
    assert [tuple(row) for row in rows] == [(0, "b1"), (1, None), (2, None)]
    (again,) = Ledger.open(url).leases.all()
    assert (again.partition, again.name) == ("b1", "here/cpu0")


BEAM, OTHER = "P1.fx0001__b02", "P1.fx0001__b03"
THEN = "2026-03-01 11:00:00+00:00"
ROWS_OF_REVISION_7 = (
    "mqi_slot (host, kind, slot_index, uuid, memory_mb, in_service, token, beam, part, owner, acquired_at,"
    " heartbeat_at, executor, job_id)"
    f" VALUES ('here', 'gpu', 0, 'GPU-a', 24000, true, 3, '{BEAM}', 0, 'run1', '{THEN}', '{THEN}', 'local',"
    " '77')",
    "mqi_slot (host, kind, slot_index, uuid, memory_mb, in_service, token, switched_off_at,"
    " switched_off_reason)"
    f" VALUES ('here', 'gpu', 1, 'GPU-b', 24000, true, 8, '{THEN}', 'fan broken')",
    "mqi_waiting (beam, owner, host, kind, priority, reason, since, until)"
    f" VALUES ('{OTHER}', 'run2', 'here', 'gpu', 5, 'no free slot', '{THEN}', '2026-03-01 12:05:00+00:00')",
    "mqi_attempt (id, beam, digest, number, run_id, started_at, ended_at, outcome, cause)"
    f" VALUES (1, '{BEAM}', 'd1', 1, 'run0', '{THEN}', '{THEN}', 'failed', 'exit code 3')",
    "mqi_attempt (id, beam, digest, number, run_id, started_at)"
    f" VALUES (2, '{BEAM}', 'd1', 2, 'run1', '{THEN}')",
    "mqi_progress (beam, run_id, attempt, phase, percent, message, updated_at)"
    f" VALUES ('{BEAM}', 'run1', 2, 'simulating', 40.0, 'layer 3', '{THEN}')",
    "mqi_cluster_job (cluster, key, beam, place, state, retired, adopted, scheduler_state, reason, made_at,"
    " changed_at, cancel_asked_at)"
    f" VALUES ('hpc', 'd2-1', '{OTHER}', 'P1.fx0001/b03', 'reserved', '', false, '', '', '{THEN}', '{THEN}',"
    f" '{THEN}')",
    "mqi_cluster (cluster, turn, looking_until, next_look, interval_seconds, looked_at, failure)"
    f" VALUES ('hpc', 4, NULL, '{THEN}', 15.0, '{THEN}', '')",
    f"mqi_pool (name, most_runs, set_at) VALUES ('gpu', 2, '{THEN}')",
    "mqi_alarm (id, kind, subject, text, first_at, last_at, count, told_at)"
    f" VALUES (1, 'beam_failed', '{BEAM}', 'it failed', '{THEN}', '{THEN}', 1, '{THEN}')",
    "mqi_notice (id, event, reference, kind, subject, text, happened_at)"
    f" VALUES (1, 'alarm_raised', '1', 'beam_failed', '{BEAM}', 'it failed', '{THEN}'),"
    f" (2, 'case_concluded', 'run9', '', 'P1.fx0001', 'concluded', '{THEN}')",
    f"mqi_notice_channel (channel, told_id, told_at, tries, failure) VALUES ('mail', 1, '{THEN}', 0, '')",
)


def _revision_7(url: str) -> sqlalchemy.Engine:
    engine = moved(url, command.upgrade, "0007")
    with engine.begin() as connection:
        for row in ROWS_OF_REVISION_7:
            # On SQLite the moments of the ledger bear no zone.
            plain = row if engine.dialect.name == "postgresql" else row.replace("+00:00", ".000000")
            connection.exec_driver_sql(f"INSERT INTO {plain}")
    return engine


def _require_all_of_revision_7(ledger: Ledger) -> None:
    then = datetime(2026, 3, 1, 11, 0, tzinfo=UTC)
    (lease,) = ledger.leases.all()
    assert (lease.partition, lease.owner, lease.token, lease.name) == (BEAM, "run1", 3, "here/gpu0")
    assert (lease.acquired_at, lease.executor, lease.job_id) == (then, "local", "77")
    assert [(one.uuid, one.switched_off_reason) for one in ledger.slots.all()] == [
        ("GPU-a", None),
        ("GPU-b", "fan broken"),
    ]
    (waits,) = waiting(ledger)
    assert (waits.partition, waits.owner, waits.priority, waits.since) == (OTHER, "run2", 5, then)
    assert [
        (one.partition, one.number, one.outcome, one.run_id) for one in ledger.attempts.history(BEAM)
    ] == [
        (BEAM, 1, Outcome.FAILED, "run0"),
        (BEAM, 2, None, "run1"),
    ]
    (report,) = progress_reports(ledger).values()
    assert (report.partition, report.attempt, report.percent, report.message) == (BEAM, 2, 40.0, "layer 3")
    (job,) = ledger.jobs.all(partition=OTHER)
    assert (job.folder, job.created_at, job.cancel_requested_at) == ("P1.fx0001/b03", then, then)
    (poll,) = ledger.clusters.all()
    assert (poll.turn, poll.polling_until, poll.next_poll, poll.polled_at) == (4, None, then, then)
    assert ledger.slots.pool_limit("gpu") == 2
    (alarm,) = ledger.alarms.open()
    assert (alarm.kind, alarm.subject, alarm.notified_at) == (AlarmKind.BEAM_FAILED, BEAM, then)
    (channel,) = ledger.notices.channels()
    assert (channel.notified_id, channel.notified_at) == (1, then)
    assert [one.id for one in ledger.notices.due("mail", 10)] == [2], "nothing twice, and nothing left out"


def test_every_row_of_revision_7_is_kept_and_goes_on(url: str) -> None:
    engine = _revision_7(url)
    ledger = Ledger.open(url, lambda: NOW)
    _require_all_of_revision_7(ledger)
    # Every rule that the database itself holds is still there.
    for words in (
        "INSERT INTO mqi_attempt (id, partition, digest, number, run_id, started_at)"
        " SELECT 3, partition, digest, 3, 'run3', started_at FROM mqi_attempt WHERE id = 2",
        f"UPDATE mqi_slot SET partition = '{BEAM}', part = 0 WHERE slot_index = 1",
        "UPDATE mqi_slot SET uuid = 'GPU-a' WHERE slot_index = 1",
    ):
        with engine.connect() as connection, pytest.raises(sqlalchemy.exc.IntegrityError):
            connection.exec_driver_sql(words)
    lease = ledger.leases.get(BEAM)
    assert lease is not None
    assert ledger.leases.renew(lease).heartbeat_at == NOW
    assert ledger.attempts.begin(BEAM, "d1", "run4").number == 2, "the one in flight goes on"
    assert ledger.leases.release(lease)


def test_a_migration_back_to_revision_7_and_forth_again_loses_nothing(url: str) -> None:
    _revision_7(url)
    Ledger.open(url, lambda: NOW).close()
    engine = moved(url, command.downgrade, "0007")
    with engine.connect() as connection:
        held = connection.exec_driver_sql("SELECT beam, part FROM mqi_slot ORDER BY slot_index").all()
    assert [tuple(row) for row in held] == [(BEAM, 0), (None, None)]
    _require_all_of_revision_7(Ledger.open(url, lambda: NOW))


@pytest.mark.parametrize("statement", [1, 9, 17, 23])
def test_a_migration_that_is_killed_has_changed_nothing_and_is_done_again(
    url: str, fork: Callable[[Callable[[], None]], Forked], statement: int
) -> None:
    engine = _revision_7(url)
    engine.dispose()

    def work() -> None:
        changes = 0

        def die(_connection: Any, _cursor: Any, words: str, *_rest: Any) -> None:
            nonlocal changes
            changes += words.lstrip().startswith(("ALTER", "CREATE", "DROP", "INSERT", "UPDATE"))
            if changes == statement:
                os._exit(9)

        sqlalchemy.event.listen(sqlalchemy.Engine, "after_cursor_execute", die)
        Ledger.open(url)

    assert fork(work).wait() == 9
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM mqi_ledger_version").all() == [("0007",)]
        assert connection.exec_driver_sql("SELECT count(beam) FROM mqi_slot").scalar() == 1
    _require_all_of_revision_7(Ledger.open(url, lambda: NOW))


def test_what_had_arrived_before_kinds_were_told_is_a_case(url: str) -> None:
    Ledger.open(url).arrivals.record("a1", "P1.fx0001", "f1", True, "", None)
    moved(url, command.downgrade, "0008").dispose()
    ledger = Ledger.open(url)
    assert [(row.case, row.kind) for row in ledger.arrivals.open(10, "case")] == [("P1.fx0001", "case")]
