"""What an engine's log says while it runs: progress and failures, never success."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from mqi_dagster.errors import EngineError, EngineInputError, InfrastructureError, MqiError, Where
from mqi_dagster.settings import EngineProfile

_HIGHEST = 0.99
"""A log is never more than this: only the checked output makes a beam done."""

_LONGEST_LINE = 65_536
"""Bytes kept of a line that does not end."""

_UPLOADING = re.compile(r"Uploading particles with (?:no batch|batch)\.\. : Particle count --> \d+")
_BATCHES = re.compile(r"Particle count --> \d+ with (\d+) batch(?:es)?")
_GENERATING = re.compile(r"Generating particles for \((\d+) of (\d+) batches\)")
_TRANSPORTED = re.compile(r"Particle transportation complete!")
_HISTORIES = re.compile(r"Total histories \(Particles\) : (\d+)")
_UNCERTAINTY = re.compile(r"Uncertainty \(mean above half maximum\) : ([0-9.eE+-]+) %")
_FINALIZING = re.compile(r"Siml?ulation finalizing|Time taken by MC engine: [0-9.eE+-]+ milli-seconds")
"""moqui's own spelling has a letter too many."""


class Phase(StrEnum):
    """Where an engine is."""

    STARTING = "starting"
    GENERATING = "generating"
    TRANSPORTED = "transported"
    FINALIZING = "finalizing"


class FailureKind(StrEnum):
    """What a failure text says about another try."""

    INPUT = "input"
    """The same input fails again."""
    GPU_MEMORY = "gpu-memory"
    """The GPU was full; another try may find room."""
    GPU_LOST = "gpu-lost"
    """The GPU or its driver cannot be reached."""
    ENGINE = "engine"
    """The engine broke."""


_FAILURES: tuple[tuple[re.Pattern[str], FailureKind, str], ...] = (
    (
        re.compile(r"(Log Dir|DICOM Dir|ParentDir|OutputDir|Mask filename) is (not provided|missing)"),
        FailureKind.INPUT,
        "an input folder of the engine is missing",
    ),
    (
        re.compile(r"cudaErrorMemoryAllocation|(CUDA|cuda|GPU|device).*out of memory|^out of memory"),
        FailureKind.GPU_MEMORY,
        "the GPU has no memory left",
    ),
    (
        re.compile(
            r"no CUDA-capable device|CUDA-capable device\(s\) is/are busy|CUDA driver version is insufficient"
            r"|cudaErrorNoDevice|cudaErrorDevicesUnavailable|cudaErrorInsufficientDriver"
            r"|invalid device ordinal|uncorrectable ECC error|fallen off the bus"
        ),
        FailureKind.GPU_LOST,
        "the GPU cannot be reached",
    ),
    (
        re.compile(r"CUDA error|cudaError|illegal memory access|unspecified launch failure"),
        FailureKind.ENGINE,
        "the engine failed on the GPU",
    ),
    (
        re.compile(r"terminate called|Assertion .* failed|Segmentation fault|std::bad_alloc"),
        FailureKind.ENGINE,
        "the engine crashed",
    ),
    (re.compile(r"^mqi-engine: "), FailureKind.ENGINE, "the embedded engine reported an error"),
)

_EXIT_INPUT = 2
"""Exit code of the embedded engine for input it refuses."""


@dataclass(frozen=True, slots=True)
class EngineProgress:
    """One step of an engine; ``fraction`` never falls and never reaches 1.

    Batch i of n drives it: (i - 1)/n when its protons are generated, i/n when they are transported. moqui
    says "Particle transportation complete!" after every batch, so that line is no sign of the end.
    """

    phase: Phase
    fraction: float
    batch: int | None
    batches: int | None


@dataclass(frozen=True, slots=True)
class Failure:
    """The first failure that the log shows."""

    kind: FailureKind
    meaning: str
    line: str
    """As the engine printed it; may hold paths and names, so it is scrubbed before anyone sees it."""


class ProgressParser:
    """Reads an engine's log in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""
        self._phase = Phase.STARTING
        self._fraction = 0.0
        self._batch: int | None = None
        self._batches: int | None = None
        self.histories: int | None = None
        """``Total histories (Particles)``."""
        self.uncertainty_percent: float | None = None
        """Mean statistical uncertainty above half of the maximum dose."""
        self.failure: Failure | None = None

    @property
    def current(self) -> EngineProgress:
        """The progress so far."""
        return EngineProgress(self._phase, self._fraction, self._batch, self._batches)

    def feed(self, data: bytes) -> list[EngineProgress]:
        """Read on; returns one event for every step that the new whole lines show."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_LONGEST_LINE:]
        return self._read(lines)

    def close(self) -> list[EngineProgress]:
        """Read what is left after the engine has ended, also without a line end."""
        rest, self._rest = self._rest, b""
        return self._read([rest]) if rest else []

    def _read(self, lines: list[bytes]) -> list[EngineProgress]:
        events = []
        for raw in lines:
            line = raw.decode("utf-8", errors="replace").strip()
            before = self.current
            self._line(line)
            if self.current != before:
                events.append(self.current)
        return events

    def _advance(self, phase: Phase, fraction: float) -> None:
        self._phase = phase
        self._fraction = max(self._fraction, min(fraction, _HIGHEST))

    def _line(self, line: str) -> None:
        self._note_failure(line)
        if _UPLOADING.search(line):
            found = _BATCHES.search(line)
            self._batches = int(found[1]) if found else 1
            self._advance(Phase.GENERATING, 0.0)
        elif found := _GENERATING.search(line):
            batch, batches = int(found[1]), int(found[2])
            if 1 <= batch <= batches:
                self._batch, self._batches = batch, batches
                self._advance(Phase.GENERATING, (batch - 1) / batches)
        elif _TRANSPORTED.search(line):
            if self._batch is not None and self._batches is not None:
                self._advance(Phase.TRANSPORTED, self._batch / self._batches)
        elif found := _HISTORIES.search(line):
            self._note_histories(int(found[1]), line)
        elif found := _UNCERTAINTY.search(line):
            self.uncertainty_percent = _number(found[1])
        elif _FINALIZING.search(line):
            self._advance(Phase.FINALIZING, _HIGHEST)

    def _note_histories(self, histories: int, line: str) -> None:
        # A figure and no progress: moqui prints it with the beam source, before the first batch.
        if self.histories is not None and self.histories != histories and self.failure is None:
            self.failure = Failure(
                FailureKind.ENGINE, "the engine reported two different numbers of histories", line
            )
        self.histories = histories

    def _note_failure(self, line: str) -> None:
        for pattern, kind, meaning in _FAILURES:
            if pattern.search(line):
                if self.failure is None or (self._crashed() and kind is not FailureKind.ENGINE):
                    self.failure = Failure(kind, meaning, line)
                return
        if self.failure is not None and self._crashed() and "what():" in line:
            self.failure = Failure(self.failure.kind, self.failure.meaning, line)

    def _crashed(self) -> bool:
        # The line after "terminate called" names the real cause, so it may replace that one.
        return self.failure is not None and self.failure.line.startswith("terminate called")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def engine_failure(
    profile: EngineProfile, exit_code: int | None, parser: ProgressParser, scrub: Callable[[str], str]
) -> MqiError | None:
    """The error of an engine that has ended, or None where its output is worth looking at.

    None is not success: only the checked output is. An exit code that our own engine gives a meaning wins
    over texts.

    Args:
        profile: The engine.
        exit_code: Its exit code; None where it was lost.
        parser: The parser after ``close()``.
        scrub: Removes identifiers and paths from what the engine printed.
    """
    failure = parser.failure
    cause = scrub(failure.line) if failure else None
    where = Where(kind="engine")
    if profile.reads_beam_model and exit_code == _EXIT_INPUT:
        return EngineInputError("the engine refuses this input", where=where, first_cause=cause)
    if failure is not None:
        match failure.kind:
            case FailureKind.INPUT:
                return EngineInputError(failure.meaning, where=where, first_cause=cause)
            case FailureKind.GPU_LOST:
                return InfrastructureError(failure.meaning, where=where, first_cause=cause)
            case FailureKind.GPU_MEMORY | FailureKind.ENGINE:
                return EngineError(failure.meaning, where=where, first_cause=cause)
    if exit_code is None:
        return InfrastructureError("the engine ended without an exit code", where=where)
    if exit_code not in profile.success_exit_codes:
        return EngineError(f"the engine ended with exit code {exit_code}", where=where)
    return None
