"""Where errors leave our code: what Dagster stores of them names no path and no person."""

import os
import traceback
from pathlib import Path
from types import TracebackType

import dagster as dg

from mqi_dagster.errors import InfrastructureError, MqiError, Retry, Where
from mqi_dagster.ledger.place import database_lost

_TRIES = 5
"""A disk or a target that is away for less than three minutes costs nobody a click."""
_FIRST_WAIT_SECONDS = 5.0
_WITHOUT_LIMIT = 1_000_000
"""Whoever asks for a retry counts himself."""

_PACKAGE = Path(__file__).resolve().parents[1]


def _origin(trace: TracebackType | None) -> str:
    frames = [f for f in traceback.extract_tb(trace) if Path(f.filename).is_relative_to(_PACKAGE)]
    if not frames:
        return "unknown place"
    last = frames[-1]
    return f"{Path(last.filename).relative_to(_PACKAGE)}:{last.lineno} in {last.name}"


def safe_text(error: Exception) -> str:
    """What may be stored of an error, whoever raised it: no path and no person.

    A typed error keeps its text. Of any other only the type, the place in our code and an operating-system
    error's own words remain.
    """
    if isinstance(error, MqiError):
        return str(error)
    text = f"{type(error).__name__} at {_origin(error.__traceback__)}"
    if isinstance(error, OSError) and error.errno is not None:
        text += f": {os.strerror(error.errno)}"
    return text


class Boundary:
    """Turns every exception of a step into a `dagster.Failure` that is safe to store.

    A typed error keeps its text, place and retry rule. Of any other exception only the type, the place in
    our code and an operating-system error's own words remain: its text may hold a path or an identifier.
    Interrupts pass unchanged.

    Args:
        where: Case and beam of the step.
        retries_left: Whether the attempt budget allows another automatic try.
        retry_in: Seconds until that try, where the step has no retry policy of its own: with one Dagster
            repeats a step that an operator has cancelled.
    """

    def __init__(self, where: Where, *, retries_left: bool = False, retry_in: float | None = None) -> None:
        self.where = where
        self.retries_left = retries_left
        self.retry_in = retry_in

    def __enter__(self) -> "Boundary":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, dg.Failure):
            return
        if not isinstance(error, MqiError) and database_lost(error):
            error = InfrastructureError(f"Dagster's database failed ({type(error).__name__})")
        if isinstance(error, MqiError):
            failure = self._typed(error.at(self.where))
            if failure.allow_retries and self.retries_left and self.retry_in is not None:
                raise dg.RetryRequested(_WITHOUT_LIMIT, self.retry_in) from failure
            raise failure from None
        raise self._untyped(error) from None

    def _typed(self, error: MqiError) -> dg.Failure:
        again = error.retry is Retry.FOREVER or (error.retry is Retry.FROM_BUDGET and self.retries_left)
        return dg.Failure(
            description=str(error),
            metadata={"error": error.code, "retry": error.retry.value},
            allow_retries=again,
        )

    def _untyped(self, error: Exception) -> dg.Failure:
        return dg.Failure(
            description=f"{self.where}: {safe_text(error)}",
            metadata={"error": "unexpected", "retry": Retry.NEVER.value},
            allow_retries=False,
        )


def tried_again(context: dg.AssetExecutionContext, where: Where) -> Boundary:
    """The boundary of a step that is repeated some times while infrastructure is lost.

    Args:
        context: Of the step.
        where: Case and beam of the step.
    """
    left = context.retry_number < _TRIES
    return Boundary(where, retries_left=left, retry_in=_FIRST_WAIT_SECONDS * 2.0**context.retry_number)
