"""Stands in for the function that computes a region: the same, but some structures end it in a bad way."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

VARIABLE = "MQI_TEST_RADIOMICS_FAULTS"


def plan(
    monkeypatch: pytest.MonkeyPatch, folder: Path, faults: dict[str, str], *, once: bool = False
) -> None:
    """What becomes of structures by their ids; every try leaves a file in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"folder": str(folder), "faults": faults, "once": once}
    monkeypatch.setenv(VARIABLE, json.dumps(told))
    monkeypatch.setattr("mqi_dagster.imaging.course_radiomics.run_region", run_region)


def tries(folder: Path) -> dict[str, int]:
    """How often each structure was begun."""
    return {one.name: len(list(one.iterdir())) for one in folder.iterdir()}


def pids(folder: Path) -> list[int]:
    """Processes that have begun a structure."""
    return [int(one.name) for one in folder.glob("*/*")]


def run_region(folder: str) -> None:
    told = json.loads(os.environ[VARIABLE])
    structure = Path(folder).name
    begun = Path(told["folder"], structure)
    begun.mkdir(exist_ok=True)
    first = not any(begun.iterdir())
    (begun / str(os.getpid())).touch()
    if first or not told["once"]:
        _end(*told["faults"].get(structure, "").split(": ", 1))
    from mqi_dagster.imaging.radiomics_task import run_region as real

    real(folder)


def _end(kind: str, text: str = "") -> None:
    match kind:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit 137":
            os._exit(137)
        case "memory":
            raise MemoryError
        case "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                signal.pause()
        case "disk":
            Path("/dev/full").write_bytes(bytes(10))
        case "value":
            raise ValueError(text)
