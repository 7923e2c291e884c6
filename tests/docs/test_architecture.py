"""The map of the house is that of the house: every file, function and arrow on the page is in the code."""

from __future__ import annotations

import configparser
import re

import pytest

from mqi_dagster.settings import Settings
from tests.docs.code_names import PACKAGE, ROOT, is_defined, rooms
from tests.docs.test_docs import settings_names

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPANS = re.findall(r"`([^`\n]+)`", FENCED.sub("", PAGE))


def test_every_file_that_the_page_names_exists() -> None:
    files = [span for span in SPANS if "/" in span or span.endswith((".py", ".yaml"))]
    assert len(files) > 60
    missing = [name for name in files if not any((root / name).exists() for root in (ROOT, PACKAGE))]
    assert sorted(set(missing) - {"config/machines/", "mqi.yaml"}) == []


def test_every_function_and_class_that_the_page_names_exists() -> None:
    dotted = [span for span in SPANS if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", span)]
    named = [name for name in dotted if name.partition(".")[0] in rooms() and not name.endswith(".py")]
    assert len(named) > 80
    schema = Settings.model_json_schema()
    settings = set(settings_names(schema, schema["$defs"]))
    assert sorted({name for name in named if not is_defined(name)} - settings) == []


def test_every_word_of_the_code_that_stands_alone_is_in_the_code() -> None:
    alone = {span for span in SPANS if re.fullmatch(r"[A-Za-z]\w+", span)} - {"mqi"}
    assert {"raw_dose", "mu_per_count"} <= alone
    code = {word for file in PACKAGE.rglob("*.py") for word in re.findall(r"\w+", file.read_text("utf-8"))}
    assert alone - code == set()


def test_a_name_that_is_not_in_the_code_is_noticed() -> None:
    assert is_defined("engine_contract.view.prepare_view") and is_defined("store.store.Store.publish")
    assert not is_defined("engine_contract.view.prepare_nothing")
    assert not is_defined("engine_contract.nowhere.prepare_view")
    assert not is_defined("store.store.Store.forget_all")


@pytest.mark.parametrize(("what", "fewest"), [("beam", 10), ("course", 9)])
def test_the_way_of_a_beam_and_of_a_course_is_numbered_without_a_gap(what: str, fewest: int) -> None:
    way = PAGE.partition(f"## A {what}'s way")[2].partition("\n## ")[0]
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", way, re.MULTILINE)]
    assert len(numbers) >= fewest
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_arrows_are_those_that_are_held() -> None:
    rules = configparser.ConfigParser(interpolation=None)
    rules.read(ROOT / ".importlinter", encoding="utf-8")
    held = [
        re.findall(r"mqi_dagster\.(\w+)", layer)
        for layer in rules["importlinter:contract:layers"]["layers"].strip().splitlines()
    ]
    drawn = FENCED.findall(PAGE.partition("## The arrows")[2])[0]
    lines = [line for line in drawn.splitlines() if "──" not in line]
    assert [sorted(re.findall(r"\w+", line.partition("   ")[0])) for line in lines] == [
        sorted(layer) for layer in held
    ]


def test_every_room_is_on_the_map() -> None:
    table = PAGE.partition("## The rooms")[2].partition("\n## ")[0]
    named = {part.rstrip("/").removesuffix(".py") for part in re.findall(r"`([\w./]+)`", table)}
    there = rooms() - {"__init__", "__pycache__", "config"}
    assert there - {name.partition("/")[0] for name in named} == set()
