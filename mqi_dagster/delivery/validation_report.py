"""What `mqi case check` reports: every finding, and the counts of every layer, as JSON values."""

from __future__ import annotations

from datetime import datetime

from mqi_dagster.delivery.manifest import Part
from mqi_dagster.delivery.validation_findings import Finding
from mqi_dagster.delivery.validation_layer import LayerCheck


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
    """Whether no finding is an error."""
    machine_id: str | None
    ct_images: int
    findings: tuple[Finding, ...]
    """Those of the case as a whole."""
    fractions: tuple[FractionCheck, ...]
