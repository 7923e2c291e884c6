"""Chains whose records, Dagster's and the ledger's, lie on a server."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import dagster as dg
from chain import Chain, merged
from postgres_server import Server

from mqi_dagster.cli.instance import write_instance
from mqi_dagster.settings import parse_settings


class Made(Protocol):
    """Makes a chain below a folder, with settings."""

    def __call__(self, folder: Path, settings: dict[str, Any] | None = None) -> Chain: ...


def chain_on(
    server: Server, database: str, opened: ExitStack, folder: Path, settings: dict[str, Any] | None
) -> Chain:
    """A chain on an empty database of a server; its instance is closed with the stack."""
    section = {**server.section, "name": database}
    write_instance(parse_settings({"site": {"timezone": "Asia/Seoul"}, "database": section}, folder))
    instance = opened.enter_context(dg.DagsterInstance.from_config(str(folder / "dagster")))
    # Dagster opens a connection for every question else, which is half of what a chain costs here.
    instance.optimize_for_webserver(statement_timeout=60_000, pool_recycle=3600, max_overflow=20)
    return Chain(folder, merged({"database": section}, settings or {}), instance=instance)
