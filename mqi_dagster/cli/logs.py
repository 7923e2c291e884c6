"""``mqi logs``: what services, engines and models have written, and what they write."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.text import Text

from mqi_dagster.cli.completion import completed
from mqi_dagster.cli.options import SiteOption
from mqi_dagster.cli.screen import hide_previews, output
from mqi_dagster.errors import InputError
from mqi_dagster.operations.completion import beams, courses
from mqi_dagster.operations.logs import LogLine, Tail, any_there, last_lines, service_tails
from mqi_dagster.operations.service_locks import Service
from mqi_dagster.operations.sites import DEFAULT_SITE, open_site, require_site

_POLL_SECONDS = 0.3


def logs(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="SERVICE|BEAM|COURSE",
            help=f"{', '.join(Service)}, or the key of a beam, a case or a course; without: all services.",
            autocompletion=completed(lambda _site, _begin: list(Service), beams, courses),
        ),
    ] = None,
    site: SiteOption = DEFAULT_SITE,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="The last so many of each log.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Each line as a JSON object.")] = False,
) -> None:
    """Show what the services have written, or the engine of a beam or the models of a course."""
    if name is None or name in list(Service):
        wanted = Service if name is None else [Service(name)]
        tails, elsewhere = service_tails(require_site(site)[1], wanted)
        if elsewhere:
            output(stderr=True).print(Text(elsewhere, style="dim"), soft_wrap=True)
        _show(tails, lines, follow, as_json)
        return
    hide_previews()
    from mqi_dagster.operations.engine_log import partition_tails
    from mqi_dagster.operations.instance import open_instance

    opened = open_site(site)
    with open_instance(opened.settings) as instance:
        _show(partition_tails(instance, opened, name), lines, follow, as_json)


def _show(tails: Sequence[Tail], lines: int, follow: bool, as_json: bool) -> None:
    if not follow and not any_there(tails):
        raise InputError("nothing has been written yet; --follow waits for it")
    width = max(len(tail.name) for tail in tails) if len(tails) > 1 else 0

    def say(found: Sequence[LogLine]) -> None:
        for one in found:
            label = f"{one.name:<{width}} | " if width else ""
            typer.echo(json.dumps(one.content()) if as_json else f"{label}{one.line}")

    say(last_lines(tails, lines, whole=not follow))
    while follow:
        time.sleep(_POLL_SECONDS)
        for tail in tails:
            say(tail.more())
