"""Text from inputs is shown on one line, escaped and of bounded length, wherever it ends up."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from mqi_dagster.errors import InputError, Where, shown
from mqi_dagster.machine import read_machines
from tests.chain.chain import MACHINES, ONE_BEAM, Chain


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        ("GTR1", "GTR1"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\nb\r\tc\0", "a\\nb\\r\\tc\\x00"),
        ("\u202egnp", "\\u202egnp"),
        ("홍길동 é", "홍길동 é"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_cannot_be_printed_is_escaped(told: str, seen: str) -> None:
    assert shown(told) == seen
    error = InputError(
        f"it is {shown(told)}", where=Where(beam=told, kind=told), first_cause=told.strip("\n")
    )
    assert seen in str(error) and "\x1b" not in str(error) and "\u202e" not in str(error)


def test_no_message_is_longer_than_people_read() -> None:
    assert len(shown("x" * 1_000_000)) == 201
    error = InputError("x" * 1_000_000, where=Where(beam="y" * 1_000_000), first_cause="z" * 1_000_000)
    assert len(str(error)) < 10_000


def test_a_machine_name_of_a_plan_is_shown_escaped_and_bounded(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        read_machines(MACHINES).named("\x1b]0;x\x07" + "n" * 100_000)
    assert str(raised.value).isprintable() and len(str(raised.value)) < 1000

    chain = Chain(tmp_path / "site")
    case = chain.deliver(plan=ONE_BEAM)
    (path,) = case.folder.rglob("RP*.dcm")
    plan = pydicom.dcmread(path)
    for beam in plan.IonBeamSequence:
        beam.TreatmentMachineName = "\x1b[2J[red]M"
    plan.save_as(path)
    chain.tick("case_arrivals")
    ((_, _, outcome),) = chain.runs
    assert not outcome.success and "is unknown" in outcome.error
    assert outcome.error.isprintable()
