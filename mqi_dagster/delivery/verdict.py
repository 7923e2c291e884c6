"""The comparison of delivered and planned held against limits, in a physicist's words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from mqi_dagster.delivery.comparison_figures import LayerComparison
from mqi_dagster.delivery.manifest import ManifestPart
from mqi_dagster.machine import Machine
from mqi_dagster.settings import DeliveryLimits

AS_PLANNED = "as planned"

_REFERENCE_LAYERS = 3
"""From so many layers on, a layer's monitor units are held against those of the beam's other layers."""
_NAMED_AT_MOST = 5
"""Spots that a finding names one by one."""
_FLICKER_PERCENT = 1.0
"""Less of a layer's dose in single samples off the plan is noise of the position monitor."""
_LOST_PERCENT = 20.0
"""With more of its dose off the plan, a layer is not the planned one with faults."""


class LayerFinding(ManifestPart):
    """What is wrong with a layer."""

    layer: int
    words: str
    """For example ``x mirrored``, ``shifted by +1.3 mm in x``, ``+80 % MU``."""

    def __str__(self) -> str:
        return f"layer {self.layer}: {self.words}"


class DeliveryVerdict(ManifestPart):
    """Whether a beam was delivered as planned, and if not: which layer, where, and how much."""

    as_planned: bool
    text: str
    """``as planned``, or the findings in one sentence."""
    findings: tuple[LayerFinding, ...]


def limits_of(check: DeliveryLimits, machine: Machine | None) -> DeliveryLimits:
    """The site's limits, with those that the machine's own file sets in their place."""
    own = None if machine is None else machine.delivery_check
    return check if own is None else check.model_copy(update=own.model_dump(exclude_none=True))


def relative_mu(layers: Sequence[LayerComparison]) -> dict[int, float]:
    """Delivered over planned monitor units of each layer, by number, over the median of the beam's layers.

    A monitor's calibration against the plan is the same in all layers of a beam (0.988 on one machine) and
    is held against the limit by itself; what one layer has too much or too little shows beside the others.
    With fewer than three layers it is the plain ratio.
    """
    ratios = {layer.number: layer.ratio for layer in layers if layer.ratio is not None}
    usual = median(ratios.values()) if len(ratios) >= _REFERENCE_LAYERS else 1.0
    return {number: ratio / usual if usual > 0 else ratio for number, ratio in ratios.items()}


def judge(layers: Sequence[LayerComparison], limits: DeliveryLimits) -> DeliveryVerdict:
    """Hold a beam's comparison against limits."""
    ratios = relative_mu(layers)
    whole = _whole_beam(layers, limits)
    findings = tuple(
        LayerFinding(layer=layer.number, words=words)
        for layer in layers
        for words in (*whole, *_words(layer, ratios.get(layer.number), limits))
    )
    return DeliveryVerdict(as_planned=not findings, text=_sentence(findings, len(layers)), findings=findings)


def _whole_beam(layers: Sequence[LayerComparison], limits: DeliveryLimits) -> list[str]:
    """What all layers have too much or too little, which shows in none of them beside the others."""
    ratios = [layer.ratio for layer in layers if layer.ratio is not None]
    if len(ratios) < _REFERENCE_LAYERS or abs(median(ratios) - 1.0) * 100.0 <= limits.layer_mu_percent:
        return []
    return [f"{_percent(median(ratios))} MU in the whole beam"]


def _sentence(findings: Sequence[LayerFinding], layers: int) -> str:
    """The findings, those that all layers share said once."""
    if not findings:
        return AS_PLANNED
    by_words: dict[str, list[int]] = {}
    for finding in findings:
        by_words.setdefault(finding.words, []).append(finding.layer)
    parts = []
    for words, numbers in by_words.items():
        if len(numbers) == layers and layers > 1:
            where = f"all {layers} layers"
        elif len(numbers) > 1:
            where = f"layers {', '.join(map(str, numbers))}"
        else:
            where = f"layer {numbers[0]}"
        parts.append(f"{where}: {words}")
    return "; ".join(parts)


def _words(layer: LayerComparison, ratio: float | None, limits: DeliveryLimits) -> list[str]:
    words = []
    one_extra = len(layer.extra) == 1 and not layer.missing_spots
    lost = layer.off_plan_percent > _LOST_PERCENT and not one_extra
    if lost:
        words.append(f"{layer.off_plan_percent:.0f} % of its dose lies off the planned path")
    if layer.transform is not None:
        words.append(layer.transform)
    elif not lost:
        words += _positions(layer, limits)
    if ratio is not None and abs(ratio - 1.0) * 100.0 > limits.layer_mu_percent:
        words.append(f"{_percent(ratio)} MU")
    if not lost:
        words += _spots(layer, limits)
    if layer.beam_off_percent > limits.beam_off_percent:
        words.append(f"{layer.beam_off_percent:.1f} % of its dose with the beam off")
    return words


def _percent(ratio: float) -> str:
    """A ratio as its difference from 1: +80 %, +4.5 %."""
    difference = (ratio - 1.0) * 100.0
    return f"{difference:+.1f} %" if abs(difference) < 10.0 else f"{difference:+.0f} %"


def _positions(layer: LayerComparison, limits: DeliveryLimits) -> list[str]:
    mean, sd, p95, maximum = layer.mean_mm, layer.sd_mm, layer.p95_mm, layer.maximum_mm
    if mean is None or sd is None or p95 is None or maximum is None or layer.maximum_spot is None:
        return ["no sample of it lies on the plan"]
    shifted = [
        f"{value:+.1f} mm in {axis}"
        for axis, value in (("x", mean.x), ("y", mean.y))
        if abs(value) > limits.position_mean_mm
    ]
    words = [f"shifted by {' and '.join(shifted)}"] if shifted else []
    for axis, spot, shift in (
        ("x", layer.maximum_spot[0], mean.x),
        ("y", layer.maximum_spot[1], mean.y),
    ):
        if getattr(sd, axis) > limits.position_sd_mm:
            words.append(f"positions scattered by {getattr(sd, axis):.1f} mm (SD) in {axis}")
        elif abs(shift) > limits.position_mean_mm:
            continue  # the shift says it
        elif abs(getattr(maximum, axis)) > limits.position_maximum_mm:
            words.append(f"spot {spot} off by {getattr(maximum, axis):+.1f} mm in {axis}")
        elif getattr(p95, axis) > limits.position_p95_mm:
            words.append(f"5 % of the dose off by more than {getattr(p95, axis):.1f} mm in {axis}")
    return words


def _spots(layer: LayerComparison, limits: DeliveryLimits) -> list[str]:
    words = [f"spots {one} and {other} swapped" for one, other in layer.swapped_spots]
    words += [f"spot {turn.spot} given after spot {turn.after_spot}" for turn in layer.spots_out_of_turn]
    if layer.missing_spots:
        words.append(_named(layer.missing_spots, lambda spot: str(spot), "missing"))
    least = limits.extra_percent / 100.0 * layer.delivered_mu
    # What was given twice shows as monitor units of that spot; here is what lies elsewhere.
    named = [extra for extra in layer.extra if extra.mu > least]
    for extra in named[:_NAMED_AT_MOST]:
        share = 100.0 * extra.mu / layer.delivered_mu
        when = f"after spot {extra.after_spot}" if extra.after_spot else "before spot 1"
        words.append(
            f"an extra spot at x {extra.x_mm:+.1f}, y {extra.y_mm:+.1f} mm {when} ({share:.1f} % of its dose)"
        )
    astray = layer.off_plan_percent - sum(100.0 * extra.mu / layer.delivered_mu for extra in named)
    if astray > max(limits.extra_percent, _FLICKER_PERCENT):
        words.append(f"{astray:.1f} % of its dose lies off the planned path, a little here and there")
    wrong = [spot for spot in layer.spot_mu if abs(spot.ratio - 1.0) * 100.0 > limits.spot_mu_percent]
    if wrong and not layer.swapped_spots:
        words.append(
            "; ".join(f"spot {spot.spot} with {_percent(spot.ratio)} MU" for spot in wrong[:_NAMED_AT_MOST])
        )
    return words


def _named(spots: Sequence[int], name: Callable[[int], str], what: str) -> str:
    shown = ", ".join(name(spot) for spot in spots[:_NAMED_AT_MOST])
    if len(spots) == 1:
        return f"spot {shown} {what}"
    more = f" and {len(spots) - _NAMED_AT_MOST} more" if len(spots) > _NAMED_AT_MOST else ""
    return f"spots {shown}{more} {what}"
