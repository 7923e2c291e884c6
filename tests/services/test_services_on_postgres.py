"""A case's way with all records on a PostgreSQL server, and through the death of that server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres.postgres_server import Server, running_postgres
from tests.services.stack import HOLD, Stack
from tests.services.test_services import made_once, one_engine

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_postgres() as started:
        yield started


@pytest.fixture(scope="module")
def on_server(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("onserver"), {"database": server.section})
    with made.running():
        yield made


@pytest.mark.gate
def test_a_case_is_handed_over_with_every_record_on_the_server(on_server: Stack, server: Server) -> None:
    on_server.steer()
    case = on_server.case_of(on_server.deliver(seed=31))
    on_server.wait_for_conclusion(case)
    made_once(on_server, case)
    site = on_server.site
    # `mqi init` had made Dagster's files before the settings named a server.
    assert [path for path in site.rglob("*.db*") if case.encode() in path.read_bytes()] == []
    assert list(site.rglob("*.sqlite")) == []
    assert server.sql(f"SELECT count(*) FROM mqi_arrival WHERE \"case\" = '{case}'", database="mqi") == "1"
    assert server.sql("SELECT count(*) FROM runs WHERE status = 'SUCCESS'", database="mqi") == "5"
    password = server.password_file.read_text().strip()
    holders = [path for path in site.rglob("*") if path.is_file() and password.encode() in path.read_bytes()]
    assert holders == []


def test_a_case_outlives_the_death_of_the_server(on_server: Stack, server: Server) -> None:
    on_server.steer(seconds=HOLD)
    case = on_server.case_of(on_server.deliver(seed=32))
    one_engine(on_server)
    server.kill()
    server.start()
    on_server.steer()
    on_server.wait_for_conclusion(case)
    made_once(on_server, case, interrupted=True)
    assert on_server.ledger().leases.all() == []
