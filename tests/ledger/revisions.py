"""A ledger of another revision than the one that this code makes."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy
from alembic.config import Config

from mqi_dagster.ledger import database


def moved(url: str, move: Callable[[Config, str], None], revision: str) -> sqlalchemy.Engine:
    """The ledger, moved to a revision by Alembic's ``upgrade`` or ``downgrade``."""
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg2:"))
    config = Config()
    config.set_main_option("script_location", str(database._MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        move(config, revision)
    return engine
