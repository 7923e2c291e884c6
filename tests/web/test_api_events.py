"""Changes of status are pushed in their order, and a client that was away gets what it has missed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from mqi_dagster.web.api.events import Changes
from mqi_dagster.web.live import BEAT_SECONDS, Live, Seen
from tests.waiting import wait_for
from tests.worklist.seeded import Seeded

FAILED, NEW = "P000000001.fx0001", "P000000003.fx0001"
Events = list[dict[str, str]]


async def always() -> bool:
    return True


def listen(
    client: TestClient,
    changes: Changes,
    last: str,
    until: str,
    goes_on: Callable[[], Awaitable[bool]] = always,
    told: Events | None = None,
) -> Events:
    """The events of a stream up to one of a name."""

    async def collect() -> Events:
        found = [] if told is None else told
        stream = changes.stream(last, goes_on)
        async for event in stream:
            found.append(event)
            if event["event"] == until:
                break
        await stream.aclose()  # type: ignore[attr-defined]
        return found

    assert client.portal is not None
    found: Events = client.portal.call(collect)
    return found


def of(client: TestClient) -> Changes:
    """The changes of an application that has read its boards."""
    changes: Changes = client.app.state.changes  # type: ignore[attr-defined]
    wait_for(lambda: changes._version > 0, "the boards are read")
    return changes


def statuses(events: Events) -> list[tuple[str, str, str]]:
    rows = [json.loads(one["data"]) for one in events if one["event"] == "status"]
    return [(row["kind"], row["partition"], row["state"]) for row in rows]


def test_a_change_comes_with_an_id_from_which_it_goes_on(client: TestClient, seeded: Seeded) -> None:
    changes = of(client)
    (begun,) = listen(client, changes, "", "beat")
    seeded.arrivals([NEW])
    seeded.partitions("case", [NEW])
    run = seeded.run("intake", NEW, "STARTED")
    first = listen(client, changes, begun["id"], "status")
    assert statuses(first) == [("case", NEW, "in work")]
    told: dict[str, Any] = json.loads(first[-1]["data"])
    assert (told["stage"], told["reason"]) == ("intake", "")
    seeded.end(run, "FAILURE")
    seeded.judged(run, NEW, "failed", "delivery 2 is short")
    second = listen(client, changes, first[-1]["id"], "status")
    assert statuses(second) == [("case", NEW, "failed")]
    # Whoever was away since the beginning gets both.
    assert statuses(listen(client, changes, begun["id"], "status"))[0] == ("case", NEW, "in work")


def test_what_is_not_there_any_more_is_said(client: TestClient, seeded: Seeded) -> None:
    changes = of(client)
    (begun,) = listen(client, changes, "", "beat")
    seeded.site.ledger.forget_case("P000000002.fx0001", "X1")
    found = listen(client, changes, begun["id"], "status")
    assert statuses(found) == [("case", "P000000002.fx0001", None)]


def test_a_client_whose_place_is_not_known_is_told_to_read_all_again(client: TestClient) -> None:
    changes = of(client)
    (begun,) = listen(client, changes, "", "beat")
    process, _, number = begun["id"].partition("-")
    for last in (f"other-{number}", f"{process}-{int(number) + 1}", f"{process}-x", "x" * 100, f"{process}-"):
        beat, reset = listen(client, changes, last, "reset")
        assert (beat["event"], reset["event"], reset["id"]) == ("beat", "reset", begun["id"])


def test_a_client_that_is_too_far_behind_is_told_so(client: TestClient, seeded: Seeded) -> None:
    changes = Changes(client.app.state.live, kept=2)  # type: ignore[attr-defined]
    of(client)
    changes.look()
    start = changes.name(0)
    cases = [f"P4{number:08d}.fx0001" for number in range(3)]
    seeded.arrivals(cases)
    seeded.partitions("case", cases)
    wait_for(lambda: changes.look() or changes.after(1), "all three are seen")
    assert [one["event"] for one in listen(client, changes, start, "reset")] == ["beat", "reset"]
    found = listen(client, changes, changes.name(1), "status")
    assert [one["id"] for one in found] == [changes.name(1), changes.name(2)]


def test_a_stream_ends_when_whoever_listens_may_not_any_more(client: TestClient, seeded: Seeded) -> None:
    changes = of(client)
    (begun,) = listen(client, changes, "", "beat")
    seeded.arrivals([NEW])
    seeded.partitions("case", [NEW])
    told: Events = []

    async def until_told() -> bool:
        return not any(one["event"] == "status" for one in told)

    listen(client, changes, begun["id"], "end", until_told, told)
    assert [one["event"] for one in told if one["event"] != "beat"] == ["status", "end"]
    assert client.app.state.live.streams == 0  # type: ignore[attr-defined]


class Asked(Live):
    """Boards that count how often somebody waits for their next change."""

    waits = 0

    async def after(self, version: int, seconds: float = BEAT_SECONDS) -> Seen:
        """What was read last; who asks again and again without waiting is held up."""
        self.waits += 1
        if self.waits > 50:
            await asyncio.Event().wait()
        return await super().after(version, seconds)


def test_while_the_boards_cannot_be_read_nobody_spins(tmp_path: Path) -> None:
    async def follow() -> Asked:
        live = Asked(Seeded(tmp_path / "site", None).site)
        changes = Changes(live)
        await live.start()
        while not live.seen.error:
            await live.after(live.seen.version)
        live.waits = 0
        changes.start()
        for _ in range(1000):
            await asyncio.sleep(0)
        changes.stop()
        await live.stop()
        return live

    live = asyncio.run(follow())
    assert live.seen.work is None and "no Dagster instance yet" in live.seen.error
    assert 1 <= live.waits <= 1 + live.seen.version
