"""``mqi gpu …``: the GPUs, who has them, and which of them take part."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mqi_dagster.cli.options import SiteOption
from mqi_dagster.cli.screen import output
from mqi_dagster.errors import ConfigurationError, UnreachableError
from mqi_dagster.ledger.availability import absence
from mqi_dagster.ledger.gpus import GpuUsage
from mqi_dagster.ledger.leases import Lease
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.slots import Slot
from mqi_dagster.moments import in_zone
from mqi_dagster.operations.sites import DEFAULT_SITE, settings_path
from mqi_dagster.worklist.pool import side_by_side

_SEEN = (
    "name",
    "used_mb",
    "utilisation_percent",
    "temperature_c",
    "sm_clock_mhz",
    "memory_clock_mhz",
    "foreign_processes",
    "allocated",
)


def gpu_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """One row a slot, and one a GPU that is seen and in no pool."""
    rows, others = side_by_side(ledger.slots(), ledger.leases(), ledger.gpus())
    return [*(_row(*row) for row in rows), *(_unpooled(look) for look in others)]


def _row(slot: Slot, lease: Lease | None, look: GpuUsage | None) -> dict[str, Any]:
    state = "leased" if lease is not None else "free"
    if slot.switched_off_at is not None:
        state = f"off: {slot.switched_off_reason}"
    elif not slot.in_service:
        state = absence(None if look is None else look.seen_at)
    elif lease is None and look is not None and look.foreign_processes:
        state = f"{look.foreign_processes} foreign processes"
    return {
        "slot": slot.name,
        "host": slot.host,
        "kind": slot.kind.value,
        "index": slot.index,
        "uuid": slot.uuid,
        "in_pool": slot.usable,
        "state": state,
        "beam": None if lease is None else lease.beam,
        "run": None if lease is None else lease.owner,
        "memory_mb": slot.memory_mb or (None if look is None else look.memory_mb),
        **_seen(look),
    }


def _unpooled(look: GpuUsage) -> dict[str, Any]:
    taken = {True: "in use", False: "free", None: "not of the pool"}[look.allocated]
    return {
        "slot": f"{look.host}/{look.uuid}" if look.allocated is not None else f"{look.host}/gpu{look.index}",
        "host": look.host,
        "kind": "gpu",
        "index": look.index,
        "uuid": look.uuid,
        "in_pool": False,
        "state": taken,
        "beam": None,
        "run": None,
        "memory_mb": look.memory_mb,
        **_seen(look),
    }


def _seen(look: GpuUsage | None) -> dict[str, Any]:
    values = dict.fromkeys(_SEEN) if look is None else asdict(look)
    seen_at = None if look is None else look.seen_at.isoformat(timespec="seconds")
    return {**{name: values[name] for name in _SEEN}, "seen_at": seen_at}


if TYPE_CHECKING:
    from mqi_dagster.ledger.slots import Slot
    from mqi_dagster.resources.site import Site

gpu_app = typer.Typer(help="The GPUs and slots of simulations.", no_args_is_help=True)

SlotArgument = Annotated[
    str, typer.Argument(metavar="HOST/GPU", help="Host and index or UUID, as `mqi gpu list` shows them.")
]
_COLUMNS = {
    "slot": "slot",
    "state": "state",
    "beam": "beam",
    "memory_mb": "MB",
    "used_mb": "used",
    "utilisation_percent": "%",
    "temperature_c": "°C",
    "name": "GPU",
}
_REASON = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


@gpu_app.command("list")
def list_gpus(
    site: SiteOption = DEFAULT_SITE, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
) -> None:
    """List every slot and GPU: who has it, what it is doing, and why it is out of service."""
    from mqi_dagster.cli.gpu import gpu_rows
    from mqi_dagster.compute.slots import look_at

    opened = _opened(site)
    try:
        look_at(opened, opened.settings.execution.gpu_monitoring)
    except UnreachableError as error:
        output(stderr=True).print(Text(f"as last seen: {error.message}", style="yellow"), soft_wrap=True)
    rows = gpu_rows(opened.ledger)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    console = output()
    if not rows:
        console.print("no slot and no GPU is known here")
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in _COLUMNS.values():
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[name], opened.timezone) for name in _COLUMNS))
    console.print(table)


@gpu_app.command()
def off(
    slot: SlotArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; shown to everybody who waits.")],
    site: SiteOption = DEFAULT_SITE,
) -> None:
    """Take a GPU or slot out of the pool; the beam that has it keeps it to its end."""
    if not _REASON.fullmatch(reason):
        raise typer.BadParameter("--reason is one line of at most 200 characters")
    opened = _opened(site)
    found = _find(opened, slot)
    opened.ledger.switch_off(found.host, found.kind.value, found.index, reason)
    _say(f"{found.name} is out of the pool", _adapt(opened))


@gpu_app.command()
def on(slot: SlotArgument, site: SiteOption = DEFAULT_SITE) -> None:
    """Put a GPU or slot back into the pool."""
    opened = _opened(site)
    found = _find(opened, slot)
    opened.ledger.switch_on(found.host, found.kind.value, found.index)
    _say(f"{found.name} is in the pool", _adapt(opened))


@gpu_app.command("set-limit")
def set_limit(
    runs: Annotated[
        str, typer.Argument(metavar="N|auto", help="Runs in the pool at most; auto: slots and buffer.")
    ],
    site: SiteOption = DEFAULT_SITE,
) -> None:
    """Set how many runs may simulate or wait for a slot at once, until it is set to `auto` again.

    It can only be lower than what the slots and `execution.pool_buffer` allow; `mqi init` and `mqi dev` keep
    it.
    """
    from mqi_dagster.lifecycle.jobs import POOL
    from mqi_dagster.operations.instance import simulations_at_once

    if runs != "auto" and not re.fullmatch(r"[1-9][0-9]{0,3}", runs):
        raise typer.BadParameter("the limit is a number from 1 on, or auto")
    opened = _opened(site)
    settings = opened.settings
    at_once = simulations_at_once(settings, opened.ledger, switched_off_too=True)
    buffer = settings.execution.pool_buffer
    if runs != "auto" and int(runs) > at_once + buffer:
        raise ConfigurationError(
            f"{runs} runs are more than {at_once} simulations and a buffer of {buffer}: the others would only"
            " wait; raise execution.pool_buffer where that is wanted"
        )
    opened.ledger.set_pool_limit(POOL, None if runs == "auto" else int(runs))
    _say("the limit is set", _adapt(opened))


def _opened(place: Path) -> Site:
    from mqi_dagster.compute.slots import declare_slots
    from mqi_dagster.resources.site import Site

    site = Site(settings_path(place))
    declare_slots(site)
    return site


def _find(site: Site, name: str) -> Slot:
    host, _, rest = name.rpartition("/")
    found = [
        slot
        for slot in site.ledger.slots()
        if slot.host == host
        and rest in (str(slot.index), slot.uuid or None, f"{slot.kind.value}{slot.index}")
    ]
    in_service = [slot for slot in found if slot.in_service] or found
    if len(in_service) != 1:
        known = ", ".join(slot.name for slot in site.ledger.slots())
        raise ConfigurationError(f"{name} is no slot of the pool (known: {known})")
    return in_service[0]


def _adapt(site: Site) -> int:
    """Bring the limit of the pool in step with what is switched off; the limit."""
    from mqi_dagster.operations.instance import open_instance, pool_limit, set_pool_limit

    with open_instance(site.settings) as instance:
        set_pool_limit(instance, site.settings, site.ledger)
    return pool_limit(site.settings, site.ledger)


def _say(what: str, limit: int) -> None:
    output().print(Text(f"{what}; at most {limit} runs simulate or wait"), soft_wrap=True)


def _cell(value: Any, zone: tzinfo) -> Text:
    return Text("" if value is None else in_zone(str(value), zone))
