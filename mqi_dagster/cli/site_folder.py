"""The folder of a site: settings, secret, machine files, HU tables, and empty folders for what comes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mqi_dagster.cli.instance import open_instance, set_pool_limit, write_instance
from mqi_dagster.cli.settings_text import settings_file
from mqi_dagster.cli.site_secret import ensure_secret
from mqi_dagster.cli.sites import SETTINGS_NAME
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.hu_table import PACKAGED_HU_TABLES
from mqi_dagster.machine import PACKAGED_MACHINES
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import LOCAL, parse_settings, read_settings
from mqi_dagster.store.files import private_folder, write_atomically


def initialise(folder: Path, values: Mapping[str, Any], *, new_secret: bool = False) -> list[str]:
    """Make a folder a site, or complete one; what is there already stays as it is.

    Args:
        folder: The site's folder.
        values: Settings of a new site by dotted name; an existing settings file is not touched.
        new_secret: Whether the secret that its cases were named with is given up.

    Returns:
        What was made, relative to the folder, in words for people.

    Raises:
        ConfigurationError: The settings that are there, or those that are wanted, do not fit their types; or
            the secret is lost, or another one.
        InfrastructureError: The folder cannot be written.
    """
    try:
        return _initialise(folder, values, new_secret)
    except OSError as error:
        raise InfrastructureError(f"the site's folder cannot be written: {error.strerror}") from error


def _initialise(folder: Path, values: Mapping[str, Any], new_secret: bool) -> list[str]:
    made: list[str] = []
    file = folder / SETTINGS_NAME
    if file.exists():
        settings = read_settings(file)
    else:
        parse_settings(_nested(values), folder)
        private_folder(folder)
        write_atomically(file, settings_file(values).encode("utf-8"))
        settings = read_settings(file)
        made.append(f"{SETTINGS_NAME} (every setting, commented)")
    secret = settings.site.secret_file
    if ensure_secret(settings, new=new_secret):
        made.append(f"{_shown(secret, folder)} (key of the pseudonyms: back it up, show it to nobody)")
    paths = settings.paths
    handover = [settings.handover.folder] if settings.handover.target == LOCAL else []
    for path in (paths.inbox, paths.data, paths.state, *handover, paths.machines, paths.hu_tables):
        if not path.is_dir():
            private_folder(path)
            made.append(f"{_shown(path, folder)}/")
    for packaged, target in ((PACKAGED_MACHINES, paths.machines), (PACKAGED_HU_TABLES, paths.hu_tables)):
        if not any(target.glob("*.yaml")):
            for source in sorted(packaged.glob("*.yaml")):
                write_atomically(target / source.name, source.read_bytes())
                made.append(_shown(target / source.name, folder))
    site = Site(file)
    ledger = site.ledger
    _ = site.pseudonyms  # The ledger writes down which secret names the cases.
    if write_instance(settings, ledger):
        made.append(f"{_shown(paths.dagster_home, folder)}/dagster.yaml")
    with open_instance(settings) as instance:
        if set_pool_limit(instance, settings, ledger):
            made.append("the limit of the pool gpu")
    return made


def _shown(path: Path, folder: Path) -> str:
    base = folder.resolve()
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in values.items():
        *sections, key = name.split(".")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return content
