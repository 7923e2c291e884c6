"""`mqi case check`: is a delivered case whole and consistent, without simulating anything."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mqi_dagster.cli.screen import plain_table
from mqi_dagster.delivery.discovery import arrival_of
from mqi_dagster.delivery.survey import survey_arrival
from mqi_dagster.delivery.validation import BeamCheck, CaseCheck, FractionCheck, check_case
from mqi_dagster.delivery.validation_findings import Finding, Findings, Severity
from mqi_dagster.dicom.scanner import read_scanner
from mqi_dagster.errors import DicomError, Where, shown
from mqi_dagster.hu_table import read_hu_tables
from mqi_dagster.machine import PACKAGED_MACHINES, read_machines
from mqi_dagster.operations.sites import local_zone, settings_path
from mqi_dagster.settings import DeliveryLimits, EngineProfile, Intake, Settings, read_settings


def check_folder(
    folder: Path, site: Path | None, machines: Path | None, timezone: str | None
) -> tuple[CaseCheck, str]:
    """Check the case of a folder.

    Args:
        folder: The case, or a folder that holds exactly one.
        site: Folder or settings file of a site; without it the product's machine files are used.
        machines: Folder of other machine files.
        timezone: Zone of the machines' times; the site's or this computer's where None.

    Returns:
        What was found, and the zone that times were read in.

    Raises:
        MqiError: The folder holds no case, or the site or the machine files cannot be read.
    """
    intake, folder_of_machines, zone = Intake.model_validate({}), PACKAGED_MACHINES, local_zone()
    profile: EngineProfile | None = None
    limits = DeliveryLimits.model_validate({})
    if site is not None:
        settings = read_settings(settings_path(site))
        intake, folder_of_machines = settings.intake, settings.paths.machines
        zone, limits = settings.site.timezone, settings.delivery_check
        profile = settings.engine.in_use()
    known = read_machines(machines or folder_of_machines)
    name = timezone or zone
    window = timedelta(minutes=intake.fraction_window_minutes)
    survey = survey_arrival(arrival_of(folder, intake), ZoneInfo(name), window)
    check = check_case(survey, known, profile, limits)
    if site is not None:
        check = _with_hu_table(check, survey.arrival.ct_files, settings)
    return check, name


def _with_hu_table(check: CaseCheck, images: Sequence[Path], settings: Settings) -> CaseCheck:
    """The check with the HU table that the site would use, or with the fault that there is none.

    Raises:
        ConfigurationError: The site's tables cannot be read, or two are for this scanner.
    """
    profile = settings.engine.in_use()
    if not (check.ct_images and check.machine_id and profile.patient_ct and profile.reads_beam_model):
        return check
    findings = Findings()
    with findings.collecting(Where(kind="CT")):
        try:
            scanner = read_scanner(images[0])
        except (DicomError, OSError):
            return check  # said already: every image was opened
        table = read_hu_tables(settings.paths.hu_tables).of(scanner, check.machine_id)
        findings.note(f"HU table {table.name}", Where(kind="CT"))
    return check.model_copy(
        update={
            "findings": (*check.findings, *findings.all()),
            "passed": check.passed and not findings.errors(),
        }
    )


def show_check(console: Console, check: CaseCheck) -> None:
    """The findings as tables."""
    several = len(check.fractions) > 1
    for fraction in check.fractions:
        if several:
            console.print(Text(f"Fraction {fraction.fraction}", style="bold"))
        console.print(_beams(fraction))
        for beam in fraction.beams:
            if beam.delivery is not None and not beam.delivery.as_planned:
                text = f"not as planned: beam {beam.number}, {beam.delivery.text}"
                console.print(Text(text, style="yellow"), soft_wrap=True)
    every: list[tuple[int | None, Finding]] = [(None, finding) for finding in check.findings]
    every += [
        (fraction.fraction if several else None, finding)
        for fraction in check.fractions
        for finding in fraction.findings
    ]
    for fraction_number, finding in every:
        console.print(_finding(fraction_number, finding), soft_wrap=True)
    faults = sum(finding.severity is Severity.ERROR for _, finding in every)
    verdict = (
        (Text("passed", style="green") if check.as_planned else Text("whole, but not as planned", "yellow"))
        if check.passed
        else Text(f"not passed: {faults} fault{'' if faults == 1 else 's'}", "red")
    )
    machine = f"machine {check.machine_id or 'unknown'}"
    images = f", {check.ct_images} CT images" if check.ct_images else ""
    console.print(Text.assemble(verdict, f" ({machine}{images})"))


def _beams(fraction: FractionCheck) -> Table:
    numbers = ("layers", "planned MU", "delivered MU", "MU ratio", "as planned", "samples", "energies [MeV]")
    table = plain_table("beam", "name", *numbers, right=("beam", *numbers), no_wrap=False)
    for beam in fraction.beams:
        table.add_row(*_beam(fraction, beam))
    for number in fraction.missing_beams:
        table.add_row(str(number), "", "none", "", "", "", "", "", "", style="yellow")
    return table


def _beam(fraction: FractionCheck, beam: BeamCheck) -> tuple[str | Text, ...]:
    layers = [layer for layer in fraction.layers if layer.beam_number == beam.number]
    energies = [layer.energy_mev for layer in layers]
    low, high = min(energies), max(energies)
    return (
        str(beam.number),
        Text(shown(beam.name)),
        str(beam.layers) if beam.layers == beam.planned_layers else f"{beam.layers} of {beam.planned_layers}",
        f"{beam.planned_mu:.3f}",
        "-" if beam.delivered_mu is None else f"{beam.delivered_mu:.3f}",
        "-" if beam.ratio is None else f"{beam.ratio:.4f}",
        "-" if beam.delivery is None else "yes" if beam.delivery.as_planned else "no",
        f"{sum(layer.rows for layer in layers):,}",
        f"{high:g}" if low == high else f"{high:g} - {low:g}",
    )


def _finding(fraction: int | None, finding: Finding) -> Text:
    place = "" if fraction is None else f"fraction {fraction}, "
    style = "red" if finding.severity is Severity.ERROR else "dim"
    return Text.assemble((f"{finding.severity.value}: ", style), f"{place}{finding}")
