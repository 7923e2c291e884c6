"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)


def tracked(*patterns: str) -> list[Path]:
    listed = run("git", "ls-files", "--", *patterns)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines()]


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        # Half a minute on a fresh clone, where it remembers nothing.
        pytest.param(("mypy",), marks=[pytest.mark.slow, pytest.mark.gate]),
        ("lint-imports",),
    ],
    ids=["ruff", "format", "mypy", "imports"],
)
def test_checkers_find_nothing(command: tuple[str, ...]) -> None:
    found = run(str(BIN / command[0]), *command[1:])
    assert found.returncode == 0, found.stdout + found.stderr


def test_locks_hold_names_versions_and_hashes_only() -> None:
    for name in (
        "requirements.lock",
        "requirements-dev.lock",
        "requirements-imaging.lock",
        "requirements-worker.lock",
    ):
        text = (ROOT / name).read_text()
        assert "==" in text and "--hash=sha256:" in text
        assert not re.search(r"https?://|file:|--index|--find-links|--trusted-host", text), name


def test_run_time_lock_is_part_of_the_development_lock() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[A-Za-z0-9_.\[\]-]+==[^ ;\\]+", (ROOT / name).read_text(), re.MULTILINE))

    base = pins("requirements.lock")
    assert base <= pins("requirements-dev.lock")
    # What both have is the same version: one environment holds them.
    names = {pin.partition("==")[0] for pin in base}
    assert {pin for pin in pins("requirements-imaging.lock") if pin.partition("==")[0] in names} <= base
    assert pins("requirements-worker.lock") <= base | pins("requirements-imaging.lock")


def test_no_file_has_a_name_that_says_nothing() -> None:
    nothing = re.compile(r"^(utils?|helpers?|common|misc|manager)", re.IGNORECASE)
    assert [path.name for path in tracked("*.py") if nothing.match(path.stem)] == []


def test_no_tracked_file_names_a_registry_or_a_folder_of_one_machine() -> None:
    host = re.compile(
        rb"https?://[^ ]*(?:pypi|pythonhosted|npmjs)\.|/root/[a-z]+/|[^a-z]/work/(?:main|shared|scratch)"
    )
    found = [
        path.relative_to(ROOT).as_posix()
        for path in tracked()
        if path.is_file() and path != Path(__file__) and host.search(path.read_bytes())
    ]
    assert found == []


def test_no_file_of_the_package_is_longer_than_one_subject_needs() -> None:
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for path in tracked("mqi_dagster/*.py")
        if (lines := len(path.read_text().splitlines())) > 600
    }
    assert long == {}


@pytest.mark.parametrize("patch", sorted(ROOT.glob("tests/mutations/*.patch")), ids=lambda path: path.stem)
def test_every_mutation_applies(patch: Path) -> None:
    """A change of the code takes its mutation with it: `make mutate` is run by few."""
    tracked("tests/mutations")
    found = run("git", "apply", "--check", str(patch))
    assert found.returncode == 0, found.stderr


STAND_INS = {
    "tests/waiting.py": "the one way to wait",
    "tests/engines/": "programs that stand in for engines and last as long as they are told",
    "tests/upgrade/make_": "programs for the code of earlier releases, which has no tests/waiting.py",
    "tests/chaos/": "a schedule of disturbances",
    "tests/slurm/test_controller.py": "what the controller has saved by then is what is tested",
    "tests/handover/test_sftp_target.py": "a caller rests between two tries",
}
"""Files that may sleep, and why; a trailing part of a name may be left out."""
CLOCKS = {"monotonic", "perf_counter", "process_time", "thread_time"}
LIVES = re.compile(r"time\.sleep\((?:[6-9]\d|\d{3,})\)")
"""In a child that is there until it is killed."""


def test_no_test_sleeps_and_none_claims_a_time() -> None:
    sleeping, claiming = [], []
    for path in tracked("tests/*.py"):
        name, text = path.relative_to(ROOT).as_posix(), path.read_text()
        allowed = path == Path(__file__) or any(name.startswith(start) for start in STAND_INS)
        for number, line in enumerate(text.splitlines(), start=1):
            if "time.sleep(" in LIVES.sub("", line) and not allowed:
                sleeping.append(f"{name}:{number}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Assert) and name != "tests/waiting.py":
                called = {one.func for one in ast.walk(node.test) if isinstance(one, ast.Call)}
                if any(isinstance(one, ast.Attribute) and one.attr in CLOCKS for one in called):
                    claiming.append(f"{name}:{node.lineno}")
    assert sleeping == [], "wait for an event (tests/waiting.py), or take the sleep as a parameter"
    assert claiming == [], "show the order by events; figures of time belong to benchmarks/"
