"""What runs in a task's own process, with its limit set before the work begins.

One JSON text goes in and one comes out.
"""

from __future__ import annotations

import json
import os
import resource
from importlib import import_module

from mqi_dagster.errors import MqiError
from mqi_dagster.processes.causes import Cause, cause_of_exception
from mqi_dagster.tied import tie_to

NOT_TIED = 1


def run_task(
    parent: int, module: str, name: str, arguments: str, device: str | None, memory_bytes: int | None
) -> str:
    """Call a function by its import path in this process, which the kernel ends with its parent.

    Args:
        parent: Process that waits for the answer.
        module: The function's module.
        name: The function's name in it.
        arguments: Its keyword arguments, a JSON object.
        device: Its argument ``device``; None where it has none.
        memory_bytes: Address space that this process may use (RLIMIT_AS); None for no limit of its own.

    Returns:
        JSON: ``result``, or ``cause`` and ``reason`` of the failure.

    Raises:
        MqiError: The function raised it, and not for want of memory or disk.
    """
    if not tie_to(parent):
        os._exit(NOT_TIED)
    try:
        # Before the limit: the compiler raises anything for want of memory, and not always MemoryError.
        work = getattr(import_module(module), name)
        given = json.loads(arguments) if device is None else {**json.loads(arguments), "device": device}
        if memory_bytes is not None:
            _limit(memory_bytes)
        return json.dumps({"result": work(**given)})
    except (Exception, SystemExit) as error:
        # Whatever it is: what becomes of the task is for the parent to say.
        cause = cause_of_exception(error, limited=memory_bytes is not None)
        if cause is Cause.ERROR and isinstance(error, MqiError):
            raise
        return json.dumps({"cause": cause, "reason": _told(error)})


def _limit(memory_bytes: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _told(error: BaseException) -> str:
    """An exception by its class and place: its text may hold a path or a patient's identifier."""
    if isinstance(error, MqiError):
        return error.message
    words = type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        words = f"{words} ({error.strerror})"
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return words
    return f"{words} in {place.tb_frame.f_globals.get('__name__', 'unknown code')}, line {place.tb_lineno}"
