"""``mqi backup`` and ``mqi restore``."""

from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from rich.markup import escape

from mqi_dagster.cli.options import JsonOption, SiteOption
from mqi_dagster.cli.screen import output, print_json
from mqi_dagster.moments import local
from mqi_dagster.operations.sites import DEFAULT_SITE, require_site


def backup(
    folder: Annotated[Path, typer.Argument(help="Folder of the backup; absent or empty.")],
    site: SiteOption = DEFAULT_SITE,
    data: Annotated[bool, typer.Option("--data", help="Also the store, which can be large.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy settings, secret, machine files, ledger and Dagster's records, also while the site works.

    The inbox is never in it, nor the database's password. The secret is: keep the backup as you keep that.
    """
    from mqi_dagster.operations.backup import make_backup

    console = output(stderr=as_json)
    with console.status("copying"):
        made = make_backup(*require_site(site), folder, data=data)
    size = sum(entry.size for entry in made.files.values())
    if as_json:
        print_json({"folder": str(folder), "files": len(made.files), "bytes": size, "data": data})
        return
    console.print(
        f"backup: {escape(str(folder))}, {len(made.files)} files, {size / 1e6:.1f} MB", soft_wrap=True
    )


def restore(
    backup: Annotated[Path, typer.Argument(help="Folder of a backup.", exists=True, file_okay=False)],
    folder: Annotated[Path, typer.Argument(help="Folder of the site that is made of it.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    database: Annotated[
        str | None, typer.Option(help="Another, empty database on the server that the settings name.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a site of a backup; refused where services of it run, or where something would be lost."""
    from mqi_dagster.operations.restore import restore_backup

    console = output(stderr=as_json)
    with console.status("comparing and copying"):
        made = restore_backup(backup, folder, overwrite=overwrite, database=database)
    if as_json:
        print_json({"folder": str(folder), "made_at": made.made_at, "data": made.data})
        return
    zone = ZoneInfo(require_site(folder)[1].site.timezone)
    console.print(f"restored as of {local(made.made_at, zone)}: {escape(str(folder))}", soft_wrap=True)
    if not made.data:
        console.print(
            "the store was not in the backup: what is missing there is computed anew when it is needed"
        )
    console.print(f"next: mqi doctor --site {escape(str(folder))}", soft_wrap=True)
