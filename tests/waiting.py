"""The one way in which a test waits: for something to be so, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")
_SHORTEST, _LONGEST = 0.005, 1.0


def wait_for(
    condition: Callable[[], Answer], what: str, seconds: float = 120.0, *, report: Callable[[], str] = str
) -> Answer:
    """The first true answer of a condition.

    It rests three times as long as the question took, so that asking costs a quarter of a core at the most.

    Args:
        condition: Asked again and again.
        what: What is waited for, for the message.
        seconds: When a failure is certain: no claim of how long it takes. Far more than a busy machine needs.
        report: What a failed test shows beside that.

    Raises:
        AssertionError: There is none in all that time.
    """
    limit = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if answer := condition():
            return answer
        answered = time.monotonic()
        assert answered < limit, f"waited in vain for: {what}\n{report()}"
        time.sleep(min(max(_SHORTEST, 3 * (answered - asked)), _LONGEST))
