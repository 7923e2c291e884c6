"""Programs that use the interface with a token."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from starlette.testclient import TestClient

from mqi_dagster.operations.people import add_user, make_token
from mqi_dagster.people.rights import Actor, Right, Role
from tests.worklist.seeded import Seeded

OWNER = Actor.of_this_account()


@dataclass
class Program:
    """A program with a token; answers are those of ``/api/v1``."""

    client: TestClient
    token: str
    id: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """The response of a request."""
        headers = {"authorization": f"Bearer {self.token}", **self.headers, **options.pop("headers", {})}
        place = path if path.startswith("/") else f"/api/v1/{path}"
        return self.client.request(method, place, headers=headers, **options)

    def get(self, path: str, status: int = 200, **headers: str) -> Any:
        """What is read."""
        answer = self.ask("GET", path, headers={key.replace("_", "-"): one for key, one in headers.items()})
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    def post(self, path: str, body: Any = None, status: int = 200, key: str = "") -> Any:
        """What an action has answered."""
        headers = {"idempotency-key": key} if key else {}
        answer = self.ask("POST", path, json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()


def make_program(
    client: TestClient, seeded: Seeded, *roles: Role, scopes: tuple[Right, ...] = tuple(Right)
) -> Program:
    """A program of an account with some roles."""
    name = "-".join(sorted(role.value for role in roles)) or "nobody"
    if seeded.site.ledger.accounts.get(name) is None:
        add_user(seeded.site, OWNER, name, roles)
    made = make_token(seeded.site, OWNER, name, "a test", scopes, timedelta(days=1))
    return Program(client, made.secret, made.token.id)
