"""The services of a site as `mqi dev` has started them: what is recorded of them, and where they answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from mqi_dagster.errors import ConfigurationError, InfrastructureError, MqiError
from mqi_dagster.execution.processes import process_alive
from mqi_dagster.operations.graphql import GraphQL
from mqi_dagster.operations.service_locks import Service
from mqi_dagster.settings import Settings

_QUERY = """{ workspaceOrError { __typename ... on Workspace { locationEntries {
  loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }"""
_TIMEOUT_SECONDS = 10.0
STARTED_AGAIN = (Service.WATCH, Service.WEB)
"""Nothing that is at work needs them: where they alone end they are started again."""


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages at one address."""

    host: str
    port: int
    prefix: str = ""

    @property
    def address(self) -> str:
        """Where they listen."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}{self.prefix}"

    def loaded(self) -> bool:
        """Whether they answer and show the code location.

        Raises:
            ConfigurationError: They answer, and say that the code location cannot be loaded.
        """
        try:
            content = GraphQL(self.address).ask(_QUERY, {}, _TIMEOUT_SECONDS)
        except MqiError:
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


@dataclass(frozen=True, slots=True)
class Running:
    """The services as they were started."""

    host: str
    port: int
    processes: dict[Service, str]
    """``<pid>:<start time>`` by service."""
    web_port: int = 0
    """Of our own pages; 0 of services that an earlier version has started without them."""
    prefix: str = ""
    """Path below which Dagster's pages are."""

    @property
    def pages(self) -> Pages:
        """Dagster's pages."""
        return Pages(self.host, self.port, self.prefix)

    def dead(self) -> list[Service]:
        """The services that do not live any more."""
        return [service for service, job in self.processes.items() if not process_alive(job)]

    def same_start(self, other: Running | None) -> bool:
        """Whether both are of one start of the services, in which some may have been started again."""
        if other is None:
            return False
        mine, theirs = ({**one.processes, **dict.fromkeys(STARTED_AGAIN, "")} for one in (self, other))
        return (self.host, self.port, mine) == (other.host, other.port, theirs)


def record_of(settings: Settings) -> Path:
    """The file in which the services that run are recorded."""
    return settings.paths.state / "services.json"


def recorded(settings: Settings) -> Running | None:
    """What `mqi dev` has started last and nobody has ended since, alive or not.

    Raises:
        InfrastructureError: The record is damaged.
    """
    try:
        content = json.loads(record_of(settings).read_text(encoding="utf-8"))
        processes = {_service(name): str(job) for name, job in dict(content["processes"]).items()}
        web_port, prefix = int(content.get("web_port", 0)), str(content.get("prefix", ""))
        return Running(str(content["host"]), int(content["port"]), processes, web_port, prefix)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InfrastructureError("the record of the services (services.json) is damaged") from error


def _service(name: str) -> Service:
    # As version 0.1 has recorded it.
    return Service.CODE if name == "code-location" else Service(name)


def web_address(settings: Settings, running: Running | None = None) -> str:
    """Where a browser finds our own pages.

    Args:
        settings: Of the site.
        running: The services as they run; None: as they are recorded, else as a service manager runs them.
    """
    found = running or recorded(settings)
    return settings.web.address(found.web_port if found is not None and found.web_port else None)


def dagster_address(settings: Settings) -> str:
    """Where a browser finds Dagster's pages: by the proxy in front, else as they are recorded or set."""
    found = recorded(settings)
    return settings.ui.address if settings.ui.origins or found is None else found.pages.address
