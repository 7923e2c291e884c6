"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mqi_dagster.operations.sites import SITE_VARIABLE

SiteOption = Annotated[
    Path, typer.Option("--site", help="Folder of the site, or its settings file.", envvar=SITE_VARIABLE)
]

GivenSite = Annotated[
    Path | None,
    typer.Option(
        "--site",
        help="Site whose settings and machine files count; else ./site if it is one, else the packaged ones.",
        envvar=SITE_VARIABLE,
    ),
]
"""Of a command that also works without a site: see `site_in_use`."""

JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
