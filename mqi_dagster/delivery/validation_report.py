"""What `mqi case check` reports: every finding, and the counts of every layer, as JSON values."""

from __future__ import annotations

from datetime import datetime

from mqi_dagster.delivery.comparison_figures import LayerComparison
from mqi_dagster.delivery.manifest import Part
from mqi_dagster.delivery.validation_findings import Finding
from mqi_dagster.delivery.validation_layer import LayerCheck
from mqi_dagster.delivery.verdict import DeliveryVerdict


class DeliveryCheck(Part):
    """One delivery of a fraction."""

    number: int
    beam_number: int
    irradiated_at: datetime
    first_layer: int
    last_layer: int


class BeamCheck(Part):
    """One delivered beam of a fraction."""

    number: int
    name: str
    layers: int
    """Layers delivered."""
    planned_layers: int
    delivered_mu: float | None
    planned_mu: float
    """Of the delivered layers."""
    ratio: float | None
    delivery: DeliveryVerdict | None = None
    """Delivered against planned; None where it could not be compared: a finding says why."""
    comparison: tuple[LayerComparison, ...] = ()


class FractionCheck(Part):
    """What `mqi case check` says of a fraction."""

    fraction: int
    """Order in time within the arrival, from 1."""
    complete: bool
    missing_beams: tuple[int, ...]
    deliveries: tuple[DeliveryCheck, ...]
    beams: tuple[BeamCheck, ...]
    layers: tuple[LayerCheck, ...]
    findings: tuple[Finding, ...]


class CaseCheck(Part):
    """What `mqi case check` says of an arrival."""

    passed: bool
    """Whether no finding is an error: the case would be taken in."""
    as_planned: bool
    """Whether every beam was compared with its plan and delivered as planned."""
    machine_id: str | None
    ct_images: int
    findings: tuple[Finding, ...]
    """Those of the case as a whole."""
    fractions: tuple[FractionCheck, ...]
