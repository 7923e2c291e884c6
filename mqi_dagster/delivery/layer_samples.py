"""The samples of a delivered layer as a stream, with the figures that the whole layer adds up to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.delivery.beam_off import BeamOffCounts
from mqi_dagster.delivery.comparison import LayerRecorder
from mqi_dagster.delivery.comparison_figures import LayerComparison
from mqi_dagster.delivery.counting import RecordCounts, RunningCounts
from mqi_dagster.delivery.manifest import LayerEntry
from mqi_dagster.delivery.planned_timeline import PlannedTimeline, PositionComparison
from mqi_dagster.delivery.record import (
    DOSE_1,
    DOSE_2,
    Words,
    beam_on,
    positions_mm,
    record_chunks,
)
from mqi_dagster.delivery.summary import InterpretedLayer
from mqi_dagster.errors import DeliveryError, UnknownMachineError, Where
from mqi_dagster.machine import Machine
from mqi_dagster.settings import Interpretation, Samples


@dataclass(frozen=True, slots=True)
class SampleChunk:
    """Samples in the terms of the engine's CSV."""

    time_ms: NDArray[np.float32]
    """Shape (n,): row in the layer times the row period; rows that were not taken leave gaps."""
    positions_mm: NDArray[np.float32]
    """Shape (n, 2)."""
    counts: NDArray[np.int64]
    """Shape (n,): counts of monitor 1 in range code 2, after the dividing factor."""


class LayerSamples:
    """Reads a layer's records once, piece by piece: memory does not grow with the layer.

    A resumed layer's later parts follow in time, without a gap between the records. The figures are whole
    once ``chunks`` is exhausted.

    Args:
        layer: The delivered layer.
        machine: Calibration, range codes and MU per count.
        options: Which samples are taken, and the dividing factor.
        comparison: Told every beam-on sample, where given.
        recorder: Told every sample, where given.
    """

    def __init__(
        self,
        layer: LayerEntry,
        machine: Machine,
        options: Interpretation,
        comparison: PositionComparison | None = None,
        recorder: LayerRecorder | None = None,
    ) -> None:
        self._layer = layer
        self._machine = machine
        self._options = options
        self._comparison = comparison
        self._recorder = recorder
        self._running = RunningCounts()
        self.rows = 0
        self.beam_on_samples = 0
        self.samples = 0
        self.raw_dose1_sum = 0
        self.raw_dose2_sum = 0
        self.delivered_mu = 0.0

    @property
    def count_sum(self) -> int:
        """Sum of the counts so far."""
        return self._running.rounded

    def chunks(self) -> Iterator[SampleChunk]:
        """The samples in order of time.

        Raises:
            DeliveryError: A record is damaged, is no longer the file of the inventory, or the layer has no
                sample to take.
            UnknownMachineError: The machine does not have a part's range code.
        """
        for index, part in enumerate(self._layer.parts):
            where = Where(
                delivery=part.delivery, layer=self._layer.number, kind="record", sha256=part.record.sha256
            )
            try:
                yield from self._part(index)
            except (DeliveryError, UnknownMachineError) as error:
                raise error.at(where) from error
        if not self.samples:
            raise DeliveryError(
                "no sample of the layer has the beam on", where=Where(layer=self._layer.number, kind="record")
            )

    def _part(self, index: int) -> Iterator[SampleChunk]:
        part = self._layer.parts[index]
        factor = self._machine.range_factor(part.range_code)
        counts = RecordCounts(self._running, factor, self._options.dose_dividing_factor)
        digest = hashlib.sha256()
        period_ms = self._machine.record.row_period_ms
        first_on: int | None = None
        off = BeamOffCounts()
        for words in record_chunks(part.record.path, on_bytes=digest.update):
            row = np.arange(self.rows, self.rows + len(words))
            self.rows += len(words)
            on = _where_true(beam_on(words))
            on_row = row[on]
            if first_on is None and len(on_row):
                first_on = int(on_row[0])
            xy = positions_mm(words, self._machine.record)
            on_words, on_xy = words[on], xy[on]
            self._add_beam_on(on_words, factor)
            mu_per_count = factor * self._machine.record.mu_per_count
            mu = on_words[:, DOSE_1].astype(np.float64) * mu_per_count
            since_on_s = (on_row - (first_on or 0)).astype(np.float64) * (period_ms * 1e-3)
            if self._comparison is not None and first_on is not None:
                self._comparison.add(index, since_on_s, on_xy, mu)
            if self._recorder is not None:
                self._recorder.add(index, since_on_s, on_xy, mu)
                off.add(words)
            if self._options.samples is Samples.BEAM_ON:
                words, row, xy = on_words, on_row, on_xy
            self.samples += len(words)
            yield SampleChunk(
                (row * period_ms).astype(np.float32), xy.astype(np.float32), counts.follow(words[:, DOSE_1])
            )
        if digest.hexdigest() != part.record.sha256:
            raise DeliveryError("the record is no longer the file that was validated")
        if self._recorder is not None:
            self._recorder.add_beam_off(off.total * factor * self._machine.record.mu_per_count)

    def _add_beam_on(self, on: Words, factor: float) -> None:
        raw_1 = int(on[:, DOSE_1].sum(dtype=np.int64))
        self.beam_on_samples += len(on)
        self.raw_dose1_sum += raw_1
        self.raw_dose2_sum += int(on[:, DOSE_2].sum(dtype=np.int64))
        self.delivered_mu += raw_1 * factor * self._machine.record.mu_per_count

    def figures(
        self,
        file: str,
        sha256: str,
        timeline: PlannedTimeline | None,
        comparison: PositionComparison | None,
        delivery: LayerComparison | None = None,
    ) -> InterpretedLayer:
        """The layer's part of the summary, once all samples were read."""
        planned = self._layer.planned_mu
        return InterpretedLayer(
            number=self._layer.number,
            energy_mev=self._layer.energy_mev,
            file=file,
            sha256=sha256,
            rows=self.rows,
            beam_on_samples=self.beam_on_samples,
            samples=self.samples,
            count_sum=self.count_sum,
            raw_dose1_sum=self.raw_dose1_sum,
            raw_dose2_sum=self.raw_dose2_sum,
            delivered_mu=self.delivered_mu,
            planned_mu=planned,
            ratio=self.delivered_mu / planned if planned > 0 else None,
            range_codes=tuple(part.range_code for part in self._layer.parts),
            timeline=None if timeline is None else timeline.source,
            position_difference_mm=None if comparison is None else comparison.mean_mm,
            compared_samples=0 if comparison is None else comparison.samples,
            delivery=delivery,
        )


def _where_true(flags: NDArray[np.bool_]) -> slice | NDArray[np.bool_]:
    """The flags as an index: a slice, which copies nothing, where they are one run, as in most records."""
    first = int(np.argmax(flags))
    count = int(np.count_nonzero(flags))
    return slice(first, first + count) if flags[first : first + count].all() else flags
