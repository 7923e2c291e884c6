"""What workers are answered: who holds a lease goes on, and whoever is late, forged or foreign does not."""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from fastapi import Request
from httpx import Response
from starlette.testclient import TestClient

from mqi_dagster.errors import UnreachableError
from mqi_dagster.execution.job import JobState
from mqi_dagster.execution.work import Claim
from mqi_dagster.operations.gpus import gpu_rows
from mqi_dagster.people.rights import Actor, Right, Role
from mqi_dagster.pull.queue import WorkQueue
from mqi_dagster.web.access import Visitor
from mqi_dagster.web.api.work import claim
from mqi_dagster.web.application import create_app
from tests.pull.conftest import MakeLab
from tests.pull.lab import OUTPUTS, Lab
from tests.waiting import wait_for

CLAIM = "1" * 32
CPU = {"kind": "cpu", "index": 0}
GPU = {"kind": "gpu", "index": 0, "uuid": "GPU-1", "memory_mb": 8000}


class Asking:
    """A worker as the server sees it."""

    def __init__(self, lab: Lab, client: TestClient, account: str = "lab-account", name: str = "one") -> None:
        self.lab, self.client, self.name = lab, client, name
        self.headers = {"authorization": f"Bearer {lab.token(account)}"}

    def has(self, **values: Any) -> dict[str, Any]:
        """What it offers."""
        return {"worker": self.name, "programs": {"copy": ""}, "memory_mb": 8000, "devices": [CPU], **values}

    def claim(self, number: str = CLAIM, **values: Any) -> dict[str, Any]:
        """A job; empty where there is none."""
        asked = {"id": number, "has": self.has(**values), "slot": 0}
        answer = self.client.post("/api/v1/work/claim", json=asked, headers=self.headers)
        assert answer.status_code in (200, 204), answer.text
        return dict(answer.json()) if answer.status_code == 200 else {}

    def call(self, method: str, path: str, lease: str, **more: Any) -> Response:
        """A call with a lease."""
        headers = {**self.headers, "mqi-lease": lease}
        return self.client.request(method, f"/api/v1/work/{path}", headers=headers, **more)

    def post(self, offer: dict[str, Any], what: str, body: dict[str, Any] | None = None) -> Response:
        """A call about a job."""
        return self.call("POST", f"{offer['id']}/{what}", offer["lease"], json=body or {})

    def beat(self, offer: dict[str, Any], **more: Any) -> Response:
        """A heartbeat."""
        return self.post(offer, "heartbeat", {"phase": "at work", **more})

    def send(self, offer: dict[str, Any], number: int, content: bytes) -> Response:
        """An output in one piece."""
        query = {"offset": 0, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        path = f"{offer['id']}/outputs/{number}"
        return self.call("PUT", path, offer["lease"], params=query, content=content)


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    """A site with workers, and a clock that is turned on by hand."""
    return make_lab({"lease_seconds": 10.0})


@pytest.fixture
def queue(lab: Lab) -> WorkQueue:
    """The server's side."""
    return lab.site.work_queue()


@pytest.fixture
def client(lab: Lab, queue: WorkQueue) -> TestClient:
    """The application; nobody ends leases but `queue.tend`."""
    app = create_app(lab.site)
    app.state.work = queue
    return TestClient(app, base_url="http://127.0.0.1:8000", follow_redirects=False)


@pytest.fixture
def one(lab: Lab, client: TestClient) -> Asking:
    """A worker."""
    return Asking(lab, client)


@pytest.fixture
def two(lab: Lab, client: TestClient) -> Asking:
    """Another one of the same account."""
    return Asking(lab, client, name="two")


@pytest.fixture
def later(lab: Lab) -> Iterator[list[float]]:
    """Seconds by which the server's clock is ahead."""
    ahead = [0.0]
    lab.site.ledger.database.clock = lambda: datetime.now(UTC) + timedelta(seconds=ahead[0])
    yield ahead


def test_only_a_token_with_the_right_to_work_asks_for_work(lab: Lab, client: TestClient) -> None:
    asked = {"id": CLAIM, "has": {"worker": "one", "programs": {}, "devices": [CPU]}, "slot": 0}
    lab.executor.submit(lab.job("alpha"))
    assert client.post("/api/v1/work/claim", json=asked).status_code == 401
    for role, scope in ((Role.PHYSICIST, Right.LOOK), (Role.WORKER, Right.LOOK), (Role.ADMIN, Right.WORK)):
        headers = {"authorization": f"Bearer {lab.token(f'a-{role.value}-{scope.value}', role, scope)}"}
        assert client.post("/api/v1/work/claim", json=asked, headers=headers).status_code == 403
        assert client.get("/api/v1/work/hello", headers=headers).status_code == 403


def test_a_worker_has_no_right_but_to_work(one: Asking) -> None:
    assert one.client.get("/", headers=one.headers).status_code == 403


def test_a_job_is_given_to_one_worker_however_many_ask(lab: Lab, one: Asking, two: Asking) -> None:
    lab.executor.submit(lab.job("alpha"))
    asking = [(worker, f"{number:032x}") for number in range(8) for worker in (one, two)]
    with ThreadPoolExecutor(16) as pool:
        offers = list(pool.map(lambda asked: asked[0].claim(asked[1]), asking))
    assert sum(bool(offer) for offer in offers) == 1


def test_what_a_worker_is_told_says_nothing_of_whose_job_it_is(lab: Lab, one: Asking) -> None:
    lab.executor.submit(lab.job("alpha"))
    offer = one.claim()
    assert sorted(offer) == sorted(
        [
            "id",
            "lease",
            "lease_seconds",
            "manifest",
            "outputs",
            "success_exit_codes",
            "timeout_seconds",
            "work",
        ]
    )
    assert "P1.fx0001" not in str(offer)
    assert re.fullmatch(r"[0-9a-f]{32}", offer["id"])
    packed = one.call("GET", f"{offer['id']}/inputs", offer["lease"])
    assert packed.headers["content-length"] == str(len(packed.content))
    assert "content-encoding" not in packed.headers
    with tarfile.open(fileobj=io.BytesIO(packed.content)) as inputs:
        assert sorted(inputs.getnames()) == ["code", "name", "seconds"] == sorted(offer["manifest"])
        assert {(entry.uid, entry.gid, entry.uname, entry.mtime) for entry in inputs} == {(0, 0, "", 0)}
    rest = one.client.get(
        f"/api/v1/work/{offer['id']}/inputs",
        headers={**one.headers, "mqi-lease": offer["lease"], "range": "bytes=1000-"},
    )
    assert (rest.status_code, rest.content) == (206, packed.content[1000:])


def test_a_lost_answer_is_given_again_under_another_lease(lab: Lab, one: Asking) -> None:
    lab.executor.submit(lab.job("alpha"))
    first, again = one.claim(), one.claim()
    assert first["id"] == again["id"] and first["lease"] != again["lease"]
    assert one.beat(first).status_code == 409
    assert one.beat(again).json() == {"goes_on": True, "log_bytes": 0}
    assert one.claim("2" * 32) == {}
    assert [row.claims for row in lab.site.ledger.work.all()] == [1]


@pytest.mark.parametrize(
    "job_id", ["*", "%2A", "..%2F..%2Fetc", "0" * 32, "0" * 31, "A" * 32, "%00", "{job}/", "x" * 5000]
)
def test_an_id_that_is_none_is_not_there(lab: Lab, one: Asking, job_id: str) -> None:
    lab.executor.submit(lab.job("alpha"))
    offer = one.claim()
    path = job_id.format(job=offer["id"])
    for method, what in (("POST", "heartbeat"), ("POST", "complete"), ("POST", "fail"), ("GET", "inputs")):
        assert one.call(method, f"{path}/{what}", offer["lease"], json={"phase": ""}).status_code == 404
    query = {"offset": 0, "size": 1, "sha256": "0" * 64}
    answer = one.call("PUT", f"{path}/outputs/1", offer["lease"], params=query, content=b"x")
    assert answer.status_code == 404


def test_whoever_does_not_hold_the_lease_changes_nothing(lab: Lab, one: Asking, two: Asking) -> None:
    handle = lab.executor.submit(job := lab.job("alpha"))
    offer = one.claim()
    other = Asking(lab, one.client, account="other-account", name="three")
    for asking, lease in ((two, "invented"), (other, offer["lease"]), (one, ""), (one, "é" * 20)):
        forged = {**offer, "lease": lease.encode()}
        for what in ("complete", "fail", "release", "heartbeat"):
            answer = asking.post(forged, what, {"phase": "", "reason": "forged"})
            assert answer.status_code == 409, (asking.name, lease, what)
        assert asking.send(forged, 1, b"forged").status_code == 409
        assert asking.call("GET", f"{offer['id']}/inputs", forged["lease"]).status_code == 409
    assert lab.executor.poll(job, handle).state is JobState.RUNNING
    assert one.beat(offer).status_code == 200


def test_accounts_may_be_named_and_others_get_no_job(make_lab: MakeLab) -> None:
    lab = make_lab({"accounts": ["mine"]})
    lab.executor.submit(lab.job("alpha"))
    client = TestClient(create_app(lab.site), base_url="http://127.0.0.1:8000")
    mine, other = Asking(lab, client, "mine"), Asking(lab, client, "other", "two")
    assert other.claim() == {}
    offer = mine.claim()
    assert other.beat(offer).status_code == 404
    assert mine.beat(offer).status_code == 200


def test_the_job_of_a_silent_worker_goes_to_the_next_and_the_late_one_is_refused(
    lab: Lab, one: Asking, two: Asking, queue: WorkQueue, later: list[float]
) -> None:
    handle = lab.executor.submit(job := lab.job("alpha"))
    late = one.claim()
    one.beat(late, log="of the first")
    later[0] = 9.0
    queue.tend()
    assert one.beat(late).status_code == 200
    later[0] = 20.0
    queue.tend()
    assert lab.executor.poll(job, handle).state is JobState.WAITING
    offer = two.claim("2" * 32)
    for what in ("complete", "heartbeat"):
        assert one.post(late, what, {"phase": ""}).status_code == 409
    assert one.send(late, 1, b"late").status_code == 409
    assert two.beat(offer, log="of the second").status_code == 200
    piece = lab.executor.tail(job, handle, 0)
    assert (piece.text, piece.start) == (b"of the second", 2)
    assert [two.send(offer, number, b"made").status_code for number in (1, 2)] == [200, 200]
    assert two.post(offer, "complete", {"exit_code": 0}).status_code == 204
    assert two.post(offer, "complete", {"exit_code": 0}).status_code == 204
    assert lab.executor.fetch(job, handle)[OUTPUTS[0]].read_bytes() == b"made"


def test_a_server_that_was_away_takes_no_lease(lab: Lab, one: Asking, later: list[float]) -> None:
    lab.executor.submit(lab.job("alpha"))
    offer = one.claim()
    later[0] = 100.0
    started_again = lab.site.work_queue()
    later[0] = 200.0
    started_again.begin()
    started_again.tend()
    assert one.beat(offer).status_code == 200
    later[0] = 201.0
    started_again.tend()
    assert one.beat(offer).status_code == 200


def test_a_job_that_costs_one_worker_after_the_other_its_life_has_failed(
    lab: Lab, one: Asking, queue: WorkQueue, later: list[float]
) -> None:
    handle = lab.executor.submit(job := lab.job("alpha"))
    for number in range(3):
        one.beat(one.claim(f"{number:032x}"))
        later[0] += 11
        queue.tend()
    status = lab.executor.poll(job, handle)
    assert (status.state, one.claim("f" * 32)) == (JobState.FAILED, {})
    assert status.reason == "given up after 3 workers: worker one was not heard of for 11 s"


def test_an_offer_whose_answer_was_lost_has_cost_nobody_his_life(
    lab: Lab, one: Asking, queue: WorkQueue, later: list[float]
) -> None:
    handle = lab.executor.submit(job := lab.job("alpha"))
    for number in range(9):
        assert one.claim(f"{number:032x}")
        later[0] += 11
        queue.tend()
    assert lab.executor.poll(job, handle).state is JobState.WAITING
    assert one.beat(one.claim("f" * 32)).status_code == 200


def test_whoever_asks_again_and_again_without_an_answer_keeps_no_lease(
    lab: Lab, one: Asking, two: Asking, queue: WorkQueue, later: list[float]
) -> None:
    lab.executor.submit(lab.job("alpha"))
    for _ in range(3):
        assert one.claim()
        later[0] += 4
    queue.tend()
    assert two.claim("2" * 32)


def test_a_question_that_still_waits_when_its_worker_says_farewell_brings_it_not_back(
    lab: Lab, one: Asking, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqi_dagster.web.api.work._HEARD_SECONDS", 0.0)
    asked = {"id": CLAIM, "has": one.has(), "slot": 0, "wait_seconds": 3}
    farewell = {"id": "2" * 32, "has": one.has(devices=[])}
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(client.post, "/api/v1/work/claim", json=asked, headers=one.headers)
        wait_for(lambda: lab.site.ledger.workers.all(), "it is heard")
        assert client.post("/api/v1/work/claim", json=farewell, headers=one.headers).status_code == 204
        assert waits.result().status_code == 204
    assert (lab.site.ledger.workers.all(), lab.site.ledger.slots.all()) == ([], [])


def test_an_offer_for_whoever_has_gone_meanwhile_goes_back_at_once(
    lab: Lab, one: Asking, queue: WorkQueue
) -> None:
    class Gone:
        answers = iter([False, True])

        async def is_disconnected(self) -> bool:
            return next(self.answers)

    handle = lab.executor.submit(job := lab.job("alpha"))
    asked = Claim.model_validate({"id": CLAIM, "has": one.has(), "slot": 0})
    visitor = Visitor(Actor("lab-account", frozenset({Right.WORK}), "token:1"))
    asyncio.run(claim(cast(Request, Gone()), visitor, queue, asked))
    assert lab.executor.poll(job, handle).state is JobState.WAITING
    assert [(row.claims, row.token) for row in lab.site.ledger.work.all()] == [(0, 1)]


def test_a_job_that_is_given_back_unharmed_counts_as_never_taken(lab: Lab, one: Asking) -> None:
    handle = lab.executor.submit(job := lab.job("alpha"))
    for number in range(5):
        assert one.post(one.claim(f"{number:032x}"), "release").status_code == 204
    failed = {"infrastructure": True, "reason": "its disk is full"}
    assert one.post(one.claim(), "fail", failed).status_code == 204
    status = lab.executor.poll(job, handle)
    assert status.state is JobState.WAITING
    assert status.reason == "the computer of worker one has failed: its disk is full"


def test_an_output_comes_in_pieces_and_what_is_damaged_begins_anew(
    lab: Lab, one: Asking, queue: WorkQueue
) -> None:
    handle = lab.executor.submit(job := lab.job("alpha"))
    offer = one.claim()
    content = b"0123456789"
    query = {"size": 10, "sha256": hashlib.sha256(content).hexdigest()}

    def piece(offset: int, text: bytes, number: int = 1) -> int:
        path = f"{offer['id']}/outputs/{number}"
        answer = one.call("PUT", path, offer["lease"], params={**query, "offset": offset}, content=text)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["size"])

    assert [piece(0, b"0123"), piece(0, b"0123"), piece(6, b"6789"), piece(4, b"456789")] == [4, 4, 4, 10]
    assert piece(0, b"0123") == 10
    assert [piece(0, b"damaged", 2), piece(7, b"xyz", 2), piece(0, content, 2)] == [7, 0, 10]
    assert one.send(offer, 3, b"x").status_code == one.send(offer, 0, b"x").status_code == 404
    large = {**query, "size": 9 << 33, "offset": 0}
    assert one.call("PUT", f"{offer['id']}/outputs/1", offer["lease"], params=large).status_code == 409
    assert (
        one.client.put(
            f"/api/v1/work/{offer['id']}/outputs/1",
            headers={**one.headers, "mqi-lease": offer["lease"]},
            params={**query, "offset": 0},
            content=b"x" * ((1 << 20) + 1),
        ).status_code
        == 413
    )
    one.post(offer, "complete")
    assert lab.executor.fetch(job, handle)[OUTPUTS[1]].read_bytes() == content


def test_a_line_that_is_cut_within_an_output_is_no_failure_of_the_server(
    one: Asking, lab: Lab, client: TestClient
) -> None:
    lab.executor.submit(lab.job("alpha"))
    offer = one.claim()
    headers = {"host": "127.0.0.1:8000", **one.headers, "mqi-lease": offer["lease"]}
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "PUT",
        "scheme": "http",
        "path": f"/api/v1/work/{offer['id']}/outputs/1",
        "query_string": b"offset=0&size=5&sha256=" + b"0" * 64,
        "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
    }
    parts = iter([{"type": "http.request", "body": b"ab", "more_body": True}])
    sent = list[Any]()

    async def receive() -> Any:
        return next(parts, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(client.app(scope, receive, send))
    assert [message.get("status") for message in sent[:1]] in ([], [400])
    assert one.beat(offer).status_code == 200


def test_a_job_without_its_outputs_has_failed(lab: Lab, one: Asking) -> None:
    handle = lab.executor.submit(job := lab.job("alpha"))
    offer = one.claim()
    one.send(offer, 1, b"made")
    assert one.post(offer, "complete", {"exit_code": 0}).status_code == 204
    assert lab.executor.poll(job, handle).reason == "output 2 of 2 did not come"


def test_an_outcome_is_found_again_until_it_is_given_up(lab: Lab, one: Asking) -> None:
    handle = lab.executor.submit(job := lab.job("alpha"))
    ended = {
        "exit_code": 3,
        "reason": "ended with exit code 3",
        "out_of_memory": True,
        "steps": ["with less"],
    }
    one.post(one.claim(), "fail", ended)
    assert lab.executor.submit(job) == handle
    status = lab.executor.poll(job, handle)
    assert (status.state, status.exit_code, status.out_of_memory) == (JobState.FAILED, 3, True)
    assert status.steps == ("with less",)
    lab.executor.give_up(job, "of no use")
    assert lab.executor.poll(job, handle).state is JobState.LOST
    assert lab.executor.submit(job) == handle
    assert lab.executor.poll(job, handle).state is JobState.WAITING
    assert one.claim("2" * 32)["id"] == handle.job_id


def test_a_cancelled_job_ends_at_the_next_heartbeat(lab: Lab, one: Asking, queue: WorkQueue) -> None:
    waiting, running = lab.job("alpha"), lab.job("beta")
    handle = lab.executor.submit(running)
    offer = one.claim()
    lab.executor.submit(waiting)
    assert lab.executor.leave(waiting, None, cancelled=True) is False
    assert lab.executor.leave(running, handle, cancelled=False) is True
    lab.executor.cancel_beam(running.name)
    assert not lab.executor.ended(running.name)
    assert one.beat(offer).json()["goes_on"] is False
    assert one.post(offer, "release").status_code == 204
    assert lab.executor.ended(running.name)
    assert lab.executor.poll(running, handle).state is JobState.CANCELLED
    assert one.claim("2" * 32) == {}


def test_a_cancelled_job_whose_worker_is_silent_is_never_given_out_again(
    lab: Lab, one: Asking, queue: WorkQueue, later: list[float]
) -> None:
    handle = lab.executor.submit(job := lab.job("alpha"))
    one.claim()
    lab.executor.cancel_beam(job.name)
    later[0] = 11.0
    queue.tend()
    assert lab.executor.poll(job, handle).state is JobState.CANCELLED


@pytest.mark.parametrize(
    ("needs", "has", "given"),
    [
        ({"version": "2"}, {"programs": {"copy": "2"}}, True),
        ({"version": "2"}, {"programs": {"copy": "1"}}, False),
        ({"version": "2"}, {"programs": {"copy": ""}}, True),
        ({}, {"programs": {"other": ""}}, False),
        ({"memory_mb": 9000}, {}, False),
        ({"model": "brain", "card_sha256": "a" * 64}, {}, False),
        ({"model": "brain", "card_sha256": "a" * 64}, {"models": [("brain", "a")]}, True),
        ({"model": "brain", "card_sha256": "a" * 64}, {"models": [("brain", "b")]}, False),
        ({"model": "brain", "card_sha256": "a" * 64}, {"models": [("lung", "a")]}, False),
        ({"gpu": "needed"}, {}, False),
        ({"gpu": "needed", "gpu_memory_mb": 8000}, {"devices": [GPU]}, True),
        ({"gpu": "needed", "gpu_memory_mb": 8001}, {"devices": [GPU]}, False),
        ({"gpu": "wanted", "gpu_memory_mb": 9000}, {}, True),
        ({"gpu": "no"}, {"devices": [GPU]}, True),
    ],
)
def test_a_worker_is_given_what_it_can_run(
    lab: Lab, one: Asking, needs: dict[str, Any], has: dict[str, Any], given: bool
) -> None:
    handle = lab.executor.submit(job := lab.job("alpha", needs=needs))
    models = [
        {"name": name, "version": "1", "card_sha256": 64 * card} for name, card in has.get("models", ())
    ]
    assert bool(one.claim(**{**has, "models": models})) is given
    if not given:
        assert lab.executor.poll(job, handle).reason.startswith("no worker of lab is there that has the ")


def test_the_processor_gets_no_job_that_a_free_gpu_is_there_for(lab: Lab, one: Asking, two: Asking) -> None:
    lab.executor.submit(lab.job("alpha", needs={"gpu": "wanted"}))
    assert one.claim(**{"devices": [GPU], "programs": {}}) == {}
    assert two.claim("2" * 32) != {}
    lab.executor.submit(lab.job("beta", needs={"gpu": "wanted"}))
    other = {"id": "3" * 32, "has": one.has(devices=[GPU])}
    assert one.client.post("/api/v1/work/claim", json=other, headers=one.headers).status_code == 204
    assert two.claim("4" * 32) == {}
    assert one.claim("5" * 32, devices=[GPU]) != {}


def test_the_devices_of_workers_are_in_the_pool_and_can_be_taken_out_of_service(
    lab: Lab, one: Asking, queue: WorkQueue, later: list[float]
) -> None:
    ledger = lab.site.ledger
    lab.executor.submit(lab.job("alpha"))
    asked = {"id": CLAIM, "has": one.has(devices=[{**GPU, "name": "A100", "used_mb": 5}, CPU])}
    one.client.post("/api/v1/work/claim", json=asked, headers=one.headers)
    assert [slot.name for slot in ledger.slots.all()] == ["worker:one/cpu0", "worker:one/gpu0"]
    assert [(gpu.host, gpu.name, gpu.used_mb) for gpu in ledger.gpus.all()] == [("worker:one", "A100", 5)]
    ledger.slots.switch_off("worker:one", "gpu", 0, "its fan")
    assert one.claim(devices=[GPU, CPU]) == {}
    ledger.slots.switch_on("worker:one", "gpu", 0)
    offer = one.claim(devices=[GPU, CPU])
    one.beat(offer, device={**GPU, "used_mb": 4000})
    shown = [(row["slot"], row["state"], row["beam"]) for row in gpu_rows(ledger)]
    assert shown == [
        ("worker:one/cpu0", "free", None),
        ("worker:one/gpu0", "leased", "P1.fx0001__balpha"),
    ]
    assert [gpu.used_mb for gpu in ledger.gpus.all()] == [4000]
    later[0] = 60.0
    queue.tend()
    assert [(slot.name, slot.in_service) for slot in ledger.slots.all()] == [
        ("worker:one/cpu0", False),
        ("worker:one/gpu0", False),
    ]
    one.claim("2" * 32, devices=[GPU])
    assert [(slot.name, slot.in_service) for slot in ledger.slots.all()] == [("worker:one/gpu0", True)]


def test_the_name_of_a_worker_is_one_accounts(lab: Lab, one: Asking) -> None:
    one.claim()
    other = Asking(lab, one.client, account="other-account")
    asked = {"id": CLAIM, "has": other.has(), "slot": 0}
    answer = other.client.post("/api/v1/work/claim", json=asked, headers=other.headers)
    assert (answer.status_code, "choose another name" in answer.json()["detail"]) == (409, True)


def test_the_version_of_the_engine_is_what_a_worker_tells(lab: Lab, one: Asking) -> None:
    with pytest.raises(UnreachableError, match="no worker of lab that has asked for work tells"):
        lab.executor.answer(["moqui", "--version"])
    one.claim(programs={"engine": "moqui 1.2"})
    assert lab.executor.answer(["moqui", "--version"]) == "moqui 1.2"


def test_what_a_job_that_failed_has_left_goes_after_a_while(
    lab: Lab, one: Asking, later: list[float]
) -> None:
    lab.executor.submit(lab.job("alpha"))
    one.post(one.claim(), "fail", {"exit_code": 1, "reason": "no"})
    spool = lab.folder / "site" / "state" / "pull"
    later[0] = 13 * 86400
    lab.executor.submit(lab.job("beta"))
    assert len(list(spool.iterdir())) == 2
    later[0] = 15 * 86400
    lab.executor.submit(lab.job("gamma"))
    assert len(list(spool.iterdir())) == 2
    assert all(path.stat().st_mode & 0o077 == 0 for path in (spool, *spool.iterdir()))
