"""What a clone brings for tools: types for importers, editors, and checkers before a commit."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import yaml

from mqi_dagster import __version__

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]


def test_the_package_says_that_it_is_typed_wherever_it_is_installed() -> None:
    assert (ROOT / "mqi_dagster" / "py.typed").is_file()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["mqi_dagster"]


def test_the_version_is_one_and_the_changelog_tells_of_it() -> None:
    told = re.findall(r"^## (\d+\.\d+\.\d+) - ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert PROJECT["project"]["version"] == __version__
    assert __version__ in told
    compose = (ROOT / "deploy" / "production" / "compose.yaml").read_text(encoding="utf-8")
    assert f"image: mqi-dagster:{__version__}\n" in compose


def test_the_distribution_of_the_worker_holds_what_it_imports_and_no_dagster() -> None:
    project = tomllib.loads((ROOT / "deploy" / "worker" / "pyproject.toml").read_text(encoding="utf-8"))
    graph = grimp.build_graph("mqi_dagster", include_external_packages=True)
    rooms = ("mqi_dagster.worker", "mqi_dagster.embedded_engine", "mqi_dagster.imaging.models")
    needed = {one for room in rooms for one in graph.find_upstream_modules(room, as_package=True)}
    packages = set(project["tool"]["setuptools"]["packages"])
    ours = {one for one in needed if one.split(".")[0] == "mqi_dagster"}
    assert {one if one in packages else one.rpartition(".")[0] for one in ours} <= packages
    extras = project["project"]["optional-dependencies"].values()
    asked = [one for part in (project["project"]["dependencies"], *extras) for one in part]
    names = {re.split(r"[>=<]", one)[0].lower() for one in asked}
    modules = {"yaml": "pyyaml", "pynvml": "nvidia-ml-py", "pydantic_core": "pydantic"}
    outside = {modules.get(one, one.lower()) for one in needed - ours} - set(sys.stdlib_module_names)
    # The last one makes ONNX files of another environment's models.
    assert outside - {"torch"} == names
    assert PROJECT["project"]["requires-python"] == project["project"]["requires-python"]
    assert set(asked) <= {*PROJECT["project"]["dependencies"], *EXTRAS["imaging"]}


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
