"""A site's command counts by what its programs and arguments are, never by where they lie."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mqi_dagster.lifecycle.digests import _command
from mqi_dagster.settings import SiteCommand


def parts(*argv: str) -> list[str] | None:
    return _command(SiteCommand(argv=argv))


def test_an_argument_counts_as_a_whole() -> None:
    assert parts("python3", "--scale=1/2") != parts("python3", "--scale=3/2")
    assert parts("python3", "1/2") != parts("python3", "3/2")
    assert parts("python3", "{input}/plan") != parts("python3", "{output}/plan")


def test_a_file_counts_by_its_content_also_behind_an_option(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "table.txt").write_text("1 2 3")
    first, second = (str(tmp_path / name / "table.txt") for name in ("a", "b"))
    assert parts("python3", f"--table={first}") == parts("python3", f"--table={second}")
    assert not any(str(tmp_path) in part for part in parts("python3", f"--table={tmp_path}/none") or ())
    before = parts("python3", f"--table={first}")
    Path(first).write_text("1 2 4")
    assert parts("python3", f"--table={first}") != before


def test_a_program_on_the_path_counts_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    program = tmp_path / "site-interpreter"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    before = parts("site-interpreter")
    assert before == parts(str(shutil.copy(program, tmp_path / "elsewhere")))
    program.write_text("#!/bin/sh\nexit 1\n")
    assert parts("site-interpreter") != before
