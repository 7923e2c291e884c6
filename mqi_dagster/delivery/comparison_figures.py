"""The figures of delivered against planned, as they stand in an interpretation's summary."""

from __future__ import annotations

from mqi_dagster.delivery.manifest import ManifestPart


class Axes(ManifestPart):
    """A figure of each axis [mm]."""

    x: float
    y: float


class SpotMu(ManifestPart):
    """A spot whose monitor units differ most from those of its layer's other spots."""

    spot: int
    """1-based, in the order of the plan."""
    ratio: float
    """Delivered to planned, over the median of the layer's spots."""
    planned_mu: float


class ExtraDose(ManifestPart):
    """Monitor units at a place where none were planned at that point of the sequence."""

    x_mm: float
    y_mm: float
    mu: float
    after_spot: int
    """1-based spot before it; 0 at the start of the layer."""


class SpotOutOfTurn(ManifestPart):
    """A spot that was given at another point of the sequence."""

    spot: int
    after_spot: int


class LayerComparison(ManifestPart):
    """One delivered layer against its plan; positions as delivered - planned at the isocentre plane."""

    number: int
    """LAYER_NO."""
    planned_mu: float
    delivered_mu: float
    ratio: float | None
    """Delivered over planned monitor units."""
    spots: int
    follows_timeline: bool
    """Whether samples could be assigned by time; else by monitor units, or by order and place."""
    mean_mm: Axes | None
    """Mean over the beam-on samples, weighted by monitor units; null without an assigned sample."""
    sd_mm: Axes | None
    """Standard deviation of the same."""
    p95_mm: Axes | None
    """95th percentile of the distance in each axis, without sign, of the same."""
    maximum_mm: Axes | None
    """Of the spots' mean differences the one farthest from 0, with its sign."""
    maximum_spot: tuple[int, int] | None
    """The spots, 1-based, that those of x and y belong to."""
    transform: str | None
    """What became of the axes ("x mirrored"), where the delivery is the plan's with other axes."""
    beam_off_percent: float
    """Counts of the monitor while the beam was not on, in percent of those while it was."""
    missing_spots: tuple[int, ...]
    swapped_spots: tuple[tuple[int, int], ...]
    spots_out_of_turn: tuple[SpotOutOfTurn, ...]
    extra: tuple[ExtraDose, ...]
    off_plan_percent: float
    """Monitor units that belong to no planned spot, in percent of the layer's."""
    spot_mu: tuple[SpotMu, ...]
    """The spots farthest from the layer's median, those with differences worth a look first."""
