"""Which site is meant, and where its settings stand."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mqi_dagster.errors import ConfigurationError, MqiError
from mqi_dagster.settings import Settings, parse_settings, read_content, read_settings, settings_problems

if TYPE_CHECKING:
    from mqi_dagster.resources.site import Site

SETTINGS_NAME = "mqi.yaml"

SITE_VARIABLE = "MQI_SITE"
DEFAULT_SITE = Path("site")
"""Where neither an option nor the environment names a site."""


def site_in_use(given: Path | None) -> Path | None:
    """The site of a command that also works without one.

    Args:
        given: As it was named; None: the one that ``MQI_SITE`` names, else ``./site`` where it is one.
    """
    if given is not None:
        return given
    if named := os.environ.get(SITE_VARIABLE):
        return Path(named)
    return DEFAULT_SITE if (DEFAULT_SITE / SETTINGS_NAME).is_file() else None


def settings_path(path: Path) -> Path:
    """The settings file of a site named by its folder or by the file itself.

    Raises:
        ConfigurationError: There is none.
    """
    file = path / SETTINGS_NAME if path.is_dir() else path
    if not file.is_file():
        raise ConfigurationError(
            f"{path} is no site: it has no {SETTINGS_NAME}; name one by --site or {SITE_VARIABLE},"
            f" or make one: mqi init {path}"
        )
    return file.resolve()


def require_site(path: Path) -> tuple[Path, Settings]:
    """Settings file and settings of a site.

    Raises:
        ConfigurationError: It is no site, or its settings are wrong.
    """
    file = settings_path(path)
    return file, read_settings(file)


def site_to_stop(path: Path) -> tuple[Path, Settings, str]:
    """Settings file and settings of a site whose services are to be ended, and what is wrong with them.

    Raises:
        ConfigurationError: It is no site, or its settings do not say where its services run.
    """
    file = settings_path(path)
    try:
        return file, read_settings(file), ""
    except ConfigurationError as error:
        # An end needs no time zone.
        settings = usable_settings(file, {"site": {"timezone": "UTC"}})
        if settings is None:
            raise
        return file, settings, f"{error.message}: without these, what runs is ended"


_NEEDED = ("site", "paths", "database")
"""Sections without which nothing else can be told."""


def usable_settings(file: Path, instead: Mapping[str, Any] = MappingProxyType({})) -> Settings | None:
    """The settings without the sections that are wrong; None where too little of them is left.

    Args:
        file: The settings file.
        instead: Sections that are taken where those of the file are wrong.
    """
    try:
        content = read_content(file)
    except MqiError:
        return None
    while wrong := settings_problems(content):
        sections = {re.split(r"[.:]", problem, maxsplit=1)[0] for problem in wrong} & content.keys()
        if not sections or sections & {*_NEEDED} - instead.keys():
            return None
        kept = {name: section for name, section in content.items() if name not in sections}
        content = {**kept, **{name: instead[name] for name in sections & instead.keys()}}
    return parse_settings(content, file.resolve().parent)


def open_site(path: Path) -> Site:
    """The site of a folder or settings file, its settings read.

    Raises:
        ConfigurationError: It is no site, or its settings are wrong.
    """
    # It loads for longer than a command takes that only reads settings.
    from mqi_dagster.resources.site import Site

    site = Site(settings_path(path))
    _ = site.settings
    return site


def shown_path(path: Path, folder: Path) -> str:
    """A path as people read it: relative to the site's folder where it lies below that."""
    base = folder.resolve()
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)


def local_zone() -> str:
    """This computer's time zone; UTC where it has none set."""
    names = [os.environ.get("TZ", "").removeprefix(":")]
    link = Path("/etc/localtime").resolve()
    if "zoneinfo" in link.parts:
        names.append("/".join(link.parts[link.parts.index("zoneinfo") + 1 :]))
    for name in names:
        try:
            if name:
                return ZoneInfo(name).key
        except (ZoneInfoNotFoundError, ValueError):
            continue
    return "UTC"
