"""``mqi doctor``: is everything here that this installation needs?"""

from dataclasses import asdict
from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import typer
from rich.text import Text

from mqi_dagster.cli.options import JsonOption, SiteOption
from mqi_dagster.cli.screen import output, plain_table, print_json
from mqi_dagster.errors import MqiError
from mqi_dagster.moments import in_zone
from mqi_dagster.operations.sites import DEFAULT_SITE, require_site

_STYLE = {"ok": "green", "warning": "yellow", "fault": "red"}


def doctor(
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Look at dependencies, settings, folders, engine, GPUs, Dagster, services, hosts; exit 1 on a fault."""
    from mqi_dagster.operations.diagnosis import examine
    from mqi_dagster.operations.probes import ProbeVerdict

    findings = list(examine(site))
    faults = sum(finding.verdict is ProbeVerdict.FAULT for finding in findings)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        console, zone = output(), _zone(site)
        table = plain_table("what", "", "found", "what to do", fold=("found", "what to do"))
        for one in findings:
            verdict = Text(one.verdict.value, style=_STYLE[one.verdict.value])
            table.add_row(Text(one.subject), verdict, Text(in_zone(one.found, zone)), Text(one.advice))
        console.print(table)
        console.print("no fault" if faults == 0 else f"[red]{faults} fault{'s' * (faults > 1)}[/]")
    if faults:
        raise typer.Exit(1)


def _zone(site: Path) -> tzinfo:
    """The site's zone; UTC where its settings are what is wrong."""
    try:
        return ZoneInfo(require_site(site)[1].site.timezone)
    except MqiError:
        return UTC
