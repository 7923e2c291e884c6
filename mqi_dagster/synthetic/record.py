"""What the machine writes per layer: the record (``.ptn``) and the machine plan (``.mgn``), as bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.errors import ConfigurationError, Where
from mqi_dagster.machine import Machine
from mqi_dagster.synthetic.request import DeliveryRequest
from mqi_dagster.synthetic.source import Floats, SourceLayer
from mqi_dagster.synthetic.timeline import SpotTimeline

FULL_SCALE = 65535
IDLE, PLAN_ON, BOTH_ON, ACTUAL_ON = 0, 0x8000, 0xC000, 0x4000
RAMP = np.array([0.01, 0.07, 0.13, 0.3, 0.55, 0.8, 0.95])
"""Share of the full intensity in the first rows with the beam on (docs/formats.md 14: 43, 346, 639 …)."""
BEAM_SIZE_RAW = (650, 805)
FIRST_SPOT_US = 19_100
CLOCK_US = 100
RETURN_US = 10_000
"""Time from the last spot back to the centre."""


@dataclass(frozen=True, slots=True)
class LayerDelivery:
    """How one layer, or a part of it, is delivered."""

    layer: SourceLayer
    timeline: SpotTimeline
    part: tuple[float, float] = (0.0, 1.0)
    """Shares of the layer's MU between which this part lies."""
    shift_mm: tuple[float, float] = (0.0, 0.0)
    mirrored_x: bool = False
    swapped_axes: bool = False
    beam_off_share: float = 0.0
    """Counts that come after the beam is off, of the layer's."""
    mu_factor: float = 1.0
    range_code: int = 2
    scan_number: int = 1
    written_layer_number: int | None = None
    """Column 6, where it is not the layer's number."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """What :func:`encode_record` needs besides the layer."""

    machine: Machine
    request: DeliveryRequest
    rng: np.random.Generator


def encode_record(delivery: LayerDelivery, encoding: Encoding) -> NDArray[np.uint16]:
    """The record of a layer: rows of 8 big-endian counts.

    Returns:
        Shape (rows, 8), dtype ``>u2``.

    Raises:
        ConfigurationError: A position or count does not fit 16 bits on this machine.
    """
    machine, request, rng = encoding.machine, encoding.request, encoding.rng
    layer, where = delivery.layer, Where(layer=delivery.layer.number, kind="record")
    period_s = machine.record.row_period_ms * 1e-3
    lag_s = rng.uniform(*request.lag_us) * 1e-6
    times_s, cumulative = _delivered_timeline(delivery)
    share_at = cumulative / cumulative[-1]
    start_s = np.interp(delivery.part[0], share_at, times_s) if delivery.part[0] > 0 else times_s[0]
    end_s = np.interp(delivery.part[1], share_at, times_s) if delivery.part[1] < 1 else times_s[-1]
    on_rows = int(np.ceil((end_s - start_s + lag_s) / period_s)) + 1
    planned_s = start_s - lag_s + np.arange(on_rows) * period_s
    edges_s = start_s - lag_s + (np.arange(on_rows + 1) - 0.5) * period_s
    share = np.diff(np.interp(np.clip(edges_s, start_s, end_s), times_s, cumulative))
    # At the start the record still shows the rest position for one or two rows.
    resting = int(np.ceil(lag_s / period_s - 0.5))
    ramp = RAMP[: max(on_rows - resting, 0)]
    if delivery.timeline.arrival_s is None:  # a spot ends when its monitor units are reached
        share[resting : resting + ramp.size] *= ramp
    share *= np.clip(1.0 + request.count_noise * rng.standard_normal(on_rows), 0.0, None)

    factor = machine.monitor_full_scale_na.get(delivery.range_code, machine.monitor_full_scale_na[2])
    per_count = machine.record.mu_per_count * factor / machine.monitor_full_scale_na[2]
    part_mu = float(layer.spot_mu.sum()) * (delivery.part[1] - delivery.part[0])
    total = int(np.rint(part_mu * request.mu_ratio * delivery.mu_factor / per_count))
    counts = _sum_preserving(share, total)
    if counts.max() > FULL_SCALE:
        raise ConfigurationError(
            f"machine {machine.id} cannot record this layer: {counts.max()} counts in one sample of"
            f" {machine.record.row_period_ms:g} ms do not fit 16 bits in range code {delivery.range_code}",
            where=where,
        )

    before = int(rng.integers(request.idle_rows_before[0], request.idle_rows_before[1] + 1))
    after = int(rng.integers(request.idle_rows_after[0], request.idle_rows_after[1] + 1))
    plan_on, actual_on = (int(n) for n in rng.integers(1, 3, size=2))
    first = before + plan_on
    last = first + on_rows
    rows = np.zeros((last + actual_on + after, 8), dtype=np.int64)
    rows[:, 0:2] = _rest_position(machine, rng)
    moving = slice(first + resting, last)
    path = _recorded_path(delivery, planned_s, np.clip(edges_s, start_s, end_s))
    if delivery.swapped_axes:
        path = path[:, ::-1].copy()
    if delivery.mirrored_x:
        path[:, 0] *= -1.0
    for axis in (0, 1):
        position = path[resting:, axis]
        position += delivery.shift_mm[axis] + request.noise_mm[axis] * rng.standard_normal(position.size)
        offset = (machine.record.x_offset, machine.record.y_offset)[axis]
        gain = (machine.record.x_gain_mm, machine.record.y_gain_mm)[axis]
        raw = np.rint(position / gain + offset)
        if raw.min() < 0 or raw.max() > FULL_SCALE:
            raise ConfigurationError(
                f"machine {machine.id} cannot record positions of {position.min():.1f} to"
                f" {position.max():.1f} mm",
                where=where,
            )
        rows[moving, axis] = raw
    rows[first:last, 2:4] = BEAM_SIZE_RAW
    scale = machine.monitor_full_scale_na[2] / factor
    rows[:, 4] = np.rint(rng.integers(0, 21, size=len(rows)) * scale)
    rows[first:last, 4] = counts
    tail = np.array([0.3, 0.06])[:actual_on] * counts[-1]
    rows[last : last + actual_on, 4] = np.rint(tail)
    if delivery.beam_off_share:
        share_after = np.ones(len(rows) - last - actual_on)
        rows[last + actual_on :, 4] += _sum_preserving(share_after, round(delivery.beam_off_share * total))
    rows[:, 5] = np.minimum(np.rint(rows[:, 4] * request.monitor_2_ratio), FULL_SCALE)
    rows[:, 6] = delivery.written_layer_number or layer.number
    rows[:, 7] = delivery.scan_number | IDLE
    rows[before:first, 7] |= PLAN_ON
    rows[first:last, 7] |= BOTH_ON
    rows[last : last + actual_on, 7] |= ACTUAL_ON
    return rows.astype(">u2")


def _delivered_timeline(delivery: LayerDelivery) -> tuple[Floats, Floats]:
    """Times [s] and cumulative MU along the delivery, beginning with the stay on the first spot."""
    timeline, mu = delivery.timeline, delivery.layer.spot_mu
    lead_s = timeline.lead_in_s(delivery.layer)
    if timeline.arrival_s is None:
        return np.concatenate([[0.0], lead_s + timeline.spot_s]), np.concatenate([[0.0], np.cumsum(mu)])
    times = lead_s + np.column_stack([timeline.arrival_s, timeline.spot_s]).ravel()
    reached = np.cumsum(mu)
    return times, np.column_stack([reached - mu, reached]).ravel()


def _path(delivery: LayerDelivery) -> Floats:
    """Positions [mm] at the times of :func:`_delivered_timeline`."""
    if delivery.timeline.arrival_s is not None:
        return np.repeat(delivery.layer.positions_mm, 2, axis=0)
    return np.vstack([delivery.layer.positions_mm[:1], delivery.layer.positions_mm])


def _recorded_path(delivery: LayerDelivery, planned_s: Floats, edges_s: Floats) -> Floats:
    """Position [mm] of each row: where the beam is; with stops, where it gave the row's monitor units.

    A position monitor sees the beam, so that a row in which a stop ends shows the stop and not the way.
    """
    times_s, cumulative = _delivered_timeline(delivery)
    path = _path(delivery)
    at = np.column_stack([np.interp(planned_s, times_s, path[:, axis]) for axis in (0, 1)])
    if delivery.timeline.arrival_s is None:
        return at
    reached = np.interp(edges_s, times_s, cumulative)
    given = np.diff(reached) > 1e-9 * cumulative[-1]
    middle = (reached[:-1] + reached[1:]) / 2
    spot = np.minimum(np.searchsorted(cumulative[1::2], middle), len(path) // 2 - 1)
    return np.where(given[:, None], path[2 * spot], at)


def _sum_preserving(share: Floats, total: int) -> NDArray[np.int64]:
    """Whole counts in proportion to ``share`` whose sum is exactly ``total``."""
    running = np.rint(np.cumsum(share) / share.sum() * total)
    counts: NDArray[np.int64] = np.diff(running, prepend=0.0).astype(np.int64)
    return counts


def _rest_position(machine: Machine, rng: np.random.Generator) -> tuple[int, int]:
    """Raw rest position of the magnets: the end of the range that is farther from the centre."""
    high = int(rng.integers(65207, 65248))
    other = int(rng.integers(75, 1372))
    x = high if machine.record.x_offset <= 32768 else FULL_SCALE - high
    y = other if machine.record.y_offset >= 32768 else FULL_SCALE - other
    return x, y


def encode_machine_plan(layer: SourceLayer, timeline: SpotTimeline, machine: Machine) -> bytes:
    """The ``.mgn`` of a layer: 14-byte records, big-endian (docs/formats.md 3).

    Raises:
        ConfigurationError: A position does not fit 16 bits on this machine.
    """
    preset = machine.preset
    x = np.rint(layer.positions_mm[:, 0] / preset.x_gain_mm + preset.x_offset)
    y = np.rint(layer.positions_mm[:, 1] / preset.y_gain_mm + preset.y_offset)
    if min(x.min(), y.min()) < 0 or max(x.max(), y.max()) > FULL_SCALE:
        raise ConfigurationError(
            f"machine {machine.id} cannot plan these positions",
            where=Where(layer=layer.number, kind="machine plan"),
        )
    spots = len(x)
    centre = (preset.x_offset, preset.y_offset)
    records = np.zeros(
        spots + 2, dtype=[("time", ">u4"), ("amp", ">u2", 2), ("at", ">u2", 2), ("flag", ">u2")]
    )
    times = FIRST_SPOT_US + np.rint(timeline.spot_s * 1e6 / CLOCK_US).astype(np.int64) * CLOCK_US
    records["time"] = np.concatenate([[0], times, [times[-1] + RETURN_US]])
    # Magnet currents are not known from the plan, so every record holds 0 A.
    records["amp"] = centre
    records["at"] = centre
    records["at"][1:-1] = np.column_stack([x, y])
    records["flag"][1:spots] = 1
    return records.tobytes()
