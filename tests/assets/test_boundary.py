"""Errors that leave our code carry no path and no person, and say whether a retry helps."""

from __future__ import annotations

import errno
import json
import os

import dagster as dg
import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from mqi_dagster.errors import DeliveryError, EngineError, HandoverError, InfrastructureError, Where
from mqi_dagster.lifecycle.boundary import Boundary


def failure_of(error: BaseException) -> dg.Failure:
    with pytest.raises(dg.Failure) as raised, Boundary(Where(case="P1.fx0001")):
        raise error
    return raised.value


def test_a_typed_error_keeps_its_place_and_gains_the_case() -> None:
    error = DeliveryError("size is no multiple of 16", where=Where(delivery=2, layer=3, kind="record"))
    failure = failure_of(error)
    assert failure.description == "case P1.fx0001, delivery 2, layer 3, record: size is no multiple of 16"
    assert failure.metadata["error"].value == "delivery"
    assert failure.metadata["retry"].value == "never"
    assert failure.allow_retries is False


@pytest.mark.parametrize(
    ("error", "budget", "tries", "again"),
    [
        (EngineError("died"), True, False, True),
        (EngineError("died"), False, True, False),
        (HandoverError("share away"), True, False, False),
        (HandoverError("share away"), False, True, True),
        (InfrastructureError("the ledger's database failed"), False, True, True),
        (DeliveryError("bad"), True, True, False),
        (ValueError("ours"), True, True, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_error_is_tried_again_within_the_step_by_its_own_rule(
    error: Exception, budget: bool, tries: bool, again: bool
) -> None:
    boundary = Boundary(Where(), budget_left=lambda: budget, tries_left=tries, retry_in=3)
    with pytest.raises(Exception) as raised, boundary:
        raise error
    assert type(raised.value) is (dg.RetryRequested if again else dg.Failure)


@pytest.mark.parametrize(
    ("error", "code", "retry"),
    [
        (MemoryError(), "task-memory", "never"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "task-memory", "never"),
        (RuntimeError("zoom factor must be positive"), "unexpected", "never"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "infrastructure", "forever"),
    ],
    ids=str,
)
def test_a_want_of_memory_is_told_from_other_faults(error: Exception, code: str, retry: str) -> None:
    failure = failure_of(error)
    assert (failure.metadata["error"].value, failure.metadata["retry"].value) == (code, retry)


def test_a_budget_that_cannot_be_counted_is_left_to_the_next_run() -> None:
    def away() -> bool:
        raise InfrastructureError("the ledger's database failed")

    with pytest.raises(dg.Failure) as raised, Boundary(Where(), budget_left=away):
        raise EngineError("died")
    assert raised.value.metadata["retry"].value == "from_budget"


def test_a_database_of_dagster_that_is_away_is_lost_infrastructure() -> None:
    gone = OperationalError("INSERT INTO event_logs VALUES (Hong^Gildong)", {}, Exception("server closed"))
    wrapped = RuntimeError("a step of Dagster's")
    wrapped.__cause__ = gone
    for error in (gone, wrapped):
        failure = failure_of(error)
        assert failure.metadata["retry"].value == "forever"
        assert failure.metadata["error"].value == "infrastructure"
        assert "Hong" not in str(failure.description)


@pytest.mark.parametrize(
    ("number", "retry"),
    [
        (errno.ENOSPC, "forever"),
        (errno.ESTALE, "forever"),
        (errno.EIO, "forever"),
        (errno.ENOENT, "never"),
        (errno.EACCES, "never"),
    ],
)
def test_a_disk_in_trouble_is_lost_infrastructure_and_a_missing_file_is_not(number: int, retry: str) -> None:
    failure = failure_of(OSError(number, os.strerror(number), "/data/Hong^Gildong"))
    assert failure.metadata["retry"].value == retry
    assert "Hong" not in str(failure.description)


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
        assert "event_logs" not in str(failure.description)
    assert failure_of(IntegrityError("INSERT", {}, Exception("duplicate"))).allow_retries is False


def test_interrupts_pass_unchanged() -> None:
    with pytest.raises(KeyboardInterrupt), Boundary(Where()):
        raise KeyboardInterrupt
