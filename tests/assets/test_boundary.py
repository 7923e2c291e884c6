"""Errors that leave our code carry no path and no person, and say whether a retry helps."""

from __future__ import annotations

import json

import dagster as dg
import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from mqi_dagster.assets.boundary import Boundary
from mqi_dagster.errors import DeliveryError, EngineError, HandoverError, Where


def failure_of(error: BaseException, *, retries_left: bool = True) -> dg.Failure:
    with pytest.raises(dg.Failure) as raised, Boundary(Where(case="P1.fx0001"), retries_left=retries_left):
        raise error
    return raised.value


def test_a_typed_error_keeps_its_place_and_gains_the_case() -> None:
    error = DeliveryError("size is no multiple of 16", where=Where(delivery=2, layer=3, kind="record"))
    failure = failure_of(error)
    assert failure.description == "case P1.fx0001, delivery 2, layer 3, record: size is no multiple of 16"
    assert failure.metadata["error"].value == "delivery"
    assert failure.metadata["retry"].value == "never"
    assert failure.allow_retries is False


def test_only_engine_failures_cost_the_budget() -> None:
    assert failure_of(EngineError("died")).allow_retries is True
    assert failure_of(EngineError("died"), retries_left=False).allow_retries is False
    assert failure_of(HandoverError("share away"), retries_left=False).allow_retries is True


def test_any_other_exception_loses_its_text() -> None:
    failure = failure_of(ValueError("Hong^Gildong 19700101"))
    assert "Hong" not in str(failure.description)
    assert "ValueError" in str(failure.description)
    assert failure.allow_retries is False


def test_an_operating_system_error_keeps_its_reason_and_loses_its_path() -> None:
    failure = failure_of(FileNotFoundError(2, "No such file or directory", "/inbox/Hong^Gildong/x.ptn"))
    assert "No such file or directory" in str(failure.description)
    assert "Hong" not in str(failure.description)


def test_the_original_exception_does_not_hang_on_the_failure() -> None:
    failure = failure_of(ValueError("Hong^Gildong"))
    assert failure.__cause__ is None
    assert failure.__suppress_context__
    assert "Hong" not in json.dumps({key: str(value.value) for key, value in failure.metadata.items()})


def test_a_database_of_dagster_that_is_away_is_lost_infrastructure_and_no_fault_of_the_beam() -> None:
    away = OperationalError("INSERT INTO event_logs", {}, Exception("server closed the connection"))
    wrapped = RuntimeError("too many retries for DB connection")
    wrapped.__cause__ = away
    for error in (away, wrapped):
        failure = failure_of(error)
        assert (failure.metadata["error"].value, failure.metadata["retry"].value) == (
            "infrastructure",
            "forever",
        )
        assert failure.allow_retries is True
        assert "event_logs" not in str(failure.description)
    assert failure_of(IntegrityError("INSERT", {}, Exception("duplicate"))).allow_retries is False


def test_interrupts_pass_unchanged() -> None:
    with pytest.raises(KeyboardInterrupt), Boundary(Where()):
        raise KeyboardInterrupt
