"""What is kept in memory is made once, and is no more than its bound."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mqi_dagster.operations.kept import Kept


def test_a_value_is_made_once_however_many_ask_for_it_at_once() -> None:
    kept, began, goes_on, made = Kept[str](10), threading.Event(), threading.Event(), list[str]()

    def make() -> str:
        made.append("one")
        began.set()
        goes_on.wait()
        return "value"

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(kept.get, "key", make)
        began.wait()
        others = [threads.submit(kept.get, "key", make) for _ in range(3)]
        goes_on.set()
        assert {one.result() for one in (first, *others)} == {"value"}
    assert made == ["one"]


def test_what_was_asked_for_longest_ago_goes_first() -> None:
    kept = Kept[bytes](100, len)
    for key in "ab":
        kept.get(key, lambda: bytes(40))
    kept.get("a", lambda: b"not made again")
    kept.get("c", lambda: bytes(40))
    assert kept.size == 80
    assert kept.get("a", lambda: b"again") == bytes(40)
    assert kept.get("b", lambda: b"again") == b"again"


def test_one_that_is_larger_than_the_bound_is_kept_alone() -> None:
    kept = Kept[bytes](100, len)
    kept.get("small", lambda: bytes(10))
    kept.get("large", lambda: bytes(300))
    assert kept.size == 300
    assert kept.get("large", lambda: b"again") == bytes(300)


def test_what_failed_is_made_again() -> None:
    kept = Kept[str](10)

    def fail() -> str:
        raise ValueError("not now")

    with pytest.raises(ValueError, match="not now"):
        kept.get("key", fail)
    assert kept.get("key", lambda: "value") == "value"
