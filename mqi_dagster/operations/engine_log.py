"""The log of an engine or a model: what was kept of it, or what it says now, both without identifiers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import dagster as dg

from mqi_dagster.compute import segmentation_run
from mqi_dagster.compute.simulated_beam import LOG_NAME
from mqi_dagster.errors import InfrastructureError, InputError, MqiError, Where
from mqi_dagster.execution.scrub import Scrubber
from mqi_dagster.lifecycle.beam import load_beam
from mqi_dagster.operations.logs import Scrub, Tail
from mqi_dagster.operations.retry import partitions_of
from mqi_dagster.partitions import BEAM, CASE, whole_kind
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist import BeamStatus

_AT_MOST = 256 * 1024
"""Bytes at the end of a log that are shown."""


def engine_log(
    instance: dg.DagsterInstance, site: Site, beam: BeamStatus, attempt: int | None = None
) -> tuple[str, list[str]]:
    """Title and lines of a log of a beam's engine.

    Args:
        instance: Dagster's records.
        site: The site.
        beam: Where the beam stands.
        attempt: Id of the attempt in the ledger that it is of; None: the newest log.

    Raises:
        InputError: The beam has no such attempt.
    """
    if attempt is not None:
        known = {one.id: one for one in site.ledger.attempts.history(beam.beam)}
        if attempt not in known:
            raise InputError("the beam has no such attempt")
        log = site.engine_logs / beam.beam / f"{known[attempt].job_key}.log"
        if log.is_file():
            return f"attempt {known[attempt].number}", _lines(_end_of(log))
        if known[attempt].ended_at is not None:
            return f"attempt {known[attempt].number}", ["no log of this attempt is kept here"]
    live = site.work / f"{beam.beam}.{beam.run}" / LOG_NAME
    if beam.stage.at_work and live.is_file():
        try:
            return "live", _lines(_scrubber_of(instance, site, beam.beam).bytes(_end_of(live)))
        except (MqiError, OSError):
            # Without the plan nobody knows what must not be shown.
            return "live", ["the log cannot be shown: its case's plan cannot be read"]
    kept = _newest((site.engine_logs / beam.beam).glob("*.log"))
    if kept is None:
        return "none", ["no engine has run for this beam here yet"]
    return f"attempt {kept.stem.rpartition('-')[2]}", _lines(_end_of(kept))


def partition_tails(instance: dg.DagsterInstance, site: Site, name: str) -> list[Tail]:
    """The logs of a beam's engine, of the models of a course or image set, or of a case's beams.

    Raises:
        InputError: There is no such case, beam or course, or the case has not been taken in.
    """
    found = partitions_of(instance, site, name, None)
    keys = [key for key in found if BEAM.has(key) or whole_kind(key) is not CASE]
    if not keys:
        raise InputError("the case has not been taken in, so that no engine has run", where=Where(case=name))
    return [_partition_tail(instance, site, key) for key in keys]


def _partition_tail(instance: dg.DagsterInstance, site: Site, key: str) -> Tail:
    def live() -> Path | None:
        names = (LOG_NAME, segmentation_run.LOG_NAME)
        return _newest(folder / name for folder in site.work.glob(f"{key}.*") for name in names)

    def scrub(path: Path) -> Scrub:
        if path.is_relative_to(site.engine_logs):
            return bytes
        if not BEAM.has(key):
            return Scrubber().bytes
        try:
            return _scrubber_of(instance, site, key).bytes
        except (MqiError, OSError):
            raise InfrastructureError(
                "the log of an engine cannot be shown: its case's plan cannot be read"
            ) from None

    return Tail("partition", key, live, scrub, _newest((site.engine_logs / key).glob("*.log")))


def _scrubber_of(instance: dg.DagsterInstance, site: Site, beam: str) -> Scrubber:
    return Scrubber(load_beam(instance, site.store, site.machines, beam).plan.identifiers)


def _newest(paths: Iterable[Path]) -> Path | None:
    """The file that was written last; one that goes meanwhile is none."""
    times: dict[Path, float] = {}
    for path in paths:
        with suppress(FileNotFoundError):
            times[path] = path.stat().st_mtime
    return max(times, key=times.__getitem__, default=None)


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
