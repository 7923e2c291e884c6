"""``mqi top``: where every case and beam stands, in a terminal, once, or as JSON."""

import sys
from datetime import timedelta
from typing import Annotated

import typer

from mqi_dagster.cli.options import SiteOption, states_of
from mqi_dagster.cli.screen import hide_previews, output
from mqi_dagster.operations.sites import DEFAULT_SITE, open_site


def top(
    site: SiteOption = DEFAULT_SITE,
    once: Annotated[bool, typer.Option("--once", help="Print the board once, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything once, as one JSON document.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds from one snapshot to the next.", min=0.2)] = 1.0,
    hours: Annotated[float, typer.Option(help="How long a concluded case is still listed.", min=0)] = 24.0,
    state: Annotated[str | None, typer.Option(help="Begin with what is in this state.")] = None,
    text: Annotated[str, typer.Option(help="Begin with what holds this text.")] = "",
    cases: Annotated[bool, typer.Option("--cases", help="Begin with cases in place of beams.")] = False,
) -> None:
    """Show every case and beam, the GPUs, the queue and the alarms; keys filter, move and open logs.

    It only reads, and may be started as often as you like. Without a terminal it prints once.
    """
    from mqi_dagster.cli.top_screen import View, print_once
    from mqi_dagster.operations.board_reader import BoardReader
    from mqi_dagster.worklist.reading import read_only_process

    hide_previews()
    wanted = states_of([state])[0] if state is not None else None
    opened = open_site(site)
    read_only_process()
    console = output()
    live = sys.stdin.isatty() and console.is_terminal and not once and not as_json
    view = View(cases=cases, state=wanted, text=text, zone=opened.timezone)
    reader = BoardReader(opened, timedelta(hours=hours), _CAUSES_AT_ONCE if live else None, again=live)
    if live:
        from mqi_dagster.cli.top_app import Board

        Board(opened, reader, interval, view, console).run()
    elif as_json:
        typer.echo(reader.snapshot().model_dump_json(indent=1))
    else:
        print_once(console, reader.snapshot(), view, opened.settings.site.name)


_CAUSES_AT_ONCE = 20
"""A board that has just been opened shows at once, and the causes of many failures one after the other."""
