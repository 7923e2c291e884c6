"""``mqi gpu …``: the GPUs, who has them, and which of them take part."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from rich.text import Text

from mqi_dagster.cli.completion import completed
from mqi_dagster.cli.options import JsonOption, SiteOption
from mqi_dagster.cli.screen import output, print_json, show_rows
from mqi_dagster.moments import in_zone
from mqi_dagster.operations.completion import slots
from mqi_dagster.operations.sites import DEFAULT_SITE
from mqi_dagster.people.rights import Actor

gpu_app = typer.Typer(help="The GPUs and slots of simulations.", no_args_is_help=True)

SlotArgument = Annotated[
    str,
    typer.Argument(
        metavar="HOST/GPU",
        help="Host and index or UUID, as `mqi gpu list` shows them.",
        autocompletion=completed(slots),
    ),
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


@gpu_app.command("list")
def list_gpus(site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """List every slot and GPU: who has it, what it is doing, and why it is out of service."""
    from mqi_dagster.operations.gpus import gpu_rows, open_pool, sampled

    opened = open_pool(site)
    if trouble := sampled(opened):
        output(stderr=True).print(Text(f"as last seen: {trouble}", style="yellow"), soft_wrap=True)
    rows = gpu_rows(opened.ledger)
    nothing = "no slot and no GPU is known here"
    show_rows(rows, as_json, _COLUMNS, nothing, lambda text: in_zone(text, opened.timezone))


@gpu_app.command()
def off(
    slot: SlotArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; shown to everybody who waits.")],
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Take a GPU or slot out of the pool; the beam that has it keeps it to its end."""
    from mqi_dagster.operations.gpus import REASON, open_pool, switch_off

    if not REASON.fullmatch(reason):
        raise typer.BadParameter("--reason is one line of at most 200 characters")
    name, limit = switch_off(open_pool(site), Actor.of_this_account(), slot, reason)
    _say(f"{name} is out of the pool", limit, as_json, slot=name)


@gpu_app.command()
def on(slot: SlotArgument, site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """Put a GPU or slot back into the pool."""
    from mqi_dagster.operations.gpus import open_pool, switch_on

    name, limit = switch_on(open_pool(site), Actor.of_this_account(), slot)
    _say(f"{name} is in the pool", limit, as_json, slot=name)


@gpu_app.command("set-limit")
def limit_runs(
    runs: Annotated[
        str, typer.Argument(metavar="N|auto", help="Runs in the pool at most; auto: slots and buffer.")
    ],
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Set how many runs may simulate or wait for a slot at once, until it is set to `auto` again.

    It can only be lower than what the slots and `execution.pool_buffer` allow; `mqi init` and `mqi dev` keep
    it.
    """
    from mqi_dagster.operations.gpus import open_pool, set_limit

    if runs != "auto" and not re.fullmatch(r"[1-9][0-9]{0,3}", runs):
        raise typer.BadParameter("the limit is a number from 1 on, or auto")
    limit = set_limit(open_pool(site), Actor.of_this_account(), None if runs == "auto" else int(runs))
    _say("the limit is set", limit, as_json)


def _say(what: str, limit: int, as_json: bool, **facts: str) -> None:
    if as_json:
        print_json({**facts, "limit": limit})
        return
    output().print(Text(f"{what}; at most {limit} runs simulate or wait"), soft_wrap=True)
