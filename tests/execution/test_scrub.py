"""Other programs' words without identifiers."""

from __future__ import annotations

import pytest

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
