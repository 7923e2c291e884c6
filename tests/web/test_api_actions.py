"""What a program does: each action once, by whom may, and in the audit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mqi_dagster.errors import UnreachableError
from mqi_dagster.ledger.slots import Slot, SlotKind
from mqi_dagster.operations.people import add_user, change_user, revoke_token
from mqi_dagster.people.rights import Right, Role
from mqi_dagster.web.api import actions
from tests.waiting import wait_for
from tests.web.programs import OWNER, Program
from tests.worklist.seeded import Seeded

Programs = Callable[..., Program]
JSON = {"content-type": "application/json"}
FAILED, WAITING = "P000000001.fx0001", "P000000002.fx0001"


class Services:
    """Dagster's services, as far as retry and cancel ask them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.away = False
        self.entered, self.hold = threading.Event(), threading.Event()
        self.hold.set()

    def backfills(self) -> dict[str, list[str]]:
        return {}

    def reexecute_from_failure(self, run_id: str) -> str:
        self.entered.set()
        assert self.hold.wait(60)
        if self.away:
            raise UnreachableError("the services cannot be reached")
        self.asked.append(run_id)
        return f"run-{len(self.asked)}"

    def backfill(self, *_: Any) -> str:
        raise UnreachableError("the services cannot be reached")


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    made = Services()
    monkeypatch.setattr(actions, "services_of", lambda site: made)
    yield made
    made.hold.set()


def told(seeded: Seeded, action: str) -> list[tuple[str, str, str]]:
    """Rows of the audit: via, subject, outcome; the oldest first."""
    rows = [row for row in seeded.site.ledger.audit.every() if row.action == action]
    return [(row.via, row.subject, row.outcome.value) for row in rows]


def test_what_has_failed_is_retried_once_for_a_key_and_in_the_audit(
    program: Programs, seeded: Seeded, services: Services
) -> None:
    physicist = program(Role.PHYSICIST)
    done = physicist.post(f"cases/{FAILED}/retry", key="one")
    assert done == {"subject": FAILED, "runs": {FAILED: "run-1"}, "text": "1 started"}
    again = physicist.ask("POST", f"cases/{FAILED}/retry", headers={"idempotency-key": "one"})
    assert (again.json(), again.headers["idempotency-replayed"]) == (done, "true")
    assert len(services.asked) == 1
    via = f"token:{physicist.id}"
    assert told(seeded, "retry") == [(via, FAILED, "begun"), (via, FAILED, "done")]
    # Another key is another wish.
    assert physicist.post(f"cases/{FAILED}/retry", key="two")["runs"] == {FAILED: "run-2"}


def test_a_key_stands_for_one_request(program: Programs) -> None:
    physicist = program(Role.PHYSICIST)
    path = f"cases/{WAITING}/priority"
    assert physicist.post(path, {"priority": 7}, key="one")["text"].startswith("priority 7")
    problem = physicist.post(path, {"priority": 8}, 422, key="one")
    assert problem["type"] == "urn:mqi:error:key-reused"
    assert physicist.post(f"cases/{FAILED}/priority", {"priority": 7}, 422, key="one")["status"] == 422
    # The key is the user's: another user may have the same.
    assert program(Role.SERVICE).post(path, {"priority": 8}, key="one")["text"].startswith("priority 8")
    for key in ("x" * 101, "with space"):
        assert physicist.post(path, {"priority": 7}, 422, key=key)["status"] == 422


def test_the_same_request_at_work_is_not_begun_again(program: Programs, services: Services) -> None:
    physicist = program(Role.PHYSICIST)
    services.hold.clear()
    answers: list[Any] = []
    thread = threading.Thread(
        target=lambda: answers.append(physicist.post(f"cases/{FAILED}/retry", key="one"))
    )
    thread.start()
    assert services.entered.wait(60)
    answer = physicist.ask("POST", f"cases/{FAILED}/retry", headers={"idempotency-key": "one"})
    assert answer.status_code == 409
    assert (answer.json()["type"], answer.headers["retry-after"]) == ("urn:mqi:error:at-work", "1")
    services.hold.set()
    thread.join()
    assert physicist.post(f"cases/{FAILED}/retry", key="one") == answers[0]
    assert len(services.asked) == 1


def test_what_could_not_be_done_for_a_while_is_done_at_the_next_try(
    program: Programs, services: Services
) -> None:
    physicist = program(Role.PHYSICIST)
    services.away = True
    answer = physicist.ask("POST", f"cases/{FAILED}/retry", headers={"idempotency-key": "one"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    services.away = False
    assert physicist.post(f"cases/{FAILED}/retry", key="one")["runs"] == {FAILED: "run-1"}


def test_a_refusal_is_remembered_as_well(program: Programs, services: Services) -> None:
    physicist = program(Role.PHYSICIST)
    first = physicist.post(f"cases/{WAITING}/retry", status=409, key="one")
    assert first["type"] == "urn:mqi:error:input"
    again = physicist.ask("POST", f"cases/{WAITING}/retry", headers={"idempotency-key": "one"})
    assert (again.status_code, again.json(), again.headers["content-type"]) == (
        409, first, "application/problem+json",
    )  # fmt: skip
    assert "idempotency-replayed" in again.headers


def test_slots_go_out_of_service_and_back(program: Programs, seeded: Seeded) -> None:
    seeded.site.ledger.slots.declare("here", [Slot(SlotKind.GPU, 0, "GPU-a", 24000)])
    engineer = program(Role.ENGINEER)
    wait_for(lambda: engineer.get("gpus"), "the slot is seen")
    done = engineer.post("gpus/here/gpu0/off", {"reason": "a fan is loud"})
    assert (done["subject"], done["text"][:15]) == ("here/gpu0", "out of the pool")
    wait_for(lambda: not engineer.get("gpus")[0]["in_service"], "it is out of service")
    engineer.post("gpus/here/0/on")
    wait_for(lambda: engineer.get("gpus")[0]["in_service"], "it is back")
    assert engineer.post("gpus/there/0/on", status=404)["status"] == 404
    for reason in ("", "two\nlines", "x" * 201):
        assert (
            engineer.post("gpus/here/0/off", {"reason": reason}, 422)["errors"][0]["where"] == "body.reason"
        )
    assert program(Role.PHYSICIST).post("gpus/here/0/on", status=403)["type"] == "urn:mqi:error:not-allowed"


def test_alarms_are_dismissed_by_their_number(program: Programs, seeded: Seeded) -> None:
    number = seeded.site.ledger.alarms.raise_("gpu_lost", "here/gpu0", "it is gone").id
    physicist = program(Role.PHYSICIST)
    wait_for(lambda: [one for one in physicist.get("alarms") if one["id"] == number], "the alarm is seen")
    physicist.post(f"alarms/{number}/dismiss")
    assert physicist.post(f"alarms/{number}/dismiss", status=404)["detail"].startswith("no open alarm")
    assert physicist.post("alarms/x/dismiss", status=422)["status"] == 422


def test_what_nobody_knows_is_not_found_and_not_in_the_audit(program: Programs, seeded: Seeded) -> None:
    physicist = program(Role.PHYSICIST)
    for path in ("cases/P9.fx0001/retry", f"courses/{FAILED}/cancel", "beams/%00%1b[2J/retake"):
        assert physicist.post(path, status=404)["type"] == "urn:mqi:error:key"
    assert physicist.post("machines/a/retry", status=422)["status"] == 422
    assert [told(seeded, one) for one in ("retry", "cancel", "retake")] == [[], [], []]


def test_bodies_that_make_no_sense_are_refused(program: Programs) -> None:
    physicist = program(Role.PHYSICIST)
    path = f"cases/{WAITING}/priority"
    for body in ({}, {"priority": 101}, {"priority": "x"}, {"priority": 1, "more": 1}, [], "x", None):
        assert physicist.post(path, body, 422)["errors"]

    def status(content: str, kind: str) -> int:
        return int(physicist.ask("POST", path, content=content, headers={"content-type": kind}).status_code)

    assert status('{"priority": 3}', "text/plain") == 415
    assert status("priority=3", "application/x-www-form-urlencoded") == 415
    assert status('{"priority": 3', "application/json") == 422
    assert status('{"priority": 3}' + " " * (1 << 20), "application/json") == 413
    assert status('{"priority": 3}', "application/json; charset=utf-8") == 200


def test_a_signature_needs_the_password_and_a_result(program: Programs, seeded: Seeded) -> None:
    add_user(seeded.site, OWNER, "approver", [Role.APPROVER], password="correct horse battery")
    approver = program(Role.APPROVER)
    path = f"cases/{FAILED}/review"
    shown = approver.get(path)
    assert shown["state"] == "not reviewed"
    body = {"verdict": "rejected", "reason": "it is short", "seen": shown["seen"]}
    assert (
        approver.post(path, {**body, "password": "wrong"}, 401, key="one")["type"] == "urn:mqi:error:sign-in"
    )
    # The same key with the right password is another try.
    problem = approver.post(path, {**body, "password": "correct horse battery"}, 409, key="one")
    assert problem["detail"].startswith("only a result that is complete or partial can be signed")
    with seeded.site.ledger.database.read() as connection:
        (kept,) = connection.exec_driver_sql("SELECT request, body FROM mqi_idempotency").all()
    assert "horse" not in f"{kept}"
    for wrong in ({"seen": None}, {"verdict": "perhaps"}, {"reason": "two\nlines"}, {"password": 1}):
        assert approver.post(path, {**body, "password": "x", **wrong}, 422)["errors"]
    half = '{"verdict": "accepted", "password": "\\ud800"}'
    assert approver.ask("POST", path, content=half, headers=JSON).status_code == 422


def test_a_token_may_do_what_its_scopes_and_its_account_say(
    program: Programs, seeded: Seeded, services: Services
) -> None:
    looks = program(Role.PHYSICIST, scopes=(Right.LOOK,))
    assert looks.get("me")["rights"] == ["look"]
    assert looks.post(f"cases/{FAILED}/retry", status=403)["type"] == "urn:mqi:error:not-allowed"
    assert told(seeded, "retry") == [(f"token:{looks.id}", FAILED, "refused")]
    acts = program(Role.PHYSICIST, scopes=(Right.ACT, Right.POOL))
    assert acts.get("me")["rights"] == ["act"]
    assert acts.get("cases", 403)["status"] == 403
    assert acts.post(f"cases/{FAILED}/retry")["runs"]
    assert acts.post("gpus/here/0/on", status=403)["status"] == 403


def test_a_token_is_worth_nothing_once_it_is_revoked_expired_or_its_account_disabled(
    program: Programs, seeded: Seeded
) -> None:
    for end in ("revoked", "expired", "disabled"):
        physicist = program(Role.PHYSICIST)
        physicist.post(f"cases/{WAITING}/priority", {"priority": 1}, key=end)
        if end == "revoked":
            revoke_token(seeded.site, OWNER, physicist.id)
        elif end == "expired":
            seeded.site.ledger.database.clock = lambda: datetime.now(UTC) + timedelta(days=1, seconds=1)
        else:
            seeded.site.ledger.database.clock = lambda: datetime.now(UTC)
            change_user(seeded.site, OWNER, "physicist", disabled=True)
        answer = physicist.ask("GET", "cases")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        # Nor is an answer of before given to it.
        assert physicist.post(f"cases/{WAITING}/priority", {"priority": 1}, 401, key=end)["status"] == 401
    for wrong in ("", "mqi_invented", "mqi_" + "x" * 5000):
        assert Program(physicist.client, wrong).get("cases", 401)["type"] == "urn:mqi:error:sign-in"
