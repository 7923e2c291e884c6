"""``mqi model …``: the segmentation models, and bringing one in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.text import Text

from mqi_dagster.cli.completion import completed
from mqi_dagster.cli.exit_codes import ExitCode
from mqi_dagster.cli.options import GivenSite, JsonOption
from mqi_dagster.cli.screen import output, print_json, show_rows
from mqi_dagster.errors import LONGEST_MESSAGE, shown_message
from mqi_dagster.operations.completion import models
from mqi_dagster.operations.sites import site_in_use

model_app = typer.Typer(help="The segmentation models of courses.", no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(help="Of the model, as `mqi model list` shows it.", autocompletion=completed(models)),
]
_COLUMNS = {
    "name": "model",
    "version": "version",
    "modality": "for",
    "runtime": "runtime",
    "regions": "regions",
    "used": "used",
    "state": "state",
}


@model_app.command("list")
def list_models(site: GivenSite = None, as_json: JsonOption = False) -> None:
    """List every model: packaged, of the site, and of the user; one that cannot be used with the reason."""
    from mqi_dagster.operations.models import model_rows

    show_rows(model_rows(site_in_use(site)), as_json, _COLUMNS, "there is no model", str)


@model_app.command("check")
def check(
    name: Name,
    site: GivenSite = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images", exists=True, file_okay=False, help="Also segment ROLE.nii.gz of this folder."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", file_okay=False, help="Where to; else below the images.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a model before a course needs it: card, weights, runtime, memory; exit code 1 where one fails."""
    from dataclasses import asdict

    from mqi_dagster.imaging.models.model_errors import ModelError
    from mqi_dagster.operations.models import check_model, try_model

    used = site_in_use(site)
    findings = check_model(used, name)
    passed = all(one.passed for one in findings)
    regions = []
    if images is not None and passed:
        try:
            regions = try_model(used, name, images, out or images / "out")
        except ModelError as error:
            # On the user's own screen, where its paths belong.
            if error.log:
                output(stderr=True).print(Text(shown_message(error.log.strip()[-LONGEST_MESSAGE:])))
            raise
    if as_json:
        print_json(
            {
                "model": name,
                "passed": passed,
                "findings": [asdict(one) for one in findings],
                "regions": regions,
            }
        )
    else:
        console = output()
        for one in findings:
            mark = Text("passed" if one.passed else "failed", style="green" if one.passed else "red")
            console.print(Text.assemble(mark, f"  {one.what}: {one.text}"), soft_wrap=True)
        for region in regions:
            console.print(f"        {escape(region['name'])}: {region['volume_cm3']:.1f} cm³")
    if not passed:
        raise typer.Exit(ExitCode.FAILED)


@model_app.command("install")
def install(
    name: Annotated[
        str,
        typer.Argument(
            help="`brain_mr`: the brain in a T1-weighted MR image.",
            autocompletion=completed(lambda _site, _begin: ["brain_mr"]),
        ),
    ],
    site: GivenSite = None,
    wheel: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Its wheel as a file, without a network.")
    ] = None,
    torch: Annotated[
        str | None, typer.Option(help="What pip installs to read its networks once, and throws away.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Install a model by name, version and SHA-256, into the site's models or, without a site, the user's."""
    from mqi_dagster.operations.models import install_model

    console = output(stderr=as_json)
    with console.status(f"installing {name}, unless it is there: torch is fetched once and thrown away"):
        model = install_model(site_in_use(site), name, wheel, torch)
    if as_json:
        card = model.card
        print_json({"name": card.name, "version": card.version, "folder": str(model.folder)})
        return
    console.print(f"{model.card.name} {model.card.version}: {escape(str(model.folder))}", soft_wrap=True)


@model_app.command("weights")
def weights(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A new model folder.")],
) -> None:
    """Print the section `weights` for the card of a new model folder: every file with its SHA-256."""
    from mqi_dagster.operations.models import weights_lines

    typer.echo("weights:")
    for one in weights_lines(folder):
        typer.echo(f"  - file: {json.dumps(one['file'])}\n    sha256: {json.dumps(one['sha256'])}")
