"""Values that cost something to make, kept in memory up to a bound."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """The values that were asked for last, each made once however many ask for it at once.

    Args:
        most: Sum of their sizes that is not exceeded, but for a single one that is larger.
        size: Size of a value; 1 where None.
    """

    def __init__(self, most: int, size: Callable[[Value], int] | None = None) -> None:
        self._most, self._size = most, size or (lambda value: 1)
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, Future[Value]] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}

    @property
    def size(self) -> int:
        """Sum of the sizes of all values."""
        return sum(self._sizes.values())

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key; what making it raises is raised, and nothing is kept."""
        with self._lock:
            found = self._values.get(key)
            if found is not None:
                self._values.move_to_end(key)
            else:
                mine = self._values[key] = Future()
        if found is not None:
            return found.result()
        try:
            value = make()
        except BaseException as error:
            with self._lock:
                self._values.pop(key, None)
            mine.set_exception(error)
            raise
        mine.set_result(value)
        with self._lock:
            self._sizes[key] = self._size(value)
            for oldest in [one for one in self._values if one in self._sizes and one != key]:
                if self.size <= self._most:
                    break
                del self._sizes[oldest], self._values[oldest]
        return value
