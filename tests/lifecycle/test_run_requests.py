"""Under which key something is asked for again, whichever of a partition's runs retention has left."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import combinations

import dagster as dg
import pytest

from mqi_dagster.lifecycle.run_requests import asked_key

CASE = "P0.fx0001"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def make(instance: dg.DagsterInstance, key: str, **tags: str) -> str:
    """A run of the case under a run key; its id."""
    told = {"dagster/partition": CASE, "dagster/run_key": key, **tags}
    return str(instance.create_run_for_job(_job(), tags=told).run_id)


def _job() -> dg.JobDefinition:
    @dg.job(name="intake")
    def intake() -> None: ...

    return intake


def ask(instance: dg.DagsterInstance, key: str, since: datetime | None = None) -> tuple[str, bool]:
    return asked_key(instance, "intake", CASE, key, since)


def test_what_was_never_asked_for_is_asked_under_its_own_key_until_its_run_exists(
    instance: dg.DagsterInstance,
) -> None:
    assert ask(instance, "a") == ask(instance, "a") == ("a", False)
    make(instance, "a")
    assert ask(instance, "a") == ("a", True)
    make(instance, "a", **{"mqi/retry_of": "x"})
    assert ask(instance, "a") == ("a", True)
    assert ask(instance, "b") == ("b", False)


def test_what_something_else_was_asked_for_after_is_asked_again_behind_that_run(
    instance: dg.DagsterInstance,
) -> None:
    make(instance, "a")
    between = make(instance, "b")
    assert ask(instance, "a") == (f"a:{between}", False)
    last = make(instance, f"a:{between}")
    assert ask(instance, "a") == (f"a:{between}", True)
    assert ask(instance, "b") == (f"b:{last}", False)
    assert ask(instance, "a", datetime.now(UTC)) == (f"a:{last}", False)


def test_a_number_that_earlier_code_gave_counts_as_the_same_request(instance: dg.DagsterInstance) -> None:
    for key in ("a", "b", "a:3"):
        make(instance, key)
    assert ask(instance, "a") == ("a:3", True)


def test_whichever_runs_are_deleted_the_next_key_is_that_of_no_run_that_is_left() -> None:
    for count in range(5):
        for kept in combinations(range(4), count):
            with dg.DagsterInstance.ephemeral() as instance:
                runs = []
                for _ in range(4):
                    key, is_there = ask(instance, "a", datetime.now(UTC))
                    assert not is_there
                    runs.append(make(instance, key))
                for position, run in enumerate(runs):
                    if position not in kept:
                        instance.delete_run(run)
                key, is_there = ask(instance, "a", datetime.now(UTC))
                left = {run.tags["dagster/run_key"] for run in instance.get_runs()}
                assert not is_there and key not in left and len(left) == count
