"""What the ledger does when its server restarts, is away, or never answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from mqi_dagster.errors import InfrastructureError, Retry
from mqi_dagster.ledger.database import Database, standing_still
from mqi_dagster.ledger.leases import Lease, LeaseKeeper, Need
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.slots import Slot, SlotKind
from tests.postgres.postgres_server import Server
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.postgres]

STALE = timedelta(seconds=60)


@pytest.fixture
def ledger(postgres: Server) -> Iterator[Ledger]:
    opened = Ledger.open(postgres.new_database("away"))
    opened.slots.declare("here", [Slot(SlotKind.CPU, 0)])
    yield opened
    opened.close()
    postgres.start()


def acquired(ledger: Ledger) -> Lease:
    lease = ledger.leases.acquire("b1", "run1", Need(SlotKind.CPU), stale_after=STALE)
    assert isinstance(lease, Lease)
    return lease


def test_a_server_that_comes_back_is_waited_for(ledger: Ledger, postgres: Server) -> None:
    lease = acquired(ledger)
    postgres.kill()
    back = threading.Timer(1.0, postgres.start)
    back.start()
    try:
        assert ledger.progress.record("b1", "run1", "simulating", percent=50).percent == 50
        assert ledger.leases.all() == [lease]
    finally:
        back.join()
    assert ledger.leases.release(lease)


def test_a_server_that_stays_away_is_an_error_that_is_worth_another_try(
    ledger: Ledger, postgres: Server
) -> None:
    lease = acquired(ledger)
    ledger.database.patience_seconds = 1.0
    postgres.kill()
    calls = [
        lambda: ledger.leases.acquire("b1", "run1", Need(SlotKind.CPU), stale_after=STALE),
        lambda: ledger.leases.all(),
        lambda: ledger.progress.record("b1", "run1", "simulating"),
        lambda: ledger.leases.release(lease),
        lambda: ledger.fractions.number("P1", ["d1"]),
        lambda: ledger.attempts.begin("b1", "0" * 64, "run1"),
    ]
    for call in calls:
        with pytest.raises(InfrastructureError, match="the ledger's database failed") as caught:
            call()
        assert caught.value.retry is Retry.FOREVER
    postgres.start()
    assert ledger.leases.all() == [lease]


def test_a_heartbeat_does_not_wait_and_the_lease_outlives_a_short_absence(
    ledger: Ledger, postgres: Server
) -> None:
    lease = acquired(ledger)
    every = timedelta(seconds=0.2)
    with LeaseKeeper(ledger.leases, lease, every=every) as keeper:
        postgres.kill()
        with pytest.raises(InfrastructureError):
            ledger.leases.renew(lease)
        postgres.start()
        wait_for(
            lambda: (found := ledger.leases.get("b1")) and found.heartbeat_at > lease.heartbeat_at,
            "a heartbeat",
        )
        keeper.check()


def test_a_port_behind_which_nobody_speaks_holds_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:

        class Hasty(Database):
            patience_seconds = 0.0

        with pytest.raises(InfrastructureError):
            Hasty.open(f"postgresql://mqi@127.0.0.1:{silent.getsockname()[1]}/mqi")


def test_a_wrong_password_is_told(postgres: Server) -> None:
    with pytest.raises(InfrastructureError, match="password authentication failed"):
        Ledger.open(f"postgresql://mqi:guessed@127.0.0.1:{postgres.port}/mqi")


def test_a_writer_that_hangs_does_not_hold_the_others_for_ever(ledger: Ledger, postgres: Server) -> None:
    """Its connection is ended by the server, and what it had begun is undone."""
    entered, leave = threading.Event(), threading.Event()

    def hang() -> None:
        with pytest.raises(InfrastructureError), standing_still(postgres.url("away")):
            entered.set()
            leave.wait(120)

    thread = threading.Thread(target=hang)
    thread.start()
    assert entered.wait(60)
    terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
    postgres.sql(terminate, as_superuser=True)
    assert isinstance(acquired(ledger), Lease)
    leave.set()
    thread.join(60)
    assert not thread.is_alive()
