"""Where models lie: with the product, with a site, and with the user, for every site of theirs."""

from __future__ import annotations

import os
from pathlib import Path

from mqi_dagster.imaging.models.card import PACKAGED_MODELS


def user_models() -> Path:
    """The user's own: ``$XDG_DATA_HOME/mqi_dagster/models`` or ``~/.local/share/mqi_dagster/models``."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "mqi_dagster" / "models"


def model_folders(site: Path | None = None) -> tuple[Path, ...]:
    """Folders of models, each of which may be absent.

    Args:
        site: The site's own (`radiotherapy.custom_models.root`).
    """
    return (PACKAGED_MODELS, *(() if site is None else (site,)), user_models())
