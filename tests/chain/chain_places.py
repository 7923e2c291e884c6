"""Chains whose records, Dagster's and the ledger's, lie on a server."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from mqi_dagster.operations.instance import open_instance, write_instance
from mqi_dagster.settings import parse_settings
from tests.chain.chain import Chain, merged
from tests.postgres.postgres_server import Server


class Made(Protocol):
    """Makes a chain below a folder, with settings."""

    def __call__(self, folder: Path, settings: dict[str, Any] | None = None) -> Chain: ...


def chain_on(
    server: Server, database: str, opened: ExitStack, folder: Path, settings: dict[str, Any] | None
) -> Chain:
    """A chain on an empty database of a server; its instance is closed with the stack."""
    section = {**server.section, "name": database}
    site = parse_settings({"site": {"timezone": "Asia/Seoul"}, "database": section}, folder)
    write_instance(site)
    instance = opened.enter_context(open_instance(site))
    return Chain(folder, merged({"database": section}, settings or {}), instance=instance)
