"""Dagster's services behind the address of their pages, asked over GraphQL."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from mqi_dagster.errors import InfrastructureError, UnreachableError
from mqi_dagster.execution.code_location import LOCATION
from mqi_dagster.lifecycle.jobs import PARTITION_TAG

_TIMEOUT_SECONDS = 60.0
_REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": LOCATION}
_FAULT = "... on PythonError { message } ... on UnauthorizedError { message }"

_REEXECUTE = f"""mutation($run: String!) {{
  launchRunReexecution(reexecutionParams: {{parentRunId: $run, strategy: FROM_FAILURE}}) {{
    __typename ... on LaunchRunSuccess {{ run {{ runId }} }} {_FAULT}
  }} }}"""

_LAUNCH = f"""mutation($run: ExecutionParams!) {{
  launchRun(executionParams: $run) {{
    __typename ... on LaunchRunSuccess {{ run {{ runId }} }} {_FAULT}
  }} }}"""

_BACKFILL = f"""mutation($backfill: LaunchBackfillParams!) {{
  launchPartitionBackfill(backfillParams: $backfill) {{
    __typename ... on LaunchBackfillSuccess {{ backfillId }} {_FAULT}
  }} }}"""

_TERMINATE = f"""mutation($run: String!, $policy: TerminateRunPolicy!) {{
  terminateRun(runId: $run, terminatePolicy: $policy) {{
    __typename ... on TerminateRunFailure {{ message }} {_FAULT}
  }} }}"""

_BACKFILLS = """query { partitionBackfillsOrError(status: REQUESTED) {
  __typename ... on PartitionBackfills { results { id partitionNames } } ... on PythonError { message }
} }"""

_CANCEL_BACKFILL = f"""mutation($backfill: String!) {{
  cancelPartitionBackfill(backfillId: $backfill) {{ __typename {_FAULT} }} }}"""


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
            UnreachableError: Nobody answers at the address.
            InfrastructureError: The services refuse, and say why.
        """
        answer = self._answer("launchRunReexecution", "LaunchRunSuccess", _REEXECUTE, {"run": run_id})
        return str(answer["run"]["runId"])

    def launch(self, job: str, partition: str, tags: Mapping[str, str]) -> str:
        """Launch a run of a job for a partition.

        Returns:
            The run's id.

        Raises:
            ConfigurationError: Nobody answers at the address.
            InfrastructureError: The services refuse, and say why.
        """
        wanted = {
            "selector": {**_REPOSITORY, "jobName": job},
            "runConfigData": {},
            "executionMetadata": {
                "tags": [
                    {"key": key, "value": value} for key, value in {**tags, PARTITION_TAG: partition}.items()
                ]
            },
        }
        answer = self._answer("launchRun", "LaunchRunSuccess", _LAUNCH, {"run": wanted})
        return str(answer["run"]["runId"])

    def backfill(self, assets: Sequence[str], partitions: Sequence[str], title: str) -> str:
        """Launch a backfill of assets for some partitions.

        Returns:
            The backfill's id.

        Raises:
            UnreachableError: Nobody answers at the address.
            InfrastructureError: The services refuse, and say why.
        """
        wanted = {
            "assetSelection": [{"path": [asset]} for asset in assets],
            "partitionNames": list(partitions),
            "title": title,
        }
        answer = self._answer(
            "launchPartitionBackfill", "LaunchBackfillSuccess", _BACKFILL, {"backfill": wanted}
        )
        return str(answer["backfillId"])

    def terminate(self, run_id: str, *, at_once: bool = False) -> None:
        """End a run: one in the queue at once, one in work by an interrupt of its worker.

        Args:
            run_id: Of the run.
            at_once: Mark it as cancelled without asking anybody: of a run that nobody has begun.

        Raises:
            UnreachableError: Nobody answers at the address.
            InfrastructureError: The services refuse, and say why.
        """
        policy = "MARK_AS_CANCELED_IMMEDIATELY" if at_once else "SAFE_TERMINATE"
        wanted = {"run": run_id, "policy": policy}
        self._answer("terminateRun", "TerminateRunSuccess", _TERMINATE, wanted)

    def backfills(self) -> dict[str, list[str]]:
        """The partitions of every backfill that is in work, by its id.

        Raises:
            UnreachableError: Nobody answers at the address.
            InfrastructureError: The services refuse, and say why.
        """
        answer = self._answer("partitionBackfillsOrError", "PartitionBackfills", _BACKFILLS, {})
        return {str(one["id"]): list(one["partitionNames"] or ()) for one in answer["results"]}

    def cancel_backfill(self, backfill_id: str) -> None:
        """Have a backfill make no further run, and end those that it has made.

        Raises:
            UnreachableError: Nobody answers at the address.
            InfrastructureError: The services refuse, and say why.
        """
        wanted = {"backfill": backfill_id}
        self._answer("cancelPartitionBackfill", "CancelBackfillSuccess", _CANCEL_BACKFILL, wanted)

    def _answer(self, name: str, success: str, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        content = self.ask(query, variables)
        if content.get("errors"):
            raise InfrastructureError(f"the services refuse: {content['errors'][0].get('message')}")
        answer: dict[str, Any] = (content.get("data") or {}).get(name) or {}
        if answer.get("__typename") != success:
            said = str(answer.get("message") or answer.get("__typename") or "no answer").splitlines()[0]
            raise InfrastructureError(f"the services refuse: {said}")
        return answer

    def ask(
        self, query: str, variables: Mapping[str, Any], timeout_seconds: float = _TIMEOUT_SECONDS
    ) -> dict[str, Any]:
        """The answer to a query, with ``data`` and, where something is wrong with it, ``errors``.

        Raises:
            UnreachableError: Nobody answers at the address.
            InfrastructureError: What answers is not Dagster, or answers with an error of HTTP.
        """
        request = urllib.request.Request(
            f"{self._address}/graphql",
            data=json.dumps({"query": query, "variables": dict(variables)}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=timeout_seconds) as answer:
                content: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            raise InfrastructureError(f"the services answer with status {error.code}") from None
        except (urllib.error.URLError, OSError):
            raise UnreachableError(
                f"nobody answers at {self._address}; start the services with `mqi dev`"
            ) from None
        except ValueError:
            raise InfrastructureError(f"what answers at {self._address} is not Dagster") from None
        return content
