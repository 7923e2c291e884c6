"""Other programs' words without identifiers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqi_dagster.execution.scrub import Scrubber

SCRUBBER = Scrubber(["DOE^Jane Mary", "PID-77", "19700102", "1.2.840.99", "ab", "/data/in box/DOE"])


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("patient doe^jane mary here", "patient [redacted] here"),
        ("Name: DOE, given Jane Mary", "Name: [redacted], given [redacted]"),
        ("id=pid-77x", "id=[redacted]x"),
        ("UID 1.2.840.99.3.4", "UID [redacted].3.4"),
        ("open /home/user/a.dcm failed", "open [redacted] failed"),
        ("'/mnt/x/y z'", "'[redacted] z'"),
        ("/data/in box/DOE/plan.dcm: bad", "[redacted]: bad"),
        ("file:///srv/case/x", "[redacted]"),
        ("ab stays, does too", "ab stays, does too"),
        ("batch 3 / 10, 1/2 and MeV/mm/s", "batch 3 / 10, 1/2 and MeV/mm/s"),
        (
            "Generating particles for (3 of 10 batches) in CPU ..",
            "Generating particles for (3 of 10 batches) in CPU ..",
        ),
    ],
)
def test_identifiers_and_paths_are_replaced_and_nothing_else(said: str, left: str) -> None:
    assert SCRUBBER.text(said) == left


def test_bytes_that_are_no_text_stay() -> None:
    assert SCRUBBER.bytes(b"\xff\xfe PID-77 \x00\xc3") == b"\xff\xfe [redacted] \x00\xc3"


@given(
    st.lists(st.sampled_from([b"PI", b"D-", b"77", b"\n", b"\r", b"x ", b"DOE", b" /a", b"/b"]), max_size=40)
)
def test_a_stream_gives_what_the_whole_would(pieces: list[bytes]) -> None:
    stream = SCRUBBER.stream()
    given_back = b"".join(stream.feed(piece) for piece in pieces) + stream.close()
    whole = b"".join(pieces)
    lines = whole.replace(b"\r", b"\n").split(b"\n")
    assert given_back.replace(b"\r", b"\n") == b"\n".join(SCRUBBER.bytes(line) for line in lines)
    assert b"PID-77" not in given_back


def test_an_identifier_split_over_pieces_is_replaced() -> None:
    stream = SCRUBBER.stream()
    assert stream.feed(b"line 1\nfor PID") == b"line 1\n"
    assert stream.feed(b"-77") == b""
    assert stream.feed(b" ok\rnext") == b"for [redacted] ok\r"
    assert stream.close() == b"next"


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    stream = SCRUBBER.stream()
    out = b"".join(stream.feed(b"PID-77" * 20_000) for _ in range(30))
    assert out == b"[redacted]"
    assert stream.feed(b"PID-77\nok PID-77\n") == b"\nok [redacted]\n"
