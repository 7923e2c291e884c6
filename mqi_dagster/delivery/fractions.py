"""Deliveries to fractions (docs/formats.md 13).

The rule, from the machine's own times alone (TCSC_IRRAD_DATETIME in the site's zone, never the server's
zone, the time of arrival or the order of listing; in the hour that autumn repeats as `repeated_hour` says):

1. Exact copies (same machine time, record number and beam, and the same files of the machine byte for byte)
   are set aside.
2. Deliveries of setup beams are set aside: they open no fraction and complete none.
3. The earliest delivery opens a fraction; every delivery up to `window` after it belongs to it, the bound
   included. The next one opens the next fraction. So a beam repeated after the window is a new fraction, and
   a beam that *arrives* late but was irradiated within the window joins its fraction. A beam irradiated
   after the window is a (partial) fraction of its own: whether a day's single beam makes up for yesterday's
   or begins today's treatment cannot be told from times, and a guess would move beams between cases.
4. Within a fraction the same beam may come in parts: disjoint layer ranges, or ranges that share exactly the
   layer at which the earlier part ended and the later one began (its summed MU is checked against the plan
   in the validation). Any other overlap is an error that names both deliveries.
5. A fraction is complete when the parts of its deliveries cover every layer of every treatment beam.

A delivery without a readable PlanInfo belongs to a fraction by the machine time in its folder's name, and
to the latest fraction where the name has none, so that no fraction passes for complete beside it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from mqi_dagster.delivery.files import files_in, sha256_of
from mqi_dagster.delivery.machine_files import is_machine_file
from mqi_dagster.delivery.plan_info import PlanInfo, machine_time, read_plan_info
from mqi_dagster.delivery.repeated_hour import Timed, choose_moments
from mqi_dagster.errors import DeliveryError, Where
from mqi_dagster.plan.model import IonPlan


@dataclass(frozen=True, slots=True)
class DeliveryHeader:
    """A delivery as its PlanInfo names it."""

    folder: Path
    info: PlanInfo
    irradiated_at: datetime
    """The machine's own time, in UTC."""
    identity: str
    """SHA-256 of machine time, record number and beam: the same delivery wherever its folder stands."""


@dataclass(frozen=True, slots=True)
class BrokenDelivery:
    """A delivery folder whose PlanInfo cannot be read."""

    folder: Path
    irradiated_at: datetime | None
    """From the folder's name; None where that is no machine time."""
    error: DeliveryError


@dataclass(frozen=True, slots=True)
class Fraction:
    """The deliveries of one plan on one occasion."""

    deliveries: tuple[DeliveryHeader, ...]
    """Of treatment beams (or of beams the plan does not have), in time order, without copies."""
    setup: tuple[DeliveryHeader, ...]
    """Of setup beams: reported, not used."""
    broken: tuple[BrokenDelivery, ...]
    duplicates: tuple[DeliveryHeader, ...]
    """Exact copies of one of the deliveries."""
    missing_beams: tuple[int, ...]
    """Treatment beams of the plan without any delivery."""
    complete: bool
    """Whether every layer of every treatment beam is covered and no delivery is broken."""

    @property
    def identities(self) -> tuple[str, ...]:
        """Identities of the deliveries, sorted; empty where none can be read."""
        return tuple(sorted(header.identity for header in self.deliveries))

    @property
    def folders(self) -> tuple[Path, ...]:
        """Every delivery folder but the copies, in the order in which deliveries are numbered from 1.

        That order is the time's; deliveries without a time come last, by folder name.
        """
        timed = [(h.irradiated_at, h.identity, h.folder) for h in (*self.deliveries, *self.setup)]
        timed += [(b.irradiated_at, "", b.folder) for b in self.broken if b.irradiated_at is not None]
        untimed = [b.folder for b in self.broken if b.irradiated_at is None]
        return (*(folder for _, _, folder in sorted(timed)), *sorted(untimed))

    def number_of(self, folder: Path) -> int:
        """The 1-based number of a delivery in time order.

        Raises:
            ValueError: The folder is not one of ``folders``.
        """
        return self.folders.index(folder) + 1


def read_delivery_header(folder: Path, zone: ZoneInfo) -> DeliveryHeader:
    """What a delivery folder says of itself; of a time in the hour that autumn repeats, the earlier moment.

    Args:
        folder: The delivery folder.
        zone: The zone in which the machine writes its times.

    Raises:
        DeliveryError: Its PlanInfo is missing or malformed.
    """
    info = read_plan_info(folder)
    named = "\x1f".join((info.result_id, info.record_number, str(info.beam_number)))
    identity = hashlib.sha256(named.encode("utf-8")).hexdigest()
    return DeliveryHeader(folder, info, info.irradiated_at(zone)[0], identity)


def read_deliveries(
    folders: Iterable[Path], zone: ZoneInfo, window: timedelta
) -> tuple[list[DeliveryHeader], list[BrokenDelivery]]:
    """The headers of all delivery folders, and those folders that have none.

    Args:
        folders: The delivery folders of one plan.
        zone: The zone in which the machine writes its times.
        window: How long after its first delivery a fraction stays open.
    """
    headers: list[DeliveryHeader] = []
    broken: list[BrokenDelivery] = []
    for folder in folders:
        try:
            headers.append(read_delivery_header(folder, zone))
        except DeliveryError as error:
            broken.append(BrokenDelivery(folder, machine_time(folder.name, zone), error))
    infos = [header.info for header in headers]
    moments = choose_moments(
        [
            Timed(info.irradiated_at(zone), info.beam_number, info.first_layer, info.last_layer)
            for info in infos
        ],
        window,
    )
    return [replace(h, irradiated_at=at) for h, at in zip(headers, moments, strict=True)], broken


def group_fractions(
    deliveries: Sequence[DeliveryHeader],
    plan: IonPlan | None,
    window: timedelta,
    broken: Sequence[BrokenDelivery] = (),
) -> list[Fraction]:
    """The fractions that the deliveries of one plan make, in time order.

    Args:
        deliveries: In any order.
        plan: Their plan; None where it cannot be read, and then no fraction is complete.
        window: How long after its first delivery a fraction stays open.
        broken: Deliveries without a readable PlanInfo.
    """
    kept, copies = _without_copies(deliveries)
    setup_numbers = plan.setup_beam_numbers if plan is not None else ()
    setup = [header for header in kept if header.info.beam_number in setup_numbers]
    treatment = [header for header in kept if header.info.beam_number not in setup_numbers]
    times = [header.irradiated_at for header in treatment]
    openings = _openings(times + [b.irradiated_at for b in broken if b.irradiated_at is not None], window)
    if not openings:
        # Nothing but setup beams or folders without a time: one fraction, so that it fails in sight.
        openings = _openings([header.irradiated_at for header in setup], window)[:1]
    if not openings:
        return [_fraction(plan, (), (), (), broken)] if broken else []

    def fraction_index(time: datetime | None) -> int:
        if time is None:
            return len(openings) - 1
        return max([index for index, opening in enumerate(openings) if opening <= time], default=0)

    return [
        _fraction(
            plan,
            [header for header in treatment if fraction_index(header.irradiated_at) == index],
            [header for header in setup if fraction_index(header.irradiated_at) == index],
            [header for header in copies if fraction_index(header.irradiated_at) == index],
            [item for item in broken if fraction_index(item.irradiated_at) == index],
        )
        for index in range(len(openings))
    ]


def overlap_errors(fraction: Fraction) -> list[DeliveryError]:
    """Every pair of deliveries of one beam that cannot be parts of one irradiation."""
    errors = []
    by_beam: dict[int, list[DeliveryHeader]] = defaultdict(list)
    for header in fraction.deliveries:
        by_beam[header.info.beam_number].append(header)
    for beam, parts in sorted(by_beam.items()):
        for index, later in enumerate(parts):
            for earlier in parts[:index]:
                numbers = fraction.number_of(earlier.folder), fraction.number_of(later.folder)
                fault = _overlap(earlier, later)
                if fault:
                    text = f"deliveries {numbers[0]} and {numbers[1]} of beam {beam} {fault}"
                    errors.append(DeliveryError(text, where=Where(delivery=numbers[1])))
    return errors


def _overlap(earlier: DeliveryHeader, later: DeliveryHeader) -> str:
    if earlier.identity == later.identity:
        return "carry the same machine time and record number but different files"
    first = max(earlier.info.first_layer, later.info.first_layer)
    last = min(earlier.info.last_layer, later.info.last_layer)
    is_boundary = first == last == earlier.info.last_layer == later.info.first_layer
    if first > last or is_boundary:
        return ""
    layers = f"layer {first}" if first == last else f"layers {first} to {last}"
    return f"overlap in {layers} within one fraction, so they are no parts of one irradiation"


def _openings(times: Iterable[datetime], window: timedelta) -> list[datetime]:
    openings: list[datetime] = []
    for time in sorted(times):
        if not openings or time - openings[-1] > window:
            openings.append(time)
    return openings


def _without_copies(
    deliveries: Sequence[DeliveryHeader],
) -> tuple[list[DeliveryHeader], list[DeliveryHeader]]:
    by_identity: dict[str, list[DeliveryHeader]] = defaultdict(list)
    for header in deliveries:
        by_identity[header.identity].append(header)
    kept: list[DeliveryHeader] = []
    copies: list[DeliveryHeader] = []
    for same in by_identity.values():
        if len(same) == 1:
            kept += same
            continue
        seen: set[tuple[tuple[str, str], ...]] = set()
        # The folder under the machine's own name is the original.
        for header in sorted(same, key=lambda h: (h.folder.name != h.info.result_id, h.folder)):
            content = _content(header.folder)
            (copies if content in seen else kept).append(header)
            seen.add(content)
    return kept, copies


def _content(folder: Path) -> tuple[tuple[str, str], ...]:
    try:
        written = [path for path in files_in(folder, "delivery") if is_machine_file(path.name)]
        return tuple(sorted((path.name.casefold(), sha256_of(path, "delivery")) for path in written))
    except DeliveryError:
        # What cannot be read is nobody's copy; the validation says why.
        return ((str(folder), ""),)


def _fraction(
    plan: IonPlan | None,
    deliveries: Sequence[DeliveryHeader],
    setup: Sequence[DeliveryHeader],
    duplicates: Sequence[DeliveryHeader],
    broken: Sequence[BrokenDelivery],
) -> Fraction:
    ordered = sorted(deliveries, key=lambda h: (h.irradiated_at, h.identity, h.folder))
    missing: tuple[int, ...] = ()
    complete = False
    if plan is not None:
        delivered = {header.info.beam_number for header in ordered}
        missing = tuple(sorted(beam.number for beam in plan.beams if beam.number not in delivered))
        complete = not broken and all(
            _covers([h.info for h in ordered if h.info.beam_number == beam.number], len(beam.layers))
            for beam in plan.beams
        )
    return Fraction(
        deliveries=tuple(ordered),
        setup=tuple(sorted(setup, key=lambda h: (h.irradiated_at, h.identity, h.folder))),
        broken=tuple(broken),
        duplicates=tuple(sorted(duplicates, key=lambda h: (h.irradiated_at, h.identity, h.folder))),
        missing_beams=missing,
        complete=complete,
    )


def _covers(parts: Iterable[PlanInfo], layers: int) -> bool:
    reached = 0
    for info in sorted(parts, key=lambda info: (info.first_layer, info.last_layer)):
        if info.first_layer > reached + 1:
            return False
        reached = max(reached, info.last_layer)
    return reached >= layers
