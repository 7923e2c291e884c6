"""``mqi segmentation …``: image series of a PACS, segmented when somebody asks for it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from mqi_dagster.cli.completion import completed
from mqi_dagster.cli.options import ImageSetArgument, JsonOption, SiteOption, WaitOption
from mqi_dagster.cli.screen import hide_previews, output, plain_table, print_json, show_rows
from mqi_dagster.moments import in_zone, local
from mqi_dagster.operations.completion import models
from mqi_dagster.operations.sites import DEFAULT_SITE, open_site
from mqi_dagster.resources.site import Site

if TYPE_CHECKING:
    from mqi_dagster.operations.segmentation_request import RequestStanding

segmentation_app = typer.Typer(help="Ask for segmentations of series in the PACS.", no_args_is_help=True)
_STYLES = {"pending": "", "processing": "cyan", "completed": "green", "failed": "red"}


@segmentation_app.command("series")
def series(
    text: Annotated[str, typer.Argument(help="Part of a name, a patient ID or a study's description.")] = "",
    modality: Annotated[str, typer.Option("--modality", help="Only of this one, such as MR.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="The newest so many.")] = 50,
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """List series of the PACS, the newest first, with whose they are; the look is in the audit."""
    hide_previews()
    from dataclasses import asdict

    from mqi_dagster.operations.segmentation_request import find_series
    from mqi_dagster.people.rights import Actor

    found = find_series(open_site(site), Actor.of_this_account(), text, modality=modality, limit=limit)
    columns = ("identifier", "modality", "description", "images", "acquired", "patient_name", "patient_id")
    rows = [asdict(one) for one in found]
    show_rows(rows, as_json, {name: name.replace("_", " ") for name in columns}, "no series")


@segmentation_app.command("ask")
def ask(
    series: Annotated[list[str], typer.Argument(help="Identifiers in the PACS, in any order.")],
    model: Annotated[
        str,
        typer.Option("--model", help="By its name in `mqi model list`.", autocompletion=completed(models)),
    ],
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Ask for the segmentation of one or more series; it begins at once.

    Asked for once more it is the same request: what has failed is tried again, and what has been completed is
    made again only where the PACS has other images.
    """
    hide_previews()
    from mqi_dagster.operations import segmentation_request
    from mqi_dagster.operations.instance import open_instance
    from mqi_dagster.people.rights import Actor

    opened = open_site(site)
    with open_instance(opened.settings) as instance:
        found = segmentation_request.ask(opened, instance, Actor.of_this_account(), series, model)
    _show(found, opened, as_json)


@segmentation_app.command("list")
def list_requests(
    site: SiteOption = DEFAULT_SITE,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            help=f"Only {', '.join(_STYLES)}; may be repeated.",
            autocompletion=completed(lambda _site, _begin: list(_STYLES)),
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="The newest so many; 0 for all.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List the requests of a site, the newest first, and where each stands."""
    hide_previews()
    from mqi_dagster.operations.instance import open_instance
    from mqi_dagster.operations.segmentation_request import RequestState, requests

    try:
        states = [RequestState(name) for name in state or ()]
    except ValueError:
        raise typer.BadParameter(f"--state is one of {', '.join(RequestState)}") from None
    opened = open_site(site)
    with open_instance(opened.settings) as instance:
        rows = list(islice(requests(opened, instance, states), limit or None))
    if as_json:
        print_json([one.model_dump(mode="json") for one in rows])
        return
    table = plain_table("request", "state", "stage", "requested", "by")
    for one in rows:
        asked = local(one.requested_at, opened.timezone)
        state_text = Text(one.state.value, style=_STYLES[one.state])
        table.add_row(one.key, state_text, one.stage.words, asked, Text(one.requested_by))
    output().print(table if rows else Text("no request"))
    for one in rows:
        if one.reason:
            words = f"{one.key}: {in_zone(one.reason, opened.timezone)}"
            output().print(Text(words, style="dim"), soft_wrap=True)


@segmentation_app.command("show")
def show(request: ImageSetArgument, site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """Show where a request stands, and what it has made."""
    hide_previews()
    from mqi_dagster.operations.instance import open_instance
    from mqi_dagster.operations.segmentation_request import standing

    opened = open_site(site)
    with open_instance(opened.settings) as instance:
        found = standing(opened, instance, request)
    _show(found, opened, as_json)


def _show(found: RequestStanding, site: Site, as_json: bool) -> None:
    if as_json:
        print_json(found.model_dump(mode="json"))
        return

    def say(text: str) -> None:
        output().print(Text(text), soft_wrap=True)

    zone = site.timezone
    reason = f"; {in_zone(found.reason, zone)}" if found.reason else ""
    head = (f"request {found.key}: ", (found.state.value, _STYLES[found.state]), f"{reason}")
    output().print(Text.assemble(*head), soft_wrap=True)
    say(f"  asked for: {local(found.requested_at, zone)} by {found.requested_by}")
    for word, moment in (("began", found.started_at), ("ended", found.completed_at)):
        if moment is not None:
            say(f"  {word}: {local(moment, zone)}")
    if found.next_step is not None:
        say(f"  what to do: {found.next_step}")
    if found.result is not None:
        for one in found.result.regions:
            volume = f"{one.volume_mm3:,.0f} mm³, {one.voxels:,} voxels" if one.voxels else "not found"
            say(f"  {one.name}: {volume}")
        say(f"  in the PACS: {found.result.segmentation or 'nothing, since nothing was found'}")


@segmentation_app.command("retry")
def retry_failed(
    request: ImageSetArgument, site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False
) -> None:
    """Run once more what has failed of a request, in the running services."""
    hide_previews()
    from mqi_dagster.cli.run_control import retry_and_show
    from mqi_dagster.partitions import IMAGE_SET

    retry_and_show(open_site(site), IMAGE_SET.key(request).text, None, as_json)


@segmentation_app.command("cancel")
def cancel_runs(
    request: ImageSetArgument,
    site: SiteOption = DEFAULT_SITE,
    wait: WaitOption = True,
    as_json: JsonOption = False,
) -> None:
    """End what is queued or in work of a request, with its model; `mqi segmentation retry` begins it anew.

    What goes on all the same after three minutes is named, with exit code 1.
    """
    hide_previews()
    from mqi_dagster.cli.run_control import cancel_and_show
    from mqi_dagster.partitions import IMAGE_SET

    cancel_and_show(open_site(site), IMAGE_SET.key(request).text, None, wait, as_json)
