"""Alembic's entry: runs the revisions inside the transaction that the ledger has already begun."""

from __future__ import annotations

from alembic import context

from mqi_dagster.ledger.tables import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
