"""Dagster's records on a server: what connections they take, and what they do when it restarts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from mqi_dagster.ledger.location import DATABASE_VARIABLE
from mqi_dagster.operations.instance import open_instance, write_instance
from mqi_dagster.settings import Settings, parse_settings
from tests.postgres.postgres_server import Server, running_postgres
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.postgres]
BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = 'records' AND backend_type = 'client backend'"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    """A server of this module's own."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def settings(postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A site whose records are to lie on the server, which has an empty database for them."""
    postgres.new_database("records")
    monkeypatch.setenv(DATABASE_VARIABLE, "")
    section = {**postgres.section, "name": "records"}
    made = parse_settings({"site": {"timezone": "UTC"}, "database": section}, tmp_path)
    write_instance(made)
    yield made
    postgres.start()


def backends(server: Server) -> set[str]:
    return set(server.sql(BACKENDS, as_superuser=True).split())


def work(instance: dg.DagsterInstance, key: str) -> None:
    """Questions to all three of Dagster's tables of records, and an event."""
    instance.add_dynamic_partitions("case", [key])
    assert key in instance.get_dynamic_partitions("case")
    instance.report_runless_asset_event(dg.AssetMaterialization("dose", partition=key))
    assert instance.get_runs_count() == 0
    assert instance.all_instigator_state() == []


def test_an_instance_keeps_one_connection_for_all_its_records(postgres: Server, settings: Settings) -> None:
    with open_instance(settings) as instance:
        work(instance, "P1.fx0001")
        kept = backends(postgres)
        assert len(kept) == 1
        for number in range(2, 5):
            work(instance, f"P{number}.fx0001")
            assert backends(postgres) == kept
    # The server notices a little later that somebody has gone.
    wait_for(lambda: not backends(postgres), "no connection is left")


def test_a_restart_of_the_server_between_two_questions_is_noticed_by_nobody(
    postgres: Server, settings: Settings
) -> None:
    with open_instance(settings) as instance:
        work(instance, "P1.fx0001")
        postgres.kill()
        postgres.start()
        work(instance, "P2.fx0001")
        assert instance.get_dynamic_partitions("case") == ["P1.fx0001", "P2.fx0001"]


OPEN_THE_SAME = """
import json, sys
import dagster as dg
from dagster._core.instance.ref import InstanceRef

with dg.DagsterInstance.from_ref(InstanceRef.from_dict(json.load(sys.stdin))) as instance:
    cases = instance.get_dynamic_partitions("case")
    engines = {instance.run_storage._engine, instance.event_log_storage._engine}
    print(json.dumps([cases, len(engines), type(instance.run_storage._engine.pool).__name__]))
"""


def test_another_process_opens_the_same_records_by_one_pool_as_well(settings: Settings) -> None:
    """As run workers and code locations do, which get no more than a reference."""
    with open_instance(settings) as instance:
        work(instance, "P1.fx0001")
        reference = json.dumps(instance.get_ref().to_dict())
        done = subprocess.run(
            [sys.executable, "-c", OPEN_THE_SAME], input=reference, capture_output=True, text=True, check=True
        )
    assert json.loads(done.stdout) == [["P1.fx0001"], 1, "QueuePool"]
