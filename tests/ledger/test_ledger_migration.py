"""A ledger of the revision before, with a beam in flight, becomes one of this code and goes on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import sqlalchemy
from alembic import command
from alembic.config import Config

from mqi_dagster.ledger import Ledger, Need, Slot, SlotKind
from mqi_dagster.ledger import database as ledger_database

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


def _moved(url: str, move: Callable[[Config, str], None], revision: str) -> sqlalchemy.Engine:
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg2:"))
    config = Config()
    config.set_main_option("script_location", str(ledger_database._MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        move(config, revision)
    return engine


def test_leases_of_revision_2_are_kept_and_one_gpu_is_never_two_slots(url: str) -> None:
    engine = _moved(url, command.upgrade, "0002")
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
    assert (ledger.gpus.all(), ledger.leases.waiting(), ledger.slots.pool_limit("gpu")) == ([], [], None)


def test_a_migration_back_leaves_each_beam_one_slot(url: str) -> None:
    ledger = Ledger.open(url)
    ledger.slots.declare("here", [Slot(SlotKind.CPU, index) for index in range(3)])
    ledger.leases.acquire("b1", "run1", Need(SlotKind.CPU, count=2), stale_after=MINUTE)
    engine = _moved(url, command.downgrade, "0002")
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT slot_index, beam FROM mqi_slot ORDER BY slot_index").all()
    assert [tuple(row) for row in rows] == [(0, "b1"), (1, None), (2, None)]
    (again,) = Ledger.open(url).leases.all()
    assert (again.beam, again.name) == ("b1", "here/cpu0")
