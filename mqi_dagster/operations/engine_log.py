"""The engine's log of a beam: what was kept of it, or what it says now, both without identifiers."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

from mqi_dagster.compute.simulated_beam import LOG_NAME
from mqi_dagster.errors import MqiError
from mqi_dagster.execution.scrub import Scrubber
from mqi_dagster.lifecycle.beam import load_beam
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist import BeamStatus

_AT_MOST = 256 * 1024
"""Bytes at the end of a log that are shown."""


def engine_log(instance: dg.DagsterInstance, site: Site, beam: BeamStatus) -> tuple[str, list[str]]:
    """Title and lines of the newest log of a beam's engine."""
    live = site.work / f"{beam.beam}.{beam.run}" / LOG_NAME
    if beam.stage.at_work and live.is_file():
        try:
            scrubber = Scrubber(load_beam(instance, site.store, site.machines, beam.beam).plan.identifiers)
            return "live", _lines(scrubber.bytes(_end_of(live)))
        except (MqiError, OSError):
            # Without the plan nobody knows what must not be shown.
            return "live", ["the log cannot be shown: its case's plan cannot be read"]
    folder = site.engine_logs / beam.beam
    kept = sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime) if folder.is_dir() else []
    if not kept:
        return "none", ["no engine has run for this beam here yet"]
    return f"attempt {kept[-1].stem.rpartition('-')[2]}", _lines(_end_of(kept[-1]))


def _end_of(path: Path) -> bytes:
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _AT_MOST))
        content = stream.read()
    # Of a line that is cut an identifier would not be recognised.
    return content if size <= _AT_MOST else content.partition(b"\n")[2]


def _lines(content: bytes) -> list[str]:
    return [
        "".join(char if char.isprintable() else " " for char in line)
        for line in content.decode(errors="replace").splitlines()
    ] or ["the log is empty"]
