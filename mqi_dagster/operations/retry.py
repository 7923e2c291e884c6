"""What failed of a case or beam runs once more in the running services, asked over GraphQL."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import dagster as dg

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.errors import (
    ConfigurationError,
    InfrastructureError,
    InputError,
    KeyRejectedError,
    MqiError,
    Where,
)
from mqi_dagster.lifecycle.beam import find_manifest
from mqi_dagster.lifecycle.case_reading import run_facts
from mqi_dagster.lifecycle.pipeline import level_of
from mqi_dagster.lifecycle.runs import RunState, latest_run_of
from mqi_dagster.lifecycle.status import RunFacts
from mqi_dagster.operations.services import Pages, Services
from mqi_dagster.partitions import BEAM, CASE, beam_key, root_of
from mqi_dagster.resources.site import Site

_TIMEOUT_SECONDS = 60.0
_FAULT = "... on PythonError { message } ... on UnauthorizedError { message }"

_REEXECUTE = f"""mutation($run: String!) {{
  launchRunReexecution(reexecutionParams: {{parentRunId: $run, strategy: FROM_FAILURE}}) {{
    __typename ... on LaunchRunSuccess {{ run {{ runId }} }} {_FAULT}
  }} }}"""

_BACKFILL = f"""mutation($backfill: LaunchBackfillParams!) {{
  launchPartitionBackfill(backfillParams: $backfill) {{
    __typename ... on LaunchBackfillSuccess {{ backfillId }} {_FAULT}
  }} }}"""


class GraphQL:
    """Dagster's services behind the address of their pages.

    Args:
        address: For example ``http://127.0.0.1:3000``.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        # Never through a proxy: these are our own pages on this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def reexecute_from_failure(self, run_id: str) -> str:
        """Launch a run that repeats what failed in another one, and what comes after it.

        Returns:
            The new run's id.

        Raises:
            ConfigurationError: Nobody answers at the address.
            InfrastructureError: The services refuse, and say why.
        """
        answer = self._mutate("launchRunReexecution", "LaunchRunSuccess", _REEXECUTE, {"run": run_id})
        return str(answer["run"]["runId"])

    def backfill(self, assets: Sequence[str], partitions: Sequence[str], title: str) -> str:
        """Launch a backfill of assets for some partitions.

        Returns:
            The backfill's id.

        Raises:
            ConfigurationError: Nobody answers at the address.
            InfrastructureError: The services refuse, and say why.
        """
        wanted = {
            "assetSelection": [{"path": [asset]} for asset in assets],
            "partitionNames": list(partitions),
            "title": title,
        }
        answer = self._mutate(
            "launchPartitionBackfill", "LaunchBackfillSuccess", _BACKFILL, {"backfill": wanted}
        )
        return str(answer["backfillId"])

    def _mutate(self, name: str, success: str, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        content = self._ask(query, variables)
        if content.get("errors"):
            raise InfrastructureError(f"the services refuse: {content['errors'][0].get('message')}")
        answer: dict[str, Any] = (content.get("data") or {}).get(name) or {}
        if answer.get("__typename") != success:
            said = str(answer.get("message") or answer.get("__typename") or "no answer").splitlines()[0]
            raise InfrastructureError(f"the services refuse: {said}")
        return answer

    def _ask(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self._address}/graphql",
            data=json.dumps({"query": query, "variables": dict(variables)}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
                content: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            raise InfrastructureError(f"the services answer with status {error.code}") from None
        except (urllib.error.URLError, OSError):
            raise ConfigurationError(
                f"nobody answers at {self._address}; start the services with `mqi dev`"
            ) from None
        except ValueError:
            raise InfrastructureError(f"what answers at {self._address} is not Dagster") from None
        return content


def services_of(site: Site) -> GraphQL:
    """The site's services as `mqi dev` has started them, or where the settings say that they are."""
    running = Services(site.settings_file, site.settings).running()
    ui = site.settings.ui
    return GraphQL((running.pages if running is not None else Pages(ui.host, ui.port)).address)


def partitions_of(instance: dg.DagsterInstance, site: Site, name: str, beam: int | None) -> list[str]:
    """The partitions that a case key, with a BeamNumber where one is wanted, or a beam key names.

    Raises:
        InputError: There is no such case or beam.
    """
    try:
        key = (CASE if name == root_of(name) else BEAM).key(name)
    except KeyRejectedError as error:
        raise InputError(error.message) from None
    case = key.root
    if key.kind is BEAM:
        if beam is not None and beam != key.number:
            raise InputError(f"{name} is beam {key.number}, not beam {beam}")
        beam = key.number
    manifest = find_manifest(instance, site.store, case)
    if manifest is None:
        if beam is None and (site.ledger.arrivals.get(case) or latest_run_of(instance, case)):
            return [case]
        raise InputError("the case is not known here, or has not been taken in", where=Where(case=case))
    present = sorted(entry.number for entry in manifest.beams)
    if beam is None:
        return [case, *(beam_key(case, number) for number in present)]
    if beam not in present:
        raise InputError(f"the case holds no delivery of beam {beam}", where=Where(case=case))
    return [beam_key(case, beam)]


def retry(
    instance: dg.DagsterInstance, site: Site, services: GraphQL, partitions: Sequence[str]
) -> dict[str, str]:
    """Launch anew what failed or was cancelled of some partitions.

    A run that the services know is re-executed from its failure. One that `mqi case run` has executed, or
    that its operator has cancelled, is repeated as a backfill: what was made before is found in the store.

    Returns:
        Run or backfill id by partition.

    Raises:
        InputError: Nothing failed.
        MqiError: The services cannot be reached, or refuse.
    """
    latest = {partition: run_facts(instance, site.ledger, partition) for partition in partitions}
    failed = {partition: facts for partition, facts in latest.items() if facts.broken() is not None}
    if not failed:
        raise InputError(_nothing(latest))
    launched: dict[str, str] = {}
    for partition, facts in failed.items():
        try:
            launched[partition] = _launch(services, partition, facts)
        except MqiError as error:
            done = f" (launched before: {', '.join(launched)})" if launched else ""
            raise type(error)(f"{partition}: {error.message}{done}") from None
    return launched


def _nothing(latest: dict[str, RunFacts]) -> str:
    going_on = [name for name, run in latest.items() if run.state in (RunState.WAITING, RunState.WORKING)]
    if going_on:
        return f"nothing to retry: {', '.join(going_on)} is still in work and nothing has failed"
    return "nothing to retry: nothing has failed"


def _launch(services: GraphQL, partition: str, latest: RunFacts) -> str:
    if latest.served and latest.state is not RunState.CANCELLED and latest.run_id is not None:
        # A run that died after its last step has nothing to repeat from; a backfill finds what it made.
        with suppress(InfrastructureError):
            return services.reexecute_from_failure(latest.run_id)
    name = latest.run.job if latest.run is not None else ""
    jobs = level_of(PIPELINES, name, partition).jobs
    job = next((job for job in jobs if job.name == name), jobs[0])
    return services.backfill(job.assets, [partition], f"mqi case retry {partition}")
