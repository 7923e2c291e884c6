"""The audit takes rows and gives none back: what was changed behind its back is found and named."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import text

from mqi_dagster.errors import InfrastructureError, StoreError
from mqi_dagster.ledger.audit import FIRST, Action, AuditRow, Outcome
from mqi_dagster.ledger.ledger import Ledger
from tests.ledger.ledger_doubles import Clock


def filled(ledger: Ledger, clock: Clock, rows: int = 5) -> list[AuditRow]:
    for number in range(rows):
        ledger.audit.add("anna", "pages", Action.RETRY, f"P{number}", Outcome.DONE, {"runs": str(number)})
        clock.now += timedelta(seconds=1)
    return list(ledger.audit.every())


def unguarded(ledger: Ledger, *statements: str) -> None:
    """What somebody does who owns the database."""
    with ledger.database.write() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE mqi_audit DISABLE TRIGGER ALL"))
        else:
            for change in ("update", "delete"):
                connection.execute(text(f"DROP TRIGGER IF EXISTS mqi_audit_no_{change}"))
        for statement in statements:
            connection.execute(text(statement))


def rehashed(row: AuditRow, **changes: object) -> str:
    """A statement that writes another row in the place of one, with a hash that fits to its own words."""
    values = {name: getattr(row, name) for name in AuditRow.__slots__} | changes
    said, digest = values["actor"], AuditRow(**values).expected_hash()  # type: ignore[arg-type]
    return f"UPDATE mqi_audit SET actor = '{said}', hash = '{digest}' WHERE number = {row.number}"


def renumbered(*pairs: tuple[int, int]) -> list[str]:
    return [f"UPDATE mqi_audit SET number = {after} WHERE number = {now}" for now, after in pairs]


def test_each_row_carries_the_hash_of_the_one_before(ledger: Ledger, clock: Clock) -> None:
    rows = filled(ledger, clock)
    assert [row.number for row in rows] == [1, 2, 3, 4, 5]
    assert [row.previous for row in rows] == [FIRST, *(row.hash for row in rows[:-1])]
    assert len({row.hash for row in rows}) == 5
    newest = ledger.audit.verify()
    assert newest == rows[-1]
    assert ledger.audit.verify(number=3, expected=rows[2].hash) == rows[-1]


@pytest.mark.parametrize(
    "statement",
    ["UPDATE mqi_audit SET actor = 'eve'", "DELETE FROM mqi_audit WHERE number = 2", "TRUNCATE mqi_audit"],
)
def test_the_database_itself_changes_and_removes_no_row(ledger: Ledger, clock: Clock, statement: str) -> None:
    rows = filled(ledger, clock)
    with pytest.raises(InfrastructureError), ledger.database.write() as connection:
        connection.execute(text(statement))
    assert list(ledger.audit.every()) == rows


SET = "UPDATE mqi_audit SET"
CHANGES: dict[str, tuple[list[str], str]] = {
    "a word": ([f"{SET} subject = 'P9' WHERE number = 3"], "row 3 of"),
    "an outcome": ([f"{SET} outcome = 'failed' WHERE number = 2"], "row 2 of"),
    "no action": ([f"{SET} action = 'x' WHERE number = 2"], "row 2 of"),
    "details": ([f"{SET} details = 'x' WHERE number = 4"], "row 4 of"),
    "a row less": (["DELETE FROM mqi_audit WHERE number = 3"], "no row 3"),
    "the first row": (["DELETE FROM mqi_audit WHERE number = 1"], "no row 1"),
    "a row less, renumbered": (
        ["DELETE FROM mqi_audit WHERE number = 3", *renumbered((4, 3), (5, 4))], "row 3 of"
    ),
    "two rows in the other order": (renumbered((2, 9), (3, 2), (9, 3)), "row 2 of"),
}  # fmt: skip
"""What is done, and what is said of it."""


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_behind_its_back_is_named(ledger: Ledger, clock: Clock, name: str) -> None:
    statements, words = CHANGES[name]
    filled(ledger, clock)
    unguarded(ledger, *statements)
    with pytest.raises(StoreError, match=words):
        ledger.audit.verify()


def test_a_row_that_was_written_anew_with_its_hash_does_not_fit_to_the_next(
    ledger: Ledger, clock: Clock
) -> None:
    row = filled(ledger, clock)[1]
    unguarded(ledger, rehashed(row, actor="eve"))
    assert [one.actor for one in ledger.audit.every()][:3] == ["anna", "eve", "anna"]
    with pytest.raises(StoreError, match="row 3 of"):
        ledger.audit.verify()
    written = next(one for one in ledger.audit.every() if one.number == 2)
    unguarded(ledger, f"UPDATE mqi_audit SET previous = '{written.hash}' WHERE number = 3")
    with pytest.raises(StoreError, match="row 3 of"):
        ledger.audit.verify()


def test_a_whole_history_in_the_place_of_another_is_found_by_a_row_that_was_noted(
    ledger: Ledger, clock: Clock
) -> None:
    noted = filled(ledger, clock)[2]
    unguarded(ledger, "DELETE FROM mqi_audit")
    filled(ledger, clock)
    ledger.audit.verify()
    with pytest.raises(StoreError, match="row 3 of the audit is not the one that was noted"):
        ledger.audit.verify(number=noted.number, expected=noted.hash)
    unguarded(ledger, "DELETE FROM mqi_audit WHERE number > 2")
    ledger.audit.verify()
    with pytest.raises(StoreError, match="ends before row 3"):
        ledger.audit.verify(number=noted.number, expected=noted.hash)


def test_rows_written_at_the_same_moment_stand_one_behind_the_other(ledger: Ledger) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: ledger.audit.add(f"a{number}", "pages", Action.RETRY, "P"), range(24)))
    newest = ledger.audit.verify()
    assert newest is not None and newest.number == 24


def test_what_is_typed_into_a_row_is_one_line_that_can_be_printed(ledger: Ledger) -> None:
    details = {"cause": "a\nb\x00\u202e"}
    row = ledger.audit.add(
        "eve\n2026 boss\x1b[2J\u202e", "pages", Action.SIGNED_IN, "x" * 5000, details=details
    )
    assert row.actor == "eve\\n2026 boss\\x1b[2J\\u202e" and len(row.subject) == 251
    assert row.details.isprintable() and json.loads(row.details) == details
    ledger.audit.verify()
