"""``mqi validate``, ``settings-reference`` and ``engine install``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from mqi_dagster.cli.settings_text import settings_reference
from mqi_dagster.cli.sites import settings_path
from mqi_dagster.errors import ConfigurationError
from mqi_dagster.machine import Machines, read_machine
from mqi_dagster.settings import parse_settings, read_content, settings_problems

engine_app = typer.Typer(help="The embedded Monte Carlo engine.", no_args_is_help=True)


@engine_app.callback()
def _group() -> None:
    """The embedded Monte Carlo engine."""


def configuration_problems(file: Path) -> list[str]:
    """Everything that is wrong with a site's settings and machine files, one line each."""
    try:
        content = read_content(file)
    except ConfigurationError as error:
        return [error.message]
    if found := [f"{file.name}: {problem}" for problem in settings_problems(content)]:
        return found
    folder = parse_settings(content, file.resolve().parent).paths.machines
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        return [f"{file.name}: paths.machines: no machine files (*.yaml) in {folder}"]
    machines = []
    for path in paths:
        try:
            machines.append(read_machine(path))
        except ConfigurationError as error:
            found.append(error.message)
    try:
        Machines(machines)
    except ConfigurationError as error:
        found.append(error.message)
    return found


def validate(
    place: Annotated[Path, typer.Argument(help="A settings file, or the folder of a site.")] = Path("site"),
) -> None:
    """Check the settings and the machine files; every wrong key is named."""
    file = settings_path(place)
    found = configuration_problems(file)
    if found:
        errors = Console(stderr=True, highlight=False)
        for problem in found:
            errors.print(f"[red]{escape(problem)}[/]", soft_wrap=True)
        raise typer.Exit(1)
    console = Console(highlight=False)
    console.print(f"{escape(str(file))}: settings and machine files are right", soft_wrap=True)


def reference() -> None:
    """Print the reference of every settings key, as Markdown."""
    typer.echo(settings_reference(), nl=False)


@engine_app.command("install")
def install(
    wheel: Annotated[
        Path | None, typer.Option(help="The engine's wheel as a file, for sites without a network.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder to install below, not the user's cache.")] = None,
) -> None:
    """Install the embedded engine (MCsquare), by name, version and SHA-256."""
    from mqi_dagster.engine.embedded.install import PACKAGE, PACKAGE_VERSION, VERSION, install_engine

    console = Console(highlight=False)
    source = "the file" if wheel is not None else f"the package index ({PACKAGE} {PACKAGE_VERSION})"
    with console.status(f"installing MCsquare {VERSION} from {source}, unless it is there"):
        found = install_engine(cache, wheel)
    console.print(f"MCsquare {found.version}: {escape(str(found.folder))}", soft_wrap=True)
