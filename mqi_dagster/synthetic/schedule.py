"""Which deliveries a case consists of: their order, times and layer ranges."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.synthetic.defects import Defect, DefectKind
from mqi_dagster.synthetic.request import DeliveryRequest
from mqi_dagster.synthetic.source import SourceBeam

RESUME_AFTER = timedelta(minutes=2)
REPLANNED_AFTER = timedelta(hours=2)
RUNNING_NUMBER_STEP = 577
FIRST_RUNNING_NUMBER = 1_010_000
INTERRUPTIONS = (
    DefectKind.RESUMED,
    DefectKind.SPLIT_LAYER,
    DefectKind.OVERLAP,
    DefectKind.UNFINISHED,
    DefectKind.REPEATED_BEAM,
)


@dataclass(frozen=True, slots=True)
class LayerPart:
    """A layer in a delivery, or the shares of its MU between which it was delivered there."""

    number: int
    start: float = 0.0
    stop: float = 1.0


@dataclass(frozen=True, slots=True)
class ScheduledIrradiation:
    """One folder that the machine writes."""

    fraction: int
    """1-based."""
    part: int
    """1-based number of the delivery within its beam and fraction."""
    beam: SourceBeam
    at: datetime
    running_number: int
    """The machine's own seven digits."""
    layers: tuple[LayerPart, ...]

    @property
    def digits(self) -> str:
        """``YYYYMMDDHHMMSScc``."""
        return self.at.strftime("%Y%m%d%H%M%S") + f"{self.at.microsecond // 10_000:02d}"


def irradiations(beams: list[SourceBeam], request: DeliveryRequest) -> list[ScheduledIrradiation]:
    """Every delivery of a request, in time order.

    Raises:
        ConfigurationError: A beam or layer that the request names is not in the plan.
    """
    by_number = {beam.number: beam for beam in beams}
    _check(by_number, request)
    order = list(request.beams or by_number)
    if request.has(DefectKind.OUT_OF_ORDER):
        order.reverse()
    fractions = max(request.fractions, 2 if request.has(DefectKind.TWO_FRACTIONS) else 1)
    withheld = {d.beam for d in request.defects_of(DefectKind.LATE_BEAM)}
    wanted = set(request.deliver if request.deliver is not None else order) - withheld
    found: list[ScheduledIrradiation] = []
    running = FIRST_RUNNING_NUMBER + 10_000 * (request.seed % 800)
    running += 5 * RUNNING_NUMBER_STEP if request.has(DefectKind.REPLAN) else 0
    for fraction in range(1, fractions + 1):
        at = request.start + (fraction - 1) * request.fraction_interval
        if request.has(DefectKind.REPLAN):
            at += REPLANNED_AFTER
        for number in order:
            beam = by_number[number]
            parts = _parts(beam, request)
            for part, layers in enumerate(parts, start=1):
                running += RUNNING_NUMBER_STEP
                if number in wanted:
                    when = at + (part - 1) * RESUME_AFTER
                    found.append(
                        ScheduledIrradiation(fraction, part, beam, when, running % 10_000_000, layers)
                    )
            at += request.beam_interval + (len(parts) - 1) * RESUME_AFTER
    return found


def _parts(beam: SourceBeam, request: DeliveryRequest) -> list[tuple[LayerPart, ...]]:
    """The layer ranges in which a beam is delivered."""
    count = len(beam.layers)
    whole = tuple(LayerPart(n) for n in range(1, count + 1))
    found = request.defects_of(*INTERRUPTIONS, beam=beam.number)
    if not found:
        return [whole]
    defect = found[0]
    if defect.kind is DefectKind.REPEATED_BEAM:
        return [whole, whole]
    boundary = _boundary(defect, count)
    first, rest = whole[:boundary], whole[boundary:]
    if defect.kind is DefectKind.RESUMED:
        return [first, rest]
    if defect.kind is DefectKind.UNFINISHED:
        return [first]
    if defect.kind is DefectKind.SPLIT_LAYER:
        share = defect.amount("share")
        return [
            (*first[:-1], LayerPart(boundary, 0.0, share)),
            (LayerPart(boundary, share, 1.0), *rest),
        ]
    again = max(0, boundary - int(defect.amount("layers")))
    return [first, whole[again:]]


def _boundary(defect: Defect, count: int) -> int:
    """The last layer of the first delivery."""
    assert defect.layer is not None
    last = count if defect.kind in (DefectKind.SPLIT_LAYER, DefectKind.OVERLAP) else count - 1
    if defect.layer > last:
        raise ConfigurationError(
            f"defect {defect.kind.value}: beam {defect.beam} has {count} layers, so layer must be 1 to {last}"
        )
    return defect.layer


def _check(by_number: dict[int, SourceBeam], request: DeliveryRequest) -> None:
    known = ", ".join(str(n) for n in by_number)
    for number in (*(request.beams or ()), *(request.deliver or ())):
        if number not in by_number:
            raise ConfigurationError(f"the plan has no treatment beam {number} (it has {known})")
    if request.beams is not None and len(set(request.beams)) != len(request.beams):
        raise ConfigurationError("a beam stands twice in the order; use the defect repeated-beam for that")
    interrupted: set[int] = set()
    for defect in request.defects:
        if defect.beam is None:
            continue
        if defect.beam not in by_number:
            raise ConfigurationError(
                f"defect {defect.kind.value}: the plan has no treatment beam {defect.beam} (it has {known})"
            )
        layers = len(by_number[defect.beam].layers)
        if defect.layer is not None and defect.layer > layers:
            raise ConfigurationError(
                f"defect {defect.kind.value}: beam {defect.beam} has {layers} layers, not {defect.layer}"
            )
        if defect.kind in INTERRUPTIONS:
            if defect.beam in interrupted:
                raise ConfigurationError(f"beam {defect.beam} can be interrupted or repeated only once")
            interrupted.add(defect.beam)
