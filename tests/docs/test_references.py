"""Comments cite sections that exist, and no document that a reader of the repository does not have."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NUMBERED = ("docs/formats.md", "docs/physics.md")
PAGE = re.compile(r"[\w./-]*\b[\w-]+\.md\b")
CITED = re.compile(r"([\w./-]*\b[\w-]+\.md) (\d+(?:(?:, | to | and )\d+)*)\b")
SECTION = re.compile(r"^## (\d+) ", re.MULTILINE)
ELSEWHERE = re.compile(r"\bDESIGN\b|\bbehaviours? \d|\b[Ii]ssues? #?\d")
"""Documents and lists that are kept outside the repository."""
NO_PAGES = ("MetadataValue.md",)
"""Names in code that look like those of a page."""


@cache
def texts() -> dict[str, str]:
    """Every text of the repository but this one, by its place in it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    found = {}
    for name in set(listed.stdout.split("\0")) - {"", "LICENSE"}:
        path = ROOT / name
        if path.is_file() and path != Path(__file__):
            content = path.read_bytes()
            if b"\0" not in content:
                found[name] = content.decode("utf-8", errors="replace")
    return found


def sections_of(page: str) -> list[int]:
    return [int(number) for number in SECTION.findall(texts()[page])]


def cited() -> set[tuple[str, str, int]]:
    """Who cites which page by which number; each number of `1 to 3 and 14` that is written out."""
    return {
        (name, page, int(number))
        for name, text in texts().items()
        for page, numbers in CITED.findall(text)
        for number in re.findall(r"\d+", numbers)
    }


def test_every_section_that_is_cited_exists() -> None:
    found = cited()
    assert len({name for name, _, _ in found}) > 20
    assert {page for _, page, _ in found} == set(NUMBERED)
    assert {one for one in found if one[2] not in sections_of(one[1])} == set()


@pytest.mark.parametrize("page", NUMBERED)
def test_the_sections_of_a_page_that_is_cited_by_number_count_up(page: str) -> None:
    numbers = sections_of(page)
    assert len(numbers) >= 10
    assert numbers == list(range(1, len(numbers) + 1))


def test_no_document_outside_the_repository_is_cited() -> None:
    pages = {name.rpartition("/")[2] for name in texts() if name.endswith(".md")}
    named = {(name, page) for name, text in texts().items() for page in PAGE.findall(text)}
    unknown = {
        (name, page)
        for name, page in named
        if page.rpartition("/")[2] not in pages and not page.endswith(NO_PAGES)
    }
    assert unknown == set()
    lists = {(name, words) for name, text in texts().items() for words in ELSEWHERE.findall(text)}
    assert lists == set()


def test_every_file_that_a_page_names_exists() -> None:
    named = {
        (name, path.rstrip("/"))
        for name, text in texts().items()
        if name.endswith(".md")
        for path in re.findall(r"`((?:mqi_dagster|tests|benchmarks|deploy)/[^`\s]*)`", text)
    }
    assert len(named) > 30
    assert {one for one in named if not (ROOT / one[1]).exists()} == set()
