"""A YAML file of the site costs no more than a settings file may, whatever stands in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.machine import read_machine
from mqi_dagster.operations.instance import write_instance
from mqi_dagster.settings import parse_settings, read_settings

MACHINES = Path(__file__).parents[2] / "mqi_dagster" / "config" / "machines"

LAUGHS = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
MERGES = "b0: &b0 {k: v}\n" + "".join(
    f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 10)}]}}\n" for n in range(1, 10)
)
READERS: dict[str, Callable[[Path], object]] = {"settings file": read_settings, "machine file": read_machine}


@pytest.mark.parametrize("role", READERS)
@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (LAUGHS, "has more than 200,000 values once its aliases are written out"),
        (MERGES, "has more than 200,000 values once its aliases are written out"),
        ("a: &a [*a]\n", "has an alias that contains itself"),
        ("a: " + "[" * 60 + "]" * 60, "is nested more than 50 deep"),
        ("a: " + "[" * 5000, "is nested more than 50 deep"),
        ("a: " + "[" * 499_000, "is nested more than 50 deep"),
        ("- " * 240_000, "is nested more than 50 deep"),
        ("a: 2026-13-45\n", "is not YAML: ValueError"),
        ("a: " + "9" * 5000, "is not YAML: ValueError"),
        ("#" * 500_001, "is larger than 500,000 bytes"),
        ("a: !!python/object/apply:os.system [ls]\n", "is not YAML: could not determine a constructor"),
    ],
    ids=[
        "aliases",
        "merges",
        "cycle",
        "deep",
        "very deep",
        "deepest",
        "deepest block",
        "no day",
        "many digits",
        "large",
        "python",
    ],
)
def test_what_would_not_end_is_refused_at_once(tmp_path: Path, role: str, content: str, fault: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError) as refused:
        READERS[role](path)
    assert str(refused.value).startswith(f"{role} file.yaml {fault}")


def test_a_file_without_end_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "mqi.yaml"
    with path.open("wb") as stream:
        stream.truncate(10_000_000_000)
    with pytest.raises(ConfigurationError, match=r"^settings file mqi.yaml is larger than 500,000 bytes$"):
        read_settings(path)


@pytest.mark.parametrize(
    ("content", "size", "fault"),
    [
        (LAUGHS, None, "has more than 200,000 values once its aliases are written out"),
        ("", 10_000_000_000, "is larger than 500,000 bytes"),
        ("a: [", None, "is not YAML: while parsing"),
        ("- a\n", None, "is not a mapping"),
    ],
    ids=["aliases", "without end", "cut", "list"],
)
def test_the_file_of_dagster_s_instance_is_read_no_less_carefully(
    tmp_path: Path, content: str, size: int | None, fault: str
) -> None:
    settings = parse_settings({"site": {"timezone": "Asia/Seoul"}}, tmp_path)
    settings.paths.dagster_home.mkdir()
    path = settings.paths.dagster_home / "dagster.yaml"
    path.write_text(content)
    if size is not None:
        os.truncate(path, size)
    with pytest.raises(ConfigurationError, match=f"^dagster.yaml of the site {fault}"):
        write_instance(settings)


def test_an_alias_as_people_use_it_is_read(tmp_path: Path) -> None:
    machine = next(MACHINES.glob("*.yaml"))
    copy = tmp_path / machine.name
    shutil.copyfile(machine, copy)
    assert read_machine(copy) == read_machine(machine)
    settings = tmp_path / "mqi.yaml"
    settings.write_text("site: {name: &name Seoul, timezone: Asia/Seoul}\nui: &ui {port: 3005}\n")
    assert read_settings(settings).ui.port == 3005
