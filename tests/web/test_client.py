"""The client of the interface: typed rows and errors, and what it sends again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from mqi_dagster.client import Client, Event
from mqi_dagster.errors import (
    AtWorkError,
    ConfigurationError,
    InfrastructureError,
    InputError,
    KeyRejectedError,
    KeyReusedError,
    NotAllowedError,
    SignInError,
)
from mqi_dagster.people.rights import Right, Role
from mqi_dagster.worklist import CaseState, Stage
from tests.waiting import wait_for
from tests.web.programs import Program
from tests.worklist.seeded import Seeded

ADDRESS = "http://127.0.0.1:8000"
FAILED, WAITING = "P000000001.fx0001", "P000000002.fx0001"
Answers = Iterator[httpx.Response | Exception]


def of(program: Program) -> Client:
    return Client(ADDRESS, program.token, http=program.client)


class Receiver:
    """A site that answers as it is told, and remembers what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = iter(answers)
        self.asked: list[httpx.Request] = []
        self.waits: list[float] = []
        transport = httpx.MockTransport(self._answer)
        self.client = Client(ADDRESS, "t", http=httpx.Client(transport=transport), sleep=self.waits.append)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def keys(self) -> set[str]:
        return {request.headers["idempotency-key"] for request in self.asked}


def problem(status: int, code: str = "input", **headers: str) -> httpx.Response:
    content = {"type": f"urn:mqi:error:{code}", "title": "x", "status": status, "detail": "what to do"}
    return httpx.Response(status, json=content, headers=headers)


DONE = {"subject": FAILED, "runs": {FAILED: "run-1"}, "text": "1 started"}


def test_rows_are_those_of_the_boards(program: Callable[..., Program], seeded: Seeded) -> None:
    site = of(program(Role.ADMIN, Role.PHYSICIST))
    cases = list(site.cases())
    assert [(row.case, row.state, row.stage) for row in cases] == [
        (FAILED, CaseState.FAILED, Stage.FAILED), (WAITING, CaseState.WAITING, Stage.INBOX),
    ]  # fmt: skip
    assert site.case(FAILED) == cases[0] == site.work().cases[0]
    assert [row.case for row in site.cases(state=["waiting"], q="P0")] == [WAITING]
    assert (list(site.beams()), list(site.beams(FAILED)), site.results(FAILED)) == ([], [], [])
    assert (list(site.courses()), site.gpus(), site.queue().inbox) == ([], [], 1)
    assert site.me().rights == sorted(
        Right(one) for one in ["look", "identity", "places", "act", "alarms", "audit", "people"]
    )
    assert site.review(FAILED).why_not.startswith("only a result that is complete")
    assert "1" in site.set_priority(WAITING, 1).text
    number = seeded.site.ledger.alarms.raise_("gpu_lost", "here/gpu0", "it is gone").id
    wait_for(lambda: number in [one.id for one in site.alarms()], "the alarm is seen")
    assert site.dismiss(number).subject == str(number)
    rows = list(site.audit(limit=2))
    assert [row.number for row in rows] == list(range(len(rows), 0, -1))
    assert {"priority", "alarm_dismissed", "audit_read"} <= {row.action for row in rows}


def test_all_pages_are_read(program: Callable[..., Program], seeded: Seeded) -> None:
    seeded.arrivals([f"P1{number:08d}.fx0001" for number in range(9)], asked=False)
    site = of(program(Role.VIEWER))
    wait_for(lambda: len(site.work().cases) == 11, "the arrivals are seen")
    assert [row.case for row in site.cases(limit=4)] == [row.case for row in site.work().cases]


def test_errors_are_typed(program: Callable[..., Program], client: TestClient) -> None:
    viewer = of(program(Role.VIEWER))
    with pytest.raises(KeyRejectedError, match="no case has this key"):
        viewer.case("P9.fx0001")
    with pytest.raises(NotAllowedError, match="needs the right 'act'"):
        viewer.retry(FAILED)
    with pytest.raises(SignInError):
        Client(ADDRESS, "invented", http=client).me()
    with pytest.raises(InputError, match=r"query\.state.*'waiting'"):
        list(viewer.cases(state=["gone"]))
    for key in ("..", "."):
        with pytest.raises(InputError, match="is no key"):
            viewer.case(key)
    with pytest.raises(KeyRejectedError):
        viewer.case("../me")


def test_an_action_is_sent_again_under_one_key_until_it_is_answered() -> None:
    site = Receiver(
        httpx.ConnectError("x"), httpx.ReadTimeout("x"),
        problem(503, "infrastructure", **{"retry-after": "5"}),
        problem(409, "at-work", **{"retry-after": "1"}), httpx.Response(502, text="<html>"),
        httpx.Response(200, json=DONE),
    )  # fmt: skip
    assert site.client.retry(FAILED).runs == {FAILED: "run-1"}
    assert (len(site.asked), len(site.keys()), site.waits) == (6, 1, [0.5, 1.0, 5.0, 4.0, 8.0])
    assert site.asked[0].url.path == f"/api/v1/cases/{FAILED}/retry"


def test_two_actions_have_two_keys_and_what_is_refused_is_not_sent_again() -> None:
    site = Receiver(httpx.Response(200, json=DONE), problem(409), problem(422, "key-reused"))
    site.client.retry(f"{FAILED}__b01")
    with pytest.raises(InputError, match="what to do"):
        site.client.cancel("RAAAAAAAAA.c01")
    with pytest.raises(KeyReusedError):
        site.client.gpu_off("a/b", 0, "why")
    assert (len(site.keys()), site.waits) == (3, [])
    assert [request.url.raw_path for request in site.asked] == [
        f"/api/v1/beams/{FAILED}__b01/retry".encode(), b"/api/v1/courses/RAAAAAAAAA.c01/cancel",
        b"/api/v1/gpus/a%2Fb/0/off",
    ]  # fmt: skip


def test_a_site_that_stays_away_is_given_up() -> None:
    site = Receiver(*[httpx.ConnectError("x")] * 6)
    with pytest.raises(InfrastructureError, match="cannot be reached: ConnectError"):
        site.client.queue()
    assert len(site.waits) == 5
    with pytest.raises(AtWorkError):
        Receiver(*[problem(409, "at-work")] * 6).client.retry(FAILED)


def test_a_token_goes_over_no_network_in_clear_and_comes_from_a_file_of_this_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in (
        "http://mqi.example.org",
        "ftp://127.0.0.1",
        "mqi.example.org",
        "http://127.0.0.1.example.org",
    ):
        with pytest.raises(ConfigurationError, match="https"):
            Client(address, "t")
    monkeypatch.delenv("MQI_TOKEN", raising=False)
    with pytest.raises(ConfigurationError, match="MQI_TOKEN_FILE"):
        Client.from_environment()
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text("mqi_secret\n")
    monkeypatch.setenv("MQI_TOKEN_FILE", str(file))
    monkeypatch.setenv("MQI_URL", "https://mqi.example.org/mqi/")
    with Client.from_environment() as site:
        assert (site._address, site._headers["Authorization"]) == (
            "https://mqi.example.org/mqi/api/v1", "Bearer mqi_secret",
        )  # fmt: skip
    file.chmod(0o644)
    with pytest.raises(ConfigurationError, match="open to others"):
        Client.from_environment()


def test_a_stream_that_breaks_goes_on_where_it_was() -> None:
    change = {
        "at": "2026-03-04T08:00:00Z", "kind": "case", "partition": FAILED, "state": "in work",
        "stage": "intake", "reason": "",
    }  # fmt: skip

    def event(name: str, identity: str, data: str = "") -> str:
        return f"id: {identity}\r\nevent: {name}\r\ndata: {data}\r\n\r\n"

    first = event("beat", "a-1") + ": ping\r\n\r\n" + event("status", "a-2", json.dumps(change))
    second = event("reset", "b-7") + "event: status\r\ndata: {broken off"
    site = Receiver(
        httpx.Response(200, text=first), httpx.ReadError("x"), problem(503, "infrastructure"),
        httpx.Response(200, text=second), problem(401, "sign-in"),
    )  # fmt: skip
    told: list[Event] = []
    with pytest.raises(SignInError):
        told.extend(iter(site.client.events()))
    told_ids = [request.headers.get("last-event-id") for request in site.asked]
    assert told_ids == [None, "a-2", "a-2", "a-2", "b-7"]
    assert site.waits == [0.5, 1.0, 2.0, 0.5]


def test_events_are_given_one_by_one() -> None:
    change = {"at": "2026-03-04T08:00:00Z", "kind": "case", "partition": FAILED, "state": None, "stage": None}
    text = f"id: a-1\nevent: status\ndata: {json.dumps(change)}\n\nid: a-2\nevent: reset\ndata:\n\n"
    events = Receiver(httpx.Response(200, text=text)).client.events("a-0")
    first, second = next(events), next(events)
    assert first.change is not None and (first.id, first.change.partition) == ("a-1", FAILED)
    assert second == Event("a-2", None)
