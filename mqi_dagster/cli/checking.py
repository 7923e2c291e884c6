"""``mqi validate``, ``settings-reference`` and ``engine install``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from mqi_dagster.cli.options import JsonOption, SiteOption
from mqi_dagster.cli.screen import output, print_json
from mqi_dagster.operations.settings_text import configuration_problems, settings_reference
from mqi_dagster.operations.sites import DEFAULT_SITE, SITE_VARIABLE, settings_path, site_in_use
from mqi_dagster.settings import read_settings

engine_app = typer.Typer(help="The embedded Monte Carlo engine.", no_args_is_help=True)


@engine_app.callback()
def _group() -> None:
    """The embedded Monte Carlo engine."""


def validate(
    path: Annotated[
        Path | None, typer.Argument(help="A settings file, or the folder of a site, in place of --site.")
    ] = None,
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Check the settings and the machine files; every wrong key is named."""
    file = settings_path(path or site)
    found = configuration_problems(file)
    if as_json:
        print_json({"settings": str(file), "problems": found})
    if found:
        errors = output(stderr=True)
        for problem in found if not as_json else ():
            errors.print(f"[red]{escape(problem)}[/]", soft_wrap=True)
        raise typer.Exit(1)
    if not as_json:
        output().print(f"{escape(str(file))}: settings and machine files are right", soft_wrap=True)


def reference() -> None:
    """Print the reference of every settings key, as Markdown."""
    typer.echo(settings_reference(), nl=False)


@engine_app.command("install")
def install(
    wheel: Annotated[
        Path | None, typer.Option(help="The engine's wheel as a file, for sites without a network.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder to install below; else the site's engine.embedded.cache, or the user's cache."
        ),
    ] = None,
    site: Annotated[
        Path | None,
        typer.Option("--site", help="Site that says where, where there is one.", envvar=SITE_VARIABLE),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Install the embedded engine (MCsquare), by name, version and SHA-256."""
    from mqi_dagster.embedded_engine.install import VERSION, WHEEL, install_engine

    console = output(stderr=as_json)
    if cache is None and (used := site_in_use(site)) is not None:
        cache = read_settings(settings_path(used)).engine.embedded.cache
    source = "the file" if wheel is not None else f"the package index ({WHEEL.words})"
    with console.status(f"installing MCsquare {VERSION} from {source}, unless it is there"):
        found = install_engine(cache, wheel)
    if as_json:
        print_json({"version": found.version, "folder": str(found.folder)})
        return
    console.print(f"MCsquare {found.version}: {escape(str(found.folder))}", soft_wrap=True)
