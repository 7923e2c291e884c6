"""The planned beam in the form of a delivered one: samples on the planned timeline."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import numpy as np

from mqi_dagster.delivery.counting import RunningCounts
from mqi_dagster.delivery.layer_samples import SampleChunk
from mqi_dagster.delivery.planned_timeline import PlannedTimeline
from mqi_dagster.delivery.record import CHUNK_ROWS
from mqi_dagster.machine import Record


def planned_samples(timeline: PlannedTimeline, record: Record, divisor: float) -> Iterator[SampleChunk]:
    """A planned layer sampled at the machine's row period: t = 0, TG, 2 TG, ... past the last spot.

    Positions and cumulative monitor units are linear between spots; the count of a sample is what was
    planned since the one before, in whole counts with the layer's sum preserved. What is planned at the
    first spot stands in the first sample. Counts carry the dividing factor of the log CSVs, so that the
    two can be compared.

    Args:
        timeline: The planned layer.
        record: Row period and MU per count.
        divisor: The dose dividing factor.
    """
    period_s = record.row_period_ms * 1e-3
    # A timeline that ends on a sample must not get another one from the last bit of a division.
    total = ceil(float(timeline.time_s[-1]) / period_s - 1e-6) + 1
    running = RunningCounts()
    before = 0.0
    per_mu = 1.0 / (record.mu_per_count * divisor)
    for start in range(0, total, CHUNK_ROWS):
        row = np.arange(start, min(start + CHUNK_ROWS, total))
        time_s = row.astype(np.float64) * period_s
        if row[-1] == total - 1:
            time_s[-1] = max(time_s[-1], timeline.time_s[-1])
        mu = timeline.mu_at(time_s)
        yield SampleChunk(
            (row * record.row_period_ms).astype(np.float32),
            timeline.sampled(time_s, np.concatenate([[before], mu[:-1]]), mu).astype(np.float32),
            running.follow(mu * per_mu),
        )
        before = float(mu[-1])
