"""Dagster's pages, asked whether they are there."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass

from mqi_dagster.errors import ConfigurationError

_QUERY = """{ workspaceOrError { __typename ... on Workspace { locationEntries {
  loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }"""
_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages at one address."""

    host: str
    port: int

    @property
    def address(self) -> str:
        """Where a browser finds them."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}"

    def loaded(self) -> bool:
        """Whether they answer and show the code location.

        Raises:
            ConfigurationError: They answer, and say that the code location cannot be loaded.
        """
        request = urllib.request.Request(
            f"{self.address}/graphql",
            data=json.dumps({"query": _QUERY}).encode(),
            headers={"Content-Type": "application/json"},
        )
        # Never through a proxy: these are our own pages on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
                content = json.load(answer)
        except (urllib.error.URLError, OSError, ValueError):
            return False
        entries = (content.get("data") or {}).get("workspaceOrError", {}).get("locationEntries") or []
        for entry in entries:
            outcome = entry.get("locationOrLoadError") or {}
            if outcome.get("__typename") == "PythonError":
                raise ConfigurationError(
                    f"the code location cannot be loaded: {str(outcome.get('message')).strip()}"
                )
        return bool(entries) and all(
            (entry.get("locationOrLoadError") or {}).get("__typename") == "RepositoryLocation"
            for entry in entries
        )
