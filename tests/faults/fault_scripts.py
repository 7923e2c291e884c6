"""Runs the scripts that make inputs which have failed, where the folder with real cases is present."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def made(shared: Path, script: str, target: Path, *arguments: str) -> Path:
    """The only case folder that a script writes below ``target``."""
    program = shared / "cases" / "faults" / f"{script}.py"
    if not program.is_file():
        pytest.skip(f"{script} is not here")
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-X", "utf8", str(program), str(target), *arguments], check=True, capture_output=True
    )
    (folder,) = [path for path in target.iterdir() if path.is_dir()]
    return folder
