"""``mqi simulate-delivery``: a realistic case, with any defect, for tests and for a first look."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.markup import escape
from rich.table import Table

from mqi_dagster.cli.options import GivenSite, JsonOption
from mqi_dagster.cli.screen import output, plain_table, print_json
from mqi_dagster.errors import ConfigurationError, DicomError, PlanError, Where
from mqi_dagster.machine import PACKAGED_MACHINES, Machine, Machines, read_machines
from mqi_dagster.operations.sites import require_site, site_in_use
from mqi_dagster.synthetic.defects import DEFECTS, DefectKind, parse_defect
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest, Layout
from mqi_dagster.yaml_file import problems

DEFAULT_MACHINE = "GENERIC"
_Kind = TypeVar("_Kind", bound=BaseModel)


def simulate(
    target: Annotated[Path | None, typer.Argument(help="Folder to write the case into, an inbox.")] = None,
    plan: Annotated[
        Path | None, typer.Option(help="RT Ion Plan to deliver; a plan made in code where none is given.")
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(help="Treatment machine, by name or id; default: the plan's, or GENERIC."),
    ] = None,
    site: GivenSite = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.", min=0)] = 1,
    layout: Annotated[Layout, typer.Option(help="How the case lies in the inbox.")] = Layout.MACHINE,
    defect: Annotated[
        list[str] | None,
        typer.Option(help="What goes wrong, for example mu-error:beam=3,layer=2,percent=5. Repeatable."),
    ] = None,
    list_defects: Annotated[bool, typer.Option("--list-defects", help="Name every defect and end.")] = False,
    beams: Annotated[int | None, typer.Option(help="Beams of the plan made in code.", min=1)] = None,
    layers: Annotated[
        int | None, typer.Option(help="Layers of each beam; of a given plan only the first ones.", min=1)
    ] = None,
    spots: Annotated[
        int | None, typer.Option(help="Spots of each layer; of a given plan only the first ones.", min=2)
    ] = None,
    energy: Annotated[
        list[float] | None, typer.Option(help="Highest energy [MeV] of each beam made in code. Repeatable.")
    ] = None,
    gantry: Annotated[
        list[float] | None, typer.Option(help="Gantry angle of each beam made in code. Repeatable.")
    ] = None,
    couch: Annotated[float | None, typer.Option(help="Couch angle of the plan made in code.")] = None,
    range_shifter: Annotated[str | None, typer.Option(help="Range shifter of the plan made in code.")] = None,
    scan_mode: Annotated[
        str | None, typer.Option(help="Of the plan made in code: LINE, or MODULATED for spot scanning.")
    ] = None,
    order: Annotated[
        list[int] | None, typer.Option(help="BeamNumbers in the order of delivery. Repeatable.")
    ] = None,
    deliver: Annotated[
        list[int] | None, typer.Option(help="BeamNumbers to write now, all else as if all were. Repeatable.")
    ] = None,
    fractions: Annotated[int, typer.Option(help="Fractions to deliver.", min=1)] = 1,
    start: Annotated[
        datetime | None, typer.Option(help="The machine's own time of the first delivery.")
    ] = None,
    range_code: Annotated[int | None, typer.Option(help="Range of the dose monitor.", min=1)] = None,
    mu_ratio: Annotated[float | None, typer.Option(help="Delivered to planned monitor units.")] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Without the lag and the noise of real records.")
    ] = False,
    ct: Annotated[str, typer.Option(help="none, or water: a CT of a water cube at the isocentre.")] = "none",
    patient_id: Annotated[str | None, typer.Option(help="Patient ID in place of the plan's.")] = None,
    patient_name: Annotated[str | None, typer.Option(help="Patient name in place of the plan's.")] = None,
    birth_date: Annotated[
        str | None, typer.Option(help="Birth date (YYYYMMDD) instead of the plan's.")
    ] = None,
    case_name: Annotated[str | None, typer.Option(help="Folder of the simple layout.")] = None,
    group: Annotated[str | None, typer.Option(help="First folder of the grouped layout.")] = None,
    marker: Annotated[
        str | None, typer.Option(help="Marker file, written last, for sites that wait for one.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a case as the machine would: plan, PlanInfo, PlanRange, records and machine plans."""
    console = output()
    if list_defects and as_json:
        print_json({_written(kind): spec.description for kind, spec in DEFECTS.items()})
        return
    if list_defects:
        console.print(_defects())
        return
    if target is None:
        raise ConfigurationError("name the folder to write into: mqi simulate-delivery TARGET")
    # Its libraries take as long to load as everything else together.
    from mqi_dagster.synthetic.delivery import simulate_delivery

    used = site_in_use(site)
    machines = read_machines(PACKAGED_MACHINES if used is None else require_site(used)[1].paths.machines)
    made_in_code: dict[str, Any] = {
        "beams": beams,
        "energies_mev": energy,
        "gantry_deg": gantry,
        "couch_deg": couch,
        "range_shifter": range_shifter,
        "scan_mode": scan_mode,
    }
    given: dict[str, Any] = {
        "seed": seed,
        "layout": layout,
        "fractions": fractions,
        "ct": ct,
        "beams": order,
        "deliver": deliver,
        "start": start,
        "range_code": range_code,
        "mu_ratio": mu_ratio,
        "patient_id": patient_id,
        "patient_name": patient_name,
        "patient_birth_date": birth_date,
        "case_name": case_name,
        "group": group,
        "marker": marker,
        **({"lag_us": (0.0, 0.0), "noise_mm": (0.0, 0.0), "count_noise": 0.0} if exact else {}),
        "defects": [parse_defect(text) for text in defect or []],
    }
    if plan is None:
        if energy is not None and beams is None:
            made_in_code["beams"] = len(energy)
        built_in = {**made_in_code, "layers": layers, "spots": spots}
        given["plan"] = _validated(BuiltInPlan, built_in, "the plan")
    else:
        if unused := [name for name, value in made_in_code.items() if value is not None]:
            raise ConfigurationError(f"{', '.join(unused)}: only for the plan made in code, not with --plan")
        given |= {"plan": plan, "max_layers": layers, "max_spots": spots}
    request = _validated(DeliveryRequest, given, "the request")
    case = simulate_delivery(request, _machine(machines, machine, plan), target)
    if as_json:
        rows = [
            {
                "beam": one.beam,
                "fraction": one.fraction,
                "layers": [one.first_layer, one.last_layer],
                "samples": one.samples,
                "folder": str(one.folder),
            }
            for one in case.deliveries
        ]
        print_json({"case": str(case.folder), "deliveries": rows})
        return
    numbers = ("beam", "fraction", "layers", "samples")
    table = plain_table(*numbers, "folder", right=numbers, no_wrap=False)
    for one in case.deliveries:
        layers_text = f"{one.first_layer}-{one.last_layer}"
        table.add_row(str(one.beam), str(one.fraction), layers_text, f"{one.samples:,}", one.folder.name)
    console.print(f"case: {escape(str(case.folder))}", soft_wrap=True)
    console.print(table)


def _defects() -> Table:
    table = plain_table("defect", "what is wrong", fold=("what is wrong",))
    for kind, spec in DEFECTS.items():
        table.add_row(_written(kind), spec.description)
    return table


def _written(kind: DefectKind) -> str:
    """A defect as `--defect` takes it."""
    form = ",".join(f"{parameter}=" for parameter in DEFECTS[kind].parameters)
    return f"{kind.value}:{form}" if form else kind.value


def _validated(kind: type[_Kind], values: dict[str, Any], what: str) -> _Kind:
    """The request or plan of what was given; ConfigurationError where that does not fit."""
    try:
        return kind.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        raise ConfigurationError("; ".join(problems(error, kind, what))) from error


def _machine(machines: Machines, name: str | None, plan: Path | None) -> Machine:
    """The machine by TreatmentMachineName or id; that of the plan where none is named."""
    if name is None and plan is not None:
        return machines.named(_machine_of(plan))
    wanted = name or DEFAULT_MACHINE
    for machine in machines.all:
        if machine.id.lower() == wanted.lower():
            return machine
    return machines.named(wanted)


def _machine_of(plan: Path) -> str:
    from mqi_dagster.dicom.reading import decoding, read_dicom

    where = Where(kind="RT plan")
    try:
        content = read_dicom(plan, only=("IonBeamSequence",))
        with decoding():
            beams = content.get("IonBeamSequence") or []
            names = {str(beam.get("TreatmentMachineName", "")) for beam in beams} - {""}
    except OSError as error:
        raise PlanError("the plan cannot be opened", where=where, first_cause=error.strerror) from error
    except DicomError as error:
        raise PlanError(f"the plan {error.message}", where=where, first_cause=error.first_cause) from error
    if len(names) != 1:
        raise ConfigurationError("the plan names no single machine; give --machine")
    return names.pop()
