"""The checks that concern the case as a whole: machine, range shifters, folder name, files of no use."""

from __future__ import annotations

import re

from mqi_dagster.delivery.discovery import Arrival
from mqi_dagster.delivery.validation_findings import Findings
from mqi_dagster.delivery.validation_images import unused_kinds
from mqi_dagster.errors import DeliveryError, PlanError, PrivacyError, UnknownMachineError, Where
from mqi_dagster.machine import Machine, Machines
from mqi_dagster.plan.model import IonPlan

UID_LIKE = re.compile(r"[0-9]+(\.[0-9]+){3,}")
AT_PLAN = Where(kind="RT plan")


def check_names(plan: IonPlan, findings: Findings) -> None:
    """Find what of a plan's names names the patient: they go into folders, engines, pages and messages."""
    for beam in plan.beams:
        named = {"name": beam.name, "description": beam.description, "machine name": beam.machine_name}
        named |= {f"range shifter {one.number}": one.shifter_id for one in beam.range_shifters}
        for role, told in named.items():
            found = plan.identity.named_in(told)
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


def check_folder(arrival: Arrival, plan: IonPlan, findings: Findings) -> None:
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
