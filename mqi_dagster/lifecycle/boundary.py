"""Where errors leave our code: what Dagster stores of them names no path and no person."""

import errno
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import dagster as dg

from mqi_dagster.backoff import Backoff
from mqi_dagster.errors import InfrastructureError, InputError, InputsAwayError, MqiError, Retry, Where
from mqi_dagster.ledger.location import database_lost
from mqi_dagster.processes.causes import Cause, cause_of_exception
from mqi_dagster.processes.errors import TaskMemoryError

_TRIES = 2
"""Within the step, of what is away for a moment; what is away for longer must not hold a worker."""
_FIRST_WAIT_SECONDS = 3.0
_AWAY = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS, errno.ENOTCONN, errno.ETIMEDOUT),
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN),
    }
)
"""What the operating system says where a disk, a share, a network or the machine itself is in trouble."""
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES})
"""Of a file alone these are its own fault; of a whole share they are not."""
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


def lost_infrastructure(error: BaseException) -> str | None:
    """What is away, in words that may be stored, where an untyped error or a cause of it says so.

    Dagster's own database is one such thing: it fails in the middle of any step that writes an event.
    """
    if database_lost(error):
        return f"Dagster's database failed ({type(error).__name__})"
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _AWAY:
            return os.strerror(seen.errno)
        seen = seen.__cause__ or seen.__context__
    return None


def is_passing(error: BaseException) -> bool:
    """Whether an exception says that infrastructure is away, so that the same may work later."""
    if isinstance(error, MqiError):
        return error.retry is Retry.FOREVER
    return lost_infrastructure(error) is not None


def blames_input(error: BaseException) -> bool:
    """Whether an exception says that an input is wrong or is not there."""
    if isinstance(error, MqiError):
        return isinstance(error, InputError)
    return isinstance(error, OSError) and error.errno in _NOT_THERE


class Boundary:
    """Turns every exception of a step into a `dagster.Failure` that is safe to store.

    A typed error keeps its text, place and retry rule. Of any other exception only the type, the place in
    our code and an operating-system error's own words remain: its text may hold a path or an identifier.
    Interrupts pass unchanged.

    Args:
        where: Case and beam of the step.
        budget_left: Whether the attempt budget allows another start of the engine.
        inputs_away: Why no input of the case can be read now, empty where they are there. Asked where an
            input is to blame: with all of them away none is.
        tries_left: Whether what is away is tried again within the step.
        retry_in: Seconds until that try. No retry policy of the step does it: with one Dagster repeats a
            step that an operator has cancelled.
    """

    def __init__(
        self,
        where: Where,
        *,
        budget_left: Callable[[], bool] = lambda: False,
        inputs_away: Callable[[], str] = str,
        tries_left: bool = False,
        retry_in: float = 0.0,
    ) -> None:
        self.where = where
        self._budget_left = budget_left
        self._inputs_away = inputs_away
        self._tries_left = tries_left
        self._retry_in = retry_in

    def __enter__(self) -> "Boundary":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, dg.Failure):
            return
        if blames_input(error) and (why := self._why_away()):
            error = InputsAwayError(why)
        elif isinstance(error, InputError) and lost_infrastructure(error):
            # A share that stutters at one file says nothing of the file.
            error = InfrastructureError(error.message, where=error.where, first_cause=error.first_cause)
        if not isinstance(error, MqiError):
            if away := lost_infrastructure(error):
                error = InfrastructureError(away)
            elif cause_of_exception(error) in (Cause.MEMORY, Cause.GPU_MEMORY):
                error = TaskMemoryError(f"the memory did not suffice: {safe_text(error)}")
            else:
                raise self._untyped(error) from None
        failure = self._typed(error.at(self.where))
        if self._again_now(error):
            raise dg.RetryRequested(_WITHOUT_LIMIT, self._retry_in) from failure
        raise failure from None

    def _why_away(self) -> str:
        try:
            return self._inputs_away()
        except Exception as error:  # noqa: BLE001 - what cannot be asked leaves the first error as it is
            if is_passing(error):
                return f"whether the inputs are there cannot be asked: {safe_text(error)}"
            return ""

    def _again_now(self, error: MqiError) -> bool:
        if error.retry is Retry.FOREVER:
            # A share is mounted by a person, not within seconds.
            return self._tries_left and not isinstance(error, InputsAwayError)
        if error.retry is Retry.NEVER:
            return False
        try:
            return self._budget_left()
        except InfrastructureError:
            # Who cannot count what is used up lets the next run do it.
            return False

    def _typed(self, error: MqiError) -> dg.Failure:
        return dg.Failure(
            description=str(error),
            metadata={"error": error.code, "retry": error.retry.value},
            allow_retries=False,
        )

    def _untyped(self, error: Exception) -> dg.Failure:
        return dg.Failure(
            description=f"{self.where}: {safe_text(error)}",
            metadata={"error": "unexpected", "retry": Retry.NEVER.value},
            allow_retries=False,
        )


def tried_again(
    context: dg.AssetExecutionContext, where: Where, inputs_away: Callable[[], str] = str
) -> Boundary:
    """The boundary of a step that is repeated at once where infrastructure is away for a moment.

    What is away for longer ends the run: `run_outcomes` has it executed again later.

    Args:
        context: Of the step.
        where: Case and beam of the step.
        inputs_away: See `Boundary`.
    """
    wait = Backoff(_FIRST_WAIT_SECONDS).seconds(context.retry_number + 1)
    return Boundary(where, inputs_away=inputs_away, tries_left=context.retry_number < _TRIES, retry_in=wait)
