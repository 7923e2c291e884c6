"""How fast a delivery record becomes the engine's CSV, beside Python's own csv writer, and in what memory.

    python -m benchmarks.interpret [--samples 3000000]

Interprets one layer of three million samples as the platform does it (reading, checking the digest,
calibration, counting, comparing positions, digest and fsync of the CSV), in both dialects, and writes the
same arrays with ``csv.writer(f).writerows(zip(*(a.tolist() for a in columns)))`` in the same run. The values
are parsed back and compared. Memory is measured in a process of its own: its peak minus what it held after
imports. Exit code 1 if a value differs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.delivery.csv_reading import read_samples
from mqi_dagster.delivery.interpretation import interpret_beam
from mqi_dagster.delivery.layer_samples import LayerSamples
from mqi_dagster.delivery.manifest import BeamEntry, InputFile, LayerEntry, RecordPart
from mqi_dagster.delivery.record import record_chunks
from mqi_dagster.machine import Machine, read_machine
from mqi_dagster.plan.model import PlanBeam, PlanLayer, ScanMode
from mqi_dagster.settings import CsvDialect, Interpretation

SPEED_TARGET = 6.0
MEMORY_TARGET_MB = 150.0
ENERGY_MEV = 150.0
MACHINE = Path(__file__).resolve().parents[1] / "mqi_dagster" / "config" / "machines" / "g2.yaml"


def make_record(path: Path, samples: int) -> None:
    """A record with the beam always on, sweeping and noisy, written piece by piece."""
    random = np.random.default_rng(20260105)
    piece = 1 << 16
    with path.open("wb") as stream:
        for start in range(0, samples, piece):
            row = np.arange(start, min(start + piece, samples))
            words = np.zeros((len(row), 8), dtype=">u2")
            words[:, 0] = 24576 + 6000 * np.sin(row / 900.0) + random.normal(0, 25, len(row))
            words[:, 1] = 32768 + 9000 * np.cos(row / 7000.0) + random.normal(0, 25, len(row))
            words[:, 2:4] = (650, 805)
            words[:, 4] = random.integers(4000, 6000, len(row))
            words[:, 5] = words[:, 4] * 0.995
            words[:, 6:8] = (1, 49153)
            stream.write(words.tobytes())


def beam_of(record: Path, samples: int) -> tuple[BeamEntry, PlanBeam]:
    """The manifest's and the plan's view of one layer that is this record."""
    with record.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    file = InputFile(path=record, sha256=digest, size=record.stat().st_size)
    part = RecordPart(delivery=1, range_code=2, rows=samples, record=file, machine_plan=None)
    layer = LayerEntry(number=1, energy_mev=ENERGY_MEV, planned_mu=1.0, delivered_mu=1.0, parts=(part,))
    planned = PlanLayer(1, 0, ENERGY_MEV, 1.0, np.array([[0.0, 64.0], [40.0, 0.0]]), np.array([0.0, 1.0]))
    plan_beam = PlanBeam(
        1, "1S150", "", "G2", 0.0, 0.0, (0.0, 0.0, 0.0), 200.0, 1.0, (), (), None, (planned,), ScanMode.LINE
    )
    return BeamEntry(number=1, name="1S150", complete=True, layers=(layer,)), plan_beam


def interpret(folder: Path, views: tuple[BeamEntry, PlanBeam], dialect: CsvDialect) -> Path:
    """The platform's way; returns the CSV."""
    entry, plan_beam = views
    out = folder / dialect.value
    beam = interpret_beam(
        entry, plan_beam, read_machine(MACHINE), Interpretation.model_validate({}), dialect, out
    )
    file = beam.layers[0].file
    assert file is not None
    return out / file


def arrays_of(entry: BeamEntry, machine: Machine) -> list[NDArray[np.generic]]:
    """The columns that stand in the CSV: time, x, y as float32, count as int64."""
    chunks = list(LayerSamples(entry.layers[0], machine, Interpretation.model_validate({})).chunks())
    positions = np.concatenate([chunk.positions_mm for chunk in chunks])
    return [
        np.concatenate([chunk.time_ms for chunk in chunks]),
        np.ascontiguousarray(positions[:, 0]),
        np.ascontiguousarray(positions[:, 1]),
        np.concatenate([chunk.counts for chunk in chunks]),
    ]


def expected_columns(record: Path, machine: Machine) -> list[NDArray[np.generic]]:
    """The same columns straight from the formula, without the code that is measured."""
    words = np.concatenate(list(record_chunks(record)))
    calibration = machine.record
    return [
        (np.arange(len(words)) * calibration.row_period_ms).astype(np.float32),
        ((words[:, 0].astype(float) - calibration.x_offset) * calibration.x_gain_mm).astype(np.float32),
        ((words[:, 1].astype(float) - calibration.y_offset) * calibration.y_gain_mm).astype(np.float32),
        words[:, 4].astype(np.int64),
    ]


def same_values(csv_path: Path, dialect: CsvDialect, columns: list[NDArray[np.generic]]) -> bool:
    """Whether the file parses back to exactly these columns."""
    start = 0
    for frame in read_samples(csv_path, dialect):
        stop = start + len(frame)
        for name, column in zip(frame.columns, columns, strict=True):
            if not np.array_equal(frame[name].to_numpy().astype(column.dtype), column[start:stop]):
                return False
        start = stop
    return start == len(columns[0])


def peak_memory_mb(folder: Path, samples: int, dialect: CsvDialect) -> float:
    """Peak of a fresh process that interprets the record, minus what it held after imports."""
    done = subprocess.run(
        [
            sys.executable, __file__, "--memory-of", str(folder),
            "--samples", str(samples), "--dialect", dialect.value,
        ],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(json.loads(done.stdout)["megabytes"])


def _report_own_memory(folder: Path, samples: int, dialect: CsvDialect) -> None:
    after_imports = _resident_mb()
    interpret(folder, beam_of(folder / "layer.ptn", samples), dialect)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"megabytes": peak - after_imports}))


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024 / 1024


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=3_000_000)
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dialect", type=CsvDialect, default=CsvDialect.ROWS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        _report_own_memory(arguments.memory_of, arguments.samples, arguments.dialect)
        return 0
    samples = arguments.samples
    with tempfile.TemporaryDirectory(prefix="mqi-interpret-") as temporary:
        folder = Path(temporary)
        make_record(folder / "layer.ptn", samples)
        machine = read_machine(MACHINE)
        memory = {dialect: peak_memory_mb(folder, samples, dialect) for dialect in CsvDialect}
        views = beam_of(folder / "layer.ptn", samples)
        seconds: dict[str, float] = {}
        files: dict[CsvDialect, Path] = {}
        for dialect in CsvDialect:
            start = time.perf_counter()
            files[dialect] = interpret(folder, views, dialect)
            seconds[dialect.value] = time.perf_counter() - start
        columns = arrays_of(views[0], machine)
        start = time.perf_counter()
        with (folder / "plain.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(zip(*(column.tolist() for column in columns), strict=True))
        plain = time.perf_counter() - start
        expected = expected_columns(folder / "layer.ptn", machine)
        equal = {
            "csv.writer": same_values(folder / "plain.csv", CsvDialect.ROWS, expected),
            **{dialect.value: same_values(files[dialect], dialect, expected) for dialect in CsvDialect},
        }
    print(f"{samples} samples, one layer")
    print(f"{'way':<12}{'seconds':>9}{'samples/s':>13}{'times':>8}{'peak MB':>9}  values")
    same = _equal(equal["csv.writer"])
    print(f"{'csv.writer':<12}{plain:>9.2f}{samples / plain:>13.0f}{1:>8.1f}{'':>9}  {same}")
    for dialect in CsvDialect:
        took = seconds[dialect.value]
        print(
            f"{dialect.value:<12}{took:>9.2f}{samples / took:>13.0f}{plain / took:>8.1f}"
            f"{memory[dialect]:>9.1f}  {_equal(equal[dialect.value])}"
        )
    slowest = min(plain / took for took in seconds.values())
    largest = max(memory.values())
    print(f"at least {SPEED_TARGET:g} times csv.writer: {_met(slowest >= SPEED_TARGET)} ({slowest:.1f})")
    print(f"peak below {MEMORY_TARGET_MB:g} MB: {_met(largest < MEMORY_TARGET_MB)} ({largest:.1f})")
    return 0 if all(equal.values()) else 1


def _equal(same: bool) -> str:
    return "equal" if same else "DIFFERENT"


def _met(met: bool) -> str:
    return "met" if met else "NOT MET"


if __name__ == "__main__":
    sys.exit(main())
