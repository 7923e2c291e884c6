"""The site that a command works on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.settings import Settings, read_settings

SETTINGS_NAME = "mqi.yaml"

SiteOption = Annotated[Path, typer.Option("--site", help="Folder of the site.", envvar="MQI_SITE")]


def settings_path(place: Path) -> Path:
    """The settings file of a site named by its folder or by the file itself.

    Raises:
        ConfigurationError: There is none.
    """
    file = place / SETTINGS_NAME if place.is_dir() else place
    if not file.is_file():
        raise ConfigurationError(f"{place} is no site: it has no {SETTINGS_NAME}; `mqi init` makes one")
    return file.resolve()


def require_site(place: Path) -> tuple[Path, Settings]:
    """Settings file and settings of a site.

    Raises:
        ConfigurationError: The place is no site, or its settings are wrong.
    """
    file = settings_path(place)
    return file, read_settings(file)
