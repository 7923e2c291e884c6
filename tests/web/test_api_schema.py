"""The interface against its own description: whatever is sent, it answers as it says, and never fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from mqi_dagster.errors import InputError
from mqi_dagster.people.rights import Role
from mqi_dagster.web.api import actions
from tests.web.programs import Program

ADDRESS = "http://127.0.0.1:8000"
FAILED = "P000000001.fx0001"
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
ROLES = ((Role.VIEWER,), (Role.SERVICE,), (Role.WORKER,), (Role.APPROVER, Role.ENGINEER, Role.ADMIN))
Programs = Callable[..., Program]


class NoServices:
    """Services that refuse everything."""

    def __getattr__(self, name: str) -> Any:
        raise InputError("not in this test")


def running(app: Any) -> Any:
    """An application that is started already: each call would start it once more."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for what in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{what}.complete"})

    return call


def try_everything(
    client: TestClient, program: Programs, monkeypatch: pytest.MonkeyPatch, examples: int
) -> int:
    """Send what the description allows, and what it does not; how many answers there were."""
    monkeypatch.setattr(actions, "services_of", lambda site: NoServices())
    load_all_checks()
    tokens = [program(*roles).token for roles in ROLES]
    program(Role.VIEWER).get("cases")
    schema = schemathesis.openapi.from_asgi(
        "/api/v1/openapi.json",
        running(client.app),
        headers={"host": "127.0.0.1:8000", "authorization": f"Bearer {tokens[0]}"},
    )
    answers = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == "/api/v1/events":
            continue
        cases = strategies.one_of(
            operation.as_strategy(schemathesis.GenerationMode.POSITIVE),
            operation.as_strategy(schemathesis.GenerationMode.NEGATIVE),
        )

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(cases, strategies.sampled_from(tokens), strategies.booleans())
        def send(case: schemathesis.Case, token: str, known: bool) -> None:
            nonlocal answers
            if known and "key" in case.path_parameters:
                case.path_parameters["key"] = FAILED
            if isinstance(case.body, dict) and isinstance(case.body.get("wait_seconds"), int | float):
                case.body["wait_seconds"] = min(case.body["wait_seconds"], 0)
            response = case.call(base_url=ADDRESS, headers={"authorization": f"Bearer {token}"})
            case.validate_response(response, checks=CHECKS)
            away = response.status_code == 503 and response.json()["type"] == "urn:mqi:error:unreachable"
            assert response.status_code < 500 or away, response.text
            answers += 1

        send()
    return answers


def test_a_few_of_everything(client: TestClient, program: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert try_everything(client, program, monkeypatch, 2) > 40


@pytest.mark.slow
def test_much_of_everything(client: TestClient, program: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert try_everything(client, program, monkeypatch, 25) > 500
