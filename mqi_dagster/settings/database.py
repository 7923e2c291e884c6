"""Where the ledger and Dagster keep their records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from mqi_dagster.settings.section import Section

_NAME = r"^[A-Za-z_][A-Za-z0-9_-]{0,62}$"


class DatabaseSettings(Section):
    """One PostgreSQL server for the ledger and Dagster; without it both lie in SQLite files."""

    host: str | None = Field(
        None,
        pattern=r"^(/[A-Za-z0-9_.+@=/-]+|[A-Za-z0-9_.:-]+)$",
        description="Name, address or socket folder of a PostgreSQL server; without it SQLite is used.",
    )
    port: Annotated[int, Field(ge=1, le=65535)] = Field(5432, description="Its port.")
    name: str = Field("mqi", pattern=_NAME, description="Name of the database.")
    user: str = Field("mqi", pattern=_NAME, description="The role that owns it.")
    password_file: Path | None = Field(
        None, description="File with the role's password, mode 0600, where the server asks for one."
    )
