"""What a clone brings for tools: types for importers, editors, and checkers before a commit."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from mqi_dagster import __version__

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_package_says_that_it_is_typed_wherever_it_is_installed() -> None:
    assert (ROOT / "mqi_dagster" / "py.typed").is_file()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["mqi_dagster"]


def test_the_version_is_one_and_the_changelog_tells_of_it() -> None:
    told = re.findall(r"^## (\d+\.\d+\.\d+) - ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert PROJECT["project"]["version"] == __version__
    assert __version__ in told
    compose = (ROOT / "deploy" / "production" / "compose.yaml").read_text(encoding="utf-8")
    assert f"image: mqi-dagster:{__version__}\n" in compose


def test_the_hooks_fetch_nothing_and_are_the_checkers_of_make_lint() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [one["repo"] for one in repositories] == ["local"]
    hooks = repositories[0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("lint: install-dev\n")[2]
    wanted = re.findall(r"^\t@\$\(BIN\)/(.+)$", recipe.partition("\n\n")[0], re.MULTILINE)
    assert sorted(hook["entry"].removeprefix(".venv/bin/") for hook in hooks) == sorted(
        words.removesuffix(" .") for words in wanted
    )


def test_every_hook_starts() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0][
        "hooks"
    ]
    for hook in hooks:
        program = Path(sys.executable).parent / Path(hook["entry"].split()[0]).name
        assert subprocess.run([program, "--help"], capture_output=True, check=False).returncode == 0, hook[
            "id"
        ]
