"""What the guide says of assets, checks, alarms and statuses is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mqi_dagster.cli.code_reference import TABLES, written
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.operations.settings_text import settings_reference
from mqi_dagster.people.rights import RIGHTS
from tests.cli.mqi_command import mqi

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.mark.parametrize("name", list(TABLES))
def test_the_tables_of_a_page_are_those_of_the_code(name: str) -> None:
    page = DOCS / name
    assert written(page) == page.read_text(encoding="utf-8"), "run `make docs`"


def test_every_asset_and_check_stands_in_the_guide() -> None:
    text = (DOCS / "checks.md").read_text(encoding="utf-8").partition("## Integrity")[0]
    named = re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE)
    assert named[:7] == [
        "case_manifest", "interpreted_csvs", "tps_file", "raw_dose", "rt_dose", "handed_over",
        "case_handed_over",
    ]  # fmt: skip
    assert {"integrity", "counts", "engine_output", "uncertainty", "readback"} <= set(named[7:])


def test_the_settings_reference_is_that_of_the_types() -> None:
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == settings_reference(), "run `make docs`"


def test_the_alarms_of_the_guide_are_those_of_the_code() -> None:
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    section = text.partition("| alarm |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z_]+)`", section, re.MULTILINE)) == {kind.value for kind in AlarmKind}


def test_the_rights_of_each_role_are_those_of_the_code() -> None:
    table = (
        (DOCS / "administration.md")
        .read_text(encoding="utf-8")
        .partition("| right |")[2]
        .partition("\n\n")[0]
    )
    roles = [cell.strip() for cell in table.splitlines()[0].strip("|").split("|")]
    given: dict[str, set[str]] = {role: set() for role in roles}
    for line in table.splitlines()[2:]:
        right, *cells = line.strip("|").split("|")
        for role, cell in zip(roles, cells, strict=True):
            given[role] |= {right.strip()[1:].partition("`")[0]} if cell.strip() else set()
    assert given == {role.value: {right.value for right in rights} for role, rights in RIGHTS.items()}


def test_every_page_that_is_named_exists() -> None:
    pages = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))]
    there = {page.name for page in pages}
    named = {
        (page.name, name)
        for page in pages
        for name in re.findall(r"\b[\w.-]+\.md\b", page.read_text(encoding="utf-8"))
    }
    assert {pair for pair in named if pair[1] not in there} == set()


def test_the_status_of_a_command_is_as_the_guide_says(tmp_path: Path) -> None:
    assert mqi("settings-reference").returncode == 0
    assert mqi("validate", tmp_path).returncode == 1
    assert mqi("validate", "--no-such-option").returncode == 2
