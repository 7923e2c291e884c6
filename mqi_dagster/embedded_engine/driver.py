"""Runs MCsquare as a fixed number of single-thread parts, so that the same input gives the same bits.

Two threads in one process share a random stream in the order of arrival; single-thread parts with seeds of
their own do not, and their number follows from the request alone, never from the cores of the machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import selectors
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mqi_dagster.embedded_engine.install import Installation
from mqi_dagster.errors import EngineError
from mqi_dagster.tied import tied_command

VECTOR = 16
"""MCsquare starts protons in vectors of this many, so every part's histories are a multiple of it."""

_MOST_HISTORIES_OF_A_PART = 2_500_000
"""Doses are summed in single precision inside a part."""

_SEEDS = 2**31 - 2
_OUTSIDE_MAXIMUM = 0.01
_OUTSIDE_PER_MM = 0.0012
"""Share of protons that interact in each mm of water, whose secondaries leave a range shifter sideways."""

_PERCENT = re.compile(r"^\s*(\d+(?:\.\d+)?) %", re.MULTILINE)
_SIMULATED = re.compile(r"Nbr primaries simulated: (\d+)(?: \((\d+) generated outside the geometry\))?")
_NOT_A_NUMBER = re.compile(r"(?<![A-Za-z])-?nan(?![A-Za-z])")
_COMPLAINT = re.compile(r"^.*\b(?:error|warning)\b.*$", re.IGNORECASE | re.MULTILINE)
_ENVIRONMENT = {
    "MCsquare_Materials_Dir": "Materials",
    "OMP_NUM_THREADS": "1",
    # The vector library picks its code by processor otherwise, and the last bits with it.
    "MKL_CBWR": "COMPATIBLE",
    "LC_ALL": "C",
}
_CONFIG = """\
Num_Threads 1
RNG_Seed {seed}
Num_Primaries {histories}
E_Cut_Pro 0.5
D_Max 0.2
Epsilon_Max 0.25
Te_Min 0.05
CT_File CT.mhd
HU_Density_Conversion_File density.txt
HU_Material_Conversion_File material.txt
BDL_Machine_Parameter_File bdl.txt
BDL_Plan_File plan.txt
Simulate_Nuclear_Interactions True
Simulate_Secondary_Protons True
Simulate_Secondary_Deuterons True
Simulate_Secondary_Alphas True
Compute_stat_uncertainty False
Dose_to_Water_conversion OnlineSPR
Output_Directory {output}
Dose_MHD_Output True
"""


@dataclass(frozen=True, slots=True)
class Shard:
    """One single-thread MCsquare."""

    index: int
    seed: int
    histories: int

    @property
    def output(self) -> str:
        """Name of its output folder; short, because MCsquare keeps paths in 100 characters."""
        return f"out{self.index}"


@dataclass(slots=True)
class _Running:
    part: Shard
    process: subprocess.Popen[bytes]
    text: str = ""
    percents: int = field(default=0)


def plan_parts(histories: int, shards: int, seed: int) -> list[Shard]:
    """Split the histories; depends on nothing but the arguments.

    Args:
        histories: Histories wanted; rounded to whole vectors of 16.
        shards: Parts wanted; more are made where one would exceed 2.5 million histories.
        seed: RandomSeed of the TPS file, any 32-bit integer.
    """
    vectors = max(shards, round(histories / VECTOR))
    count = max(shards, -(-vectors * VECTOR // _MOST_HISTORIES_OF_A_PART))
    each, left = divmod(vectors, count)
    return [Shard(index, part_seed(seed, index), VECTOR * (each + (index < left))) for index in range(count)]


def part_seed(seed: int, index: int) -> int:
    """Seed of a part, positive and below 2^31.

    Hashed, because the streams of consecutive seeds of MCsquare's multiplicative generator differ by a
    sequence that they all share.
    """
    digest = hashlib.sha256(f"{seed}:{index}".encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big") % _SEEDS + 1


def run_parts(
    installation: Installation,
    folder: Path,
    parts: list[Shard],
    at_once: int,
    shifter_mm: float,
    on_progress: Callable[[int, float], None],
) -> None:
    """Run every part, at most ``at_once`` at a time, and check what each says.

    Must be called from the main thread: a part dies with the thread that started it.

    Args:
        installation: The engine.
        folder: Working folder with the inputs; each part writes its own folder of output.
        parts: The parts.
        at_once: Processes at a time.
        shifter_mm: Water-equivalent thickness in the beam before the volume [mm].
        on_progress: Called with a part's index and its percentage.

    Raises:
        EngineError: A part failed, or did not simulate what it was asked for.
    """
    (folder / "Materials").symlink_to(installation.materials, target_is_directory=True)
    waiting = list(reversed(parts))
    running: dict[int, _Running] = {}
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    started = _start(installation, folder, waiting.pop())
                    assert started.process.stdout is not None
                    running[started.part.index] = started
                    selector.register(started.process.stdout, selectors.EVENT_READ, started)
                for key, _ in selector.select():
                    one: _Running = key.data
                    chunk = os.read(key.fd, 65536)
                    if chunk:
                        _follow(one, chunk, on_progress)
                        continue
                    selector.unregister(key.fileobj)
                    code = one.process.wait()
                    del running[one.part.index]
                    _require_success(one, code, _OUTSIDE_MAXIMUM + _OUTSIDE_PER_MM * shifter_mm)
                    on_progress(one.part.index, 100.0)
        finally:
            _end(running)


def _start(installation: Installation, folder: Path, part: Shard) -> _Running:
    (folder / part.output).mkdir()
    config = _CONFIG.format(seed=part.seed, histories=part.histories, output=part.output)
    name = f"config{part.index}.txt"
    (folder / name).write_text(config, encoding="ascii")
    program = str(installation.executable)
    process = subprocess.Popen(
        tied_command(program, program, name),
        cwd=folder,
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return _Running(part, process)


def _follow(one: _Running, chunk: bytes, on_progress: Callable[[int, float], None]) -> None:
    one.text += chunk.decode("ascii", errors="replace")
    # Only whole lines: a number can be cut in two by the pipe.
    percents = _PERCENT.findall(one.text[: one.text.rfind("\n") + 1])
    if len(percents) > one.percents:
        one.percents = len(percents)
        on_progress(one.part.index, float(percents[-1]))


def _require_success(one: _Running, code: int, outside_maximum: float) -> None:
    part = f"part {one.part.index + 1} of the simulation"
    complaint = _COMPLAINT.search(one.text)
    said = f": {complaint[0].strip()[:200]}" if complaint else ""
    if code != 0:
        raise EngineError(f"{part} ended with exit code {code}{said}")
    if complaint:
        raise EngineError(f"{part} complained{said}")
    if _NOT_A_NUMBER.search(one.text):
        raise EngineError(f"{part} reports a value that is not a number")
    found = _SIMULATED.search(one.text)
    if found is None:
        raise EngineError(f"{part} does not say how many protons it simulated")
    simulated, outside = int(found[1]), int(found[2] or 0)
    if outside > outside_maximum * simulated:
        raise EngineError(
            f"{100 * outside / simulated:.1f} % of the protons were generated outside the geometry:"
            " the field lies beside the volume, or the beam model is degenerate"
        )
    if simulated != one.part.histories:
        raise EngineError(f"{part} simulated {simulated} histories instead of {one.part.histories}")


def _end(running: dict[int, _Running]) -> None:
    for one in running.values():
        with contextlib.suppress(ProcessLookupError):
            one.process.kill()
    for one in running.values():
        one.process.wait()
        if one.process.stdout is not None:
            one.process.stdout.close()
