"""Makes docs/images/top.svg: ``mqi top`` on a busy day. Run it as ``python -m tests.worklist.picture``."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from mqi_dagster.cli.top_screen import Screen, View
from mqi_dagster.lifecycle.case_status import NO_RUN_YET
from mqi_dagster.worklist import (
    AlarmStatus,
    BeamStatus,
    CaseState,
    CaseStatus,
    GpuStatus,
    QueueStatus,
    Stage,
    Work,
)

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "top.svg"
NOW = datetime(2026, 3, 4, 8, 42, 7, tzinfo=UTC)
WIDTH, HEIGHT = 124, 28
CASES = ("P7KQ2M4XAD", "PB3ZT6WQ1H", "P0V9RNYC5E", "PD8JS2LF7G", "PX4M1KTA9B", "PQ6H3ZPW0C")
FULL = "the pool is full: 6 of 6"


def beam(case: int, number: int, stage: Stage, minutes: float = 0.0, **more: object) -> BeamStatus:
    """A beam of one of the cases, at a stage for so many minutes."""
    key = f"{CASES[case]}.fx0001"
    states = {Stage.FAILED: CaseState.FAILED, Stage.WAITING: CaseState.WAITING}
    row = BeamStatus(
        beam=f"{key}__b{number:02d}",
        case=key,
        number=number,
        state=states.get(stage, CaseState.IN_WORK),
        stage=stage,
        elapsed_seconds=minutes * 60 if minutes else None,
        since=NOW - timedelta(minutes=minutes),
    )
    return row.model_copy(update=more)


def simulating(case: int, number: int, minutes: float, batch: int, gpu: int) -> BeamStatus:
    """A beam in simulation, 20 batches in all."""
    percent = 5.0 * (batch - 1)
    left = minutes * 60 / percent * (100 - percent)
    progress = {"percent": percent, "batch": batch, "batches": 20, "remaining_seconds": left}
    return beam(case, number, Stage.SIMULATING, minutes, **progress, slot=f"gpu-node/gpu{gpu}", attempt=1)


def case_of(key: str) -> CaseStatus:
    """A case whose beams are at work."""
    return CaseStatus(case=key, fraction=1, arrived=NOW, state=CaseState.IN_WORK, stage=Stage.BEAMS)


def work() -> Work:
    """What was read."""
    beams = [
        simulating(0, 2, 11.4, 17, 0),
        simulating(0, 3, 9.2, 14, 1),
        simulating(0, 4, 4.1, 7, 2),
        beam(1, 2, Stage.VERIFYING, 13.2, percent=100.0, slot="gpu-node/gpu3", attempt=2),
        beam(1, 3, Stage.MAKING_RT_DOSE, 14.0, percent=100.0),
        beam(1, 4, Stage.INTERPRETING, 0.3),
        *(beam(2, n, Stage.QUEUED, reason=f"{FULL}; 1 of higher priority go first") for n in (2, 3, 4)),
        *(beam(3, n, Stage.QUEUED, reason=f"{FULL}; 1 of higher priority go first") for n in (2, 3)),
        beam(4, 2, Stage.FAILED, 3.0, reason="engine: the GPU has no memory left", attempt=3),
        *(beam(4, n, Stage.WAITING, reason=NO_RUN_YET) for n in (3, 4)),
        *(beam(5, n, Stage.WAITING, reason=NO_RUN_YET) for n in (2, 3, 4)),
    ]
    used = ((9120, 97.0, 71.0), (8870, 95.0, 69.0), (9240, 98.0, 73.0), (1150, 3.0, 52.0))
    gpus = [
        GpuStatus(
            host="gpu-node",
            kind="gpu",
            index=index,
            uuid=f"GPU-{index}",
            name="NVIDIA RTX A5000",
            slot=True,
            in_service=True,
            owner=beams[index].beam,
            leased_at=NOW - timedelta(seconds=beams[index].elapsed_seconds or 0.0),
            heartbeat_at=NOW,
            memory_mb=24564,
            used_mb=memory,
            utilisation_percent=utilisation,
            temperature_c=temperature,
            seen_at=NOW,
        )
        for index, (memory, utilisation, temperature) in enumerate(used)
    ]
    failed = next(row for row in beams if row.stage is Stage.FAILED)
    return Work(
        at=NOW,
        daemon_seen=NOW,
        daemon_alive=True,
        cases=[case_of(key) for key in dict.fromkeys(row.case for row in beams)],
        beams=beams,
        concluded_cases=41,
        gpus=gpus,
        queue=QueueStatus(
            queued=5,
            in_work=6,
            max_runs=10,
            pool_in_use=6,
            pool_limit=6,
            waiting_beams=5,
            waiting_cases=2,
            inbox=1,
            reasons={FULL: 5},
        ),
        alarms=[AlarmStatus(kind="beam_failed", subject=failed.beam, text=failed.reason, since=failed.since)],
    )


def picture() -> str:
    """The screen as SVG."""
    console = Console(
        record=True,
        width=WIDTH,
        height=HEIGHT,
        file=io.StringIO(),
        color_system="truecolor",
        legacy_windows=False,
    )
    screen = Screen(work(), View(position=0), "MQI site", None, NOW)
    for line in screen.lines(WIDTH, HEIGHT):
        line.truncate(WIDTH, overflow="ellipsis")
        console.print(line)
    # A picture fetches nothing: without the fonts of a server, those of the reader do.
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return console.export_svg(title="mqi top", unique_id="mqi-top", code_format=form)


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
