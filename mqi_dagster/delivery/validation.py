"""Every integrity check of a case (docs/formats.md 1), and the manifest of one that passes.

Nothing stops at the first fault: all of them are collected and ordered by delivery and layer.
`build_manifest` raises the first, `check_case` reports all.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mqi_dagster.delivery.compared_beam import compare_beam
from mqi_dagster.delivery.comparison_figures import LayerComparison
from mqi_dagster.delivery.discovery import CaseFolder
from mqi_dagster.delivery.files import file_entry, files_in
from mqi_dagster.delivery.fractions import Fraction, overlap_errors
from mqi_dagster.delivery.manifest import (
    BeamEntry,
    CaseManifest,
    InputFile,
    LayerEntry,
    ManifestPart,
    ScanEnd,
)
from mqi_dagster.delivery.scan_ends import scan_ends
from mqi_dagster.delivery.survey import PlanSource, Survey
from mqi_dagster.delivery.validation_delivery import CheckedDelivery, CheckedLayer, LayerCheck, check_delivery
from mqi_dagster.delivery.validation_findings import Finding, Findings, Severity
from mqi_dagster.delivery.validation_images import AT_CT, check_images, unused_kinds
from mqi_dagster.delivery.verdict import DeliveryVerdict, judge, limits_of
from mqi_dagster.errors import (
    ConfigurationError,
    DeliveryError,
    InputError,
    PlanError,
    PrivacyError,
    UnknownMachineError,
    Where,
)
from mqi_dagster.machine import Machine, Machines
from mqi_dagster.plan.model import IonPlan, PlanBeam
from mqi_dagster.plan.positions import plan_position_faults
from mqi_dagster.plan.requirements import beam_faults
from mqi_dagster.settings import DeliveryLimits, EngineProfile


class DeliveryCheck(ManifestPart):
    """One delivery of a fraction."""

    number: int
    beam_number: int
    irradiated_at: datetime
    first_layer: int
    last_layer: int


class BeamCheck(ManifestPart):
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


class FractionCheck(ManifestPart):
    """What `mqi case check` says of a fraction."""

    fraction: int
    """Order in time within the arrival, from 1."""
    complete: bool
    missing_beams: tuple[int, ...]
    deliveries: tuple[DeliveryCheck, ...]
    beams: tuple[BeamCheck, ...]
    layers: tuple[LayerCheck, ...]
    findings: tuple[Finding, ...]


class CaseCheck(ManifestPart):
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


UID_LIKE = re.compile(r"[0-9]+(\.[0-9]+){3,}")
AT_PLAN = Where(kind="RT plan")


def check_names(plan: IonPlan, findings: Findings) -> None:
    """Find what of a plan's names names the patient: they go into folders, engines, pages and messages."""
    for beam in plan.beams:
        named = {"name": beam.name, "description": beam.description, "machine name": beam.machine_name}
        named |= {f"range shifter {one.number}": one.shifter_id for one in beam.range_shifters}
        for role, text in named.items():
            found = plan.identity.named_in(text)
            if found is not None:
                findings.error(
                    PrivacyError(
                        f"the {role} of beam {beam.number} holds the patient's {found}: rename it in the plan"
                    ),
                    Where(kind="RT plan"),
                )


def check_machine(plan: IonPlan, machines: Machines, findings: Findings) -> Machine | None:
    """The one machine of all treatment beams, by the names in the plan.

    Returns:
        None where a name is unknown or the beams name more than one machine.
    """
    found: dict[str, list[int]] = {}
    known: dict[str, Machine] = {}
    unknown = False
    for beam in plan.beams:
        try:
            machine = machines.named(beam.machine_name)
            known[machine.id] = machine
            found.setdefault(machine.id, []).append(beam.number)
            for shifter in beam.range_shifters:
                machine.range_shifter(shifter.shifter_id)
        except UnknownMachineError as error:
            unknown = True
            findings.error(UnknownMachineError(f"beam {beam.number}: {error.message}", where=AT_PLAN))
    if len(found) > 1:
        parts = [
            f"{name} (beam {', '.join(str(number) for number in sorted(numbers))})"
            for name, numbers in sorted(found.items())
        ]
        findings.error(
            PlanError(f"its beams are planned on {len(found)} machines: {', '.join(parts)}", where=AT_PLAN)
        )
    if unknown or len(known) != 1:
        return None
    return next(iter(known.values()))


def check_folder(arrival: CaseFolder, plan: IonPlan, findings: Findings) -> None:
    """Name of the case folder, machine files outside any delivery folder, and files that no step uses."""
    name = arrival.folder.name
    if UID_LIKE.fullmatch(name) and name != plan.study_instance_uid:
        findings.error(DeliveryError("the study folder's name differs from the RT plan's study UID"))
    if arrival.stray_files:
        count = len(arrival.stray_files)
        files = "1 machine file stands" if count == 1 else f"{count} machine files stand"
        findings.error(DeliveryError(f"{files} in the case folder, outside any delivery folder"))
    if arrival.unused_files:
        count = len(arrival.unused_files)
        files = "1 file in the case folder is" if count == 1 else f"{count} files in the case folder are"
        findings.note(f"{files} not used: {unused_kinds(arrival.unused_files)}")


_LIMITS = DeliveryLimits.model_validate({})
RESUMED_LAYER_MU = 1.02
"""Most MU, relative to the plan, that the parts of a layer may sum to and still be one irradiation."""


@dataclass(frozen=True, slots=True)
class _CheckedCase:
    machine: Machine | None
    ct_series: tuple[InputFile, ...]
    copies: tuple[InputFile, ...]
    scan_ends: tuple[ScanEnd, ...]


def build_manifest(
    survey: Survey,
    fraction: Fraction | None,
    case: str,
    fraction_number: int,
    machines: Machines,
    profile: EngineProfile | None = None,
) -> CaseManifest:
    """Check a fraction and make its manifest.

    Args:
        survey: The arrival with its plan and fractions.
        fraction: The fraction; None for an arrival that has none.
        case: Case key.
        fraction_number: The NNNN of the case key.
        machines: The machines of the site.
        profile: The site's engine, whose requirements are asked too; None where any engine may follow.

    Raises:
        InputError: The first fault, in the order of deliveries and layers.
    """
    if survey.source is None or fraction is None:
        error = survey.plan_error or DeliveryError("the case holds no delivery of a treatment beam")
        raise error.at(Where(case=case))
    source = survey.source
    findings = Findings()
    checked_case = _check_whole(survey, source, machines, profile, findings)
    deliveries = _check_fraction(fraction, source, checked_case.machine, findings)
    duplicates = list(checked_case.copies)
    for header in fraction.duplicates:
        with findings.collecting(Where()):
            duplicates += [file_entry(path, "delivery") for path in files_in(header.folder, "delivery")]
    for error in findings.errors():
        raise error.at(Where(case=case))
    machine = checked_case.machine
    if machine is None:
        raise PlanError("its machine is not known", where=Where(case=case, kind="RT plan"))
    beams = _beam_entries(deliveries)
    return CaseManifest(
        case=case,
        plan=source.file,
        plan_sop_instance_uid=source.plan.sop_instance_uid,
        machine_id=machine.id,
        fraction=fraction_number,
        clinical_fraction=survey.fractions.index(fraction) + 1 if fraction in survey.fractions else None,
        partial=bool(fraction.missing_beams) or not all(beam.complete for beam in beams),
        missing_beams=fraction.missing_beams,
        deliveries=tuple(delivery.entry for delivery in deliveries),
        beams=beams,
        ct_series=checked_case.ct_series,
        scan_ends=checked_case.scan_ends,
        duplicates=tuple(duplicates),
        unused=survey.arrival.unused_files,
        notes=findings.notes(),
    )


def check_case(
    survey: Survey,
    machines: Machines,
    profile: EngineProfile | None = None,
    limits: DeliveryLimits = _LIMITS,
) -> CaseCheck:
    """Run every check on every fraction of an arrival and report all findings.

    Args:
        survey: The arrival with its plan and fractions.
        machines: The machines of the site.
        profile: The site's engine, whose requirements are asked too; None where any engine may follow.
        limits: How far a delivery may be from its plan.
    """
    findings = Findings()
    source = survey.source
    if source is None:
        if survey.plan_error is not None:
            findings.error(survey.plan_error)
        for fraction in survey.fractions:
            _check_broken(fraction, findings)
        return CaseCheck(
            passed=False,
            as_planned=False,
            machine_id=None,
            ct_images=0,
            findings=findings.all(),
            fractions=(),
        )
    if not survey.fractions:
        findings.error(DeliveryError("the case holds no delivery of a treatment beam"))
    whole = _check_whole(survey, source, machines, profile, findings)
    fractions = tuple(
        _fraction_check(number, fraction, source, whole.machine, limits)
        for number, fraction in enumerate(survey.fractions, start=1)
    )
    every = [*findings.all(), *(finding for fraction in fractions for finding in fraction.findings)]
    return CaseCheck(
        passed=all(finding.severity is not Severity.ERROR for finding in every),
        as_planned=all(
            beam.delivery is not None and beam.delivery.as_planned
            for fraction in fractions
            for beam in fraction.beams
        ),
        machine_id=whole.machine.id if whole.machine is not None else None,
        ct_images=len(whole.ct_series),
        findings=findings.all(),
        fractions=fractions,
    )


def _check_whole(
    survey: Survey,
    source: PlanSource,
    machines: Machines,
    profile: EngineProfile | None,
    findings: Findings,
) -> _CheckedCase:
    check_names(source.plan, findings)
    machine = check_machine(source.plan, machines, findings)
    check_folder(survey.arrival, source.plan, findings)
    images = check_images(survey.arrival, source.plan, profile, findings)
    ends = scan_ends(images.slices, source.plan.beams, machine) if images.slices else ()
    for end in ends:
        findings.note(str(end), AT_CT)
    in_images = bool(survey.arrival.ct_files) and (profile is None or profile.patient_ct)
    for error in plan_position_faults(source.plan, in_images=in_images):
        findings.error(error)
    for beam in source.plan.beams:
        if machine is not None:
            # Where no site is known, any engine may follow.
            beam_model = profile is None or profile.reads_beam_model
            for fault in beam_faults(beam, machine, beam_model=beam_model, in_images=in_images):
                findings.error(PlanError(f"beam {beam.number}: {fault}", where=Where(kind="RT plan")))
        if beam.not_simulated:
            devices = " and ".join(beam.not_simulated)
            findings.note(f"beam {beam.number}: the dose is without its {devices}", Where(kind="RT plan"))
    if source.copies:
        findings.note("a copy of the plan is set aside", Where(kind="RT plan"))
    return _CheckedCase(machine, images.series, (*source.copies, *images.copies), ends)


def _check_fraction(
    fraction: Fraction, source: PlanSource, machine: Machine | None, findings: Findings
) -> list[CheckedDelivery]:
    if not fraction.deliveries:
        findings.error(DeliveryError("the case holds no readable delivery of a treatment beam"))
    _check_broken(fraction, findings)
    for error in overlap_errors(fraction):
        findings.error(error)
    checked = []
    for header in fraction.deliveries:
        number = fraction.number_of(header.folder)
        with findings.collecting(Where(delivery=number)):
            delivery = check_delivery(header, number, source.plan, machine, findings)
            if delivery is not None:
                checked.append(delivery)
    _check_resumed(checked, findings)
    for header in fraction.setup:
        findings.note(
            f"it belongs to setup beam {header.info.beam_number} and is set aside",
            Where(delivery=fraction.number_of(header.folder)),
        )
    for header in fraction.duplicates:
        original = next(h for h in (*fraction.deliveries, *fraction.setup) if h.identity == header.identity)
        findings.note("an exact copy is set aside", Where(delivery=fraction.number_of(original.folder)))
    if fraction.missing_beams:
        missing = ", ".join(str(number) for number in fraction.missing_beams)
        findings.note(f"partial fraction: no delivery of beam {missing}")
    for beam in _beam_entries(checked):
        if not beam.complete:
            planned = len(source.plan.beam(beam.number).layers)
            findings.note(
                f"partial fraction: {len(beam.layers)} of {planned} layers of beam {beam.number} delivered"
            )
    return checked


def _check_broken(fraction: Fraction, findings: Findings) -> None:
    for broken in fraction.broken:
        findings.error(broken.error, Where(delivery=fraction.number_of(broken.folder)))


def _check_resumed(deliveries: Sequence[CheckedDelivery], findings: Findings) -> None:
    """A layer in two parts was resumed only if both together are not more than the plan."""
    for _, number, parts in _layers_of_beams(deliveries):
        sums = [part.check.delivered_mu for part in parts if part.check.delivered_mu is not None]
        planned = parts[0].check.planned_mu
        if len(parts) < 2 or len(sums) < len(parts) or planned is None:
            continue
        if sum(sums) > RESUMED_LAYER_MU * planned:
            numbers = " and ".join(str(part.check.delivery) for part in parts)
            findings.error(
                DeliveryError(
                    f"deliveries {numbers} of beam {parts[0].check.beam_number} sum to {sum(sums):.3f} MU in"
                    f" this layer, planned {planned:.3f} MU: no parts of one irradiation",
                    where=Where(delivery=parts[-1].check.delivery, layer=number),
                )
            )


def _layers_of_beams(
    deliveries: Sequence[CheckedDelivery],
) -> list[tuple[PlanBeam, int, list[CheckedLayer]]]:
    """Every delivered layer of every beam of the plan, its parts in time order."""
    beams: dict[int, PlanBeam] = {}
    parts: dict[tuple[int, int], list[CheckedLayer]] = defaultdict(list)
    for delivery in deliveries:
        if delivery.beam is not None:
            beams[delivery.beam.number] = delivery.beam
            for layer in delivery.layers:
                parts[delivery.beam.number, layer.check.layer].append(layer)
    return [(beams[beam], number, parts[beam, number]) for beam, number in sorted(parts)]


def _beam_entries(deliveries: Sequence[CheckedDelivery]) -> tuple[BeamEntry, ...]:
    layers: dict[int, list[LayerEntry]] = defaultdict(list)
    beams: dict[int, PlanBeam] = {}
    for beam, number, parts in _layers_of_beams(deliveries):
        planned = beam.layer(number)
        beams[beam.number] = beam
        layers[beam.number].append(
            LayerEntry(
                number=number,
                energy_mev=planned.energy_mev,
                planned_mu=planned.meterset_mu,
                delivered_mu=sum(part.check.delivered_mu or 0.0 for part in parts),
                parts=tuple(part.part for part in parts),
            )
        )
    return tuple(
        BeamEntry(
            number=number,
            name=beams[number].name,
            complete=len(layers[number]) == len(beams[number].layers),
            layers=tuple(layers[number]),
        )
        for number in sorted(layers)
    )


def _fraction_check(
    number: int, fraction: Fraction, source: PlanSource, machine: Machine | None, limits: DeliveryLimits
) -> FractionCheck:
    findings = Findings()
    deliveries = _check_fraction(fraction, source, machine, findings)
    beams: dict[int, list[CheckedLayer]] = defaultdict(list)
    names: dict[int, PlanBeam] = {}
    for beam, _, parts in _layers_of_beams(deliveries):
        beams[beam.number] += parts
        names[beam.number] = beam
    entries = {entry.number: entry for entry in _beam_entries(deliveries)}
    return FractionCheck(
        fraction=number,
        complete=fraction.complete,
        missing_beams=fraction.missing_beams,
        deliveries=tuple(
            DeliveryCheck(
                number=fraction.number_of(header.folder),
                beam_number=header.info.beam_number,
                irradiated_at=header.irradiated_at,
                first_layer=header.info.first_layer,
                last_layer=header.info.last_layer,
            )
            for header in fraction.deliveries
        ),
        beams=tuple(
            _compared(
                _beam_check(names[beam], parts), entries.get(beam), names[beam], machine, limits, findings
            )
            for beam, parts in sorted(beams.items())
        ),
        layers=tuple(layer.check for delivery in deliveries for layer in delivery.layers),
        findings=findings.all(),
    )


def _compared(
    check: BeamCheck,
    entry: BeamEntry | None,
    beam: PlanBeam,
    machine: Machine | None,
    limits: DeliveryLimits,
    findings: Findings,
) -> BeamCheck:
    """The beam with its comparison; without it where the records cannot be compared, which is a finding."""
    if entry is None or machine is None:
        return check
    try:
        layers = compare_beam(entry, beam, machine)
    except InputError:
        return check  # what is wrong with the files was found before
    except ConfigurationError as error:
        findings.note(f"beam {beam.number} cannot be compared with its plan: {error}")
        return check
    verdict = judge(layers, limits_of(limits, machine))
    return check.model_copy(update={"delivery": verdict, "comparison": layers})


def _beam_check(beam: PlanBeam, parts: Sequence[CheckedLayer]) -> BeamCheck:
    layers = {part.check.layer for part in parts}
    planned = sum(layer.meterset_mu for layer in beam.layers if layer.number in layers)
    sums = [part.check.delivered_mu for part in parts if part.check.delivered_mu is not None]
    delivered = sum(sums) if len(sums) == len(parts) else None
    return BeamCheck(
        number=beam.number,
        name=beam.name,
        layers=len(layers),
        planned_layers=len(beam.layers),
        delivered_mu=delivered,
        planned_mu=planned,
        ratio=delivered / planned if delivered is not None and planned else None,
    )
