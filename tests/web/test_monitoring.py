"""What machines ask of the pages: health, readiness, and numbers without a name in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.lifecycle.health import HealthProblem
from mqi_dagster.people.rights import Role
from mqi_dagster.web import monitoring
from mqi_dagster.web.live import Live, Seen
from tests.waiting import wait_for
from tests.web.programs import Program
from tests.worklist.seeded import Seeded

Programs = Callable[..., Program]


@pytest.fixture
def here(client: TestClient) -> Iterator[TestClient]:
    """The application, asked from the machine that it runs on."""
    yield TestClient(client.app, base_url="http://127.0.0.1:8000", client=("127.0.0.1", 50000))


def numbers(client: TestClient, **headers: str) -> dict[str, float]:
    """Every number by its name and labels."""
    text = client.get("/metrics", headers=headers).text
    return {name: float(value) for name, value in re.findall(r"^(mqi_\S+(?: work\"})?) (\S+)$", text, re.M)}


def test_this_machine_asks_without_a_token_and_nobody_else_does(
    here: TestClient, client: TestClient, program: Programs, seeded: Seeded
) -> None:
    wait_for(lambda: here.get("/readyz").status_code == 200, "the boards are read")
    assert client.get("/healthz").json() == {"status": "ok"}
    viewer, admin = program(Role.VIEWER), program(Role.SERVICE)
    for path in ("/readyz", "/metrics"):
        assert here.get(path).status_code == 200
        assert client.get(path).status_code == 401
        # A proxy of this machine is not this machine.
        for name in ("x-forwarded-for", "forwarded", "via", "x-real-ip"):
            assert here.get(path, headers={name: "192.0.2.1"}).status_code == 401
        assert viewer.ask("GET", path).status_code == 200
        assert admin.ask("GET", path).status_code == 200
    seeded.site.settings.web.__dict__["behind_proxy"] = True
    assert [here.get(path).status_code for path in ("/readyz", "/metrics")] == [401, 401]


def test_readiness_names_what_is_away(here: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    live: Live = here.app.state.live  # type: ignore[attr-defined]
    wait_for(lambda: live.seen.work, "the boards are read")
    assert here.get("/readyz").json() == {"status": "ready", "away": [], "detail": ""}
    monkeypatch.setattr(Live, "_publish", lambda *_, **__: None)
    seen = live.seen
    away = HealthProblem(AlarmKind.LEDGER_AWAY, "ledger", "it is away")
    live.seen = Seen(9, seen.work, "the ledger's database failed", (away,))
    answer = here.get("/readyz")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json() == {
        "status": "not ready", "away": ["ledger"], "detail": "the ledger's database failed",
    }  # fmt: skip
    live.seen = Seen(0, None, "")
    assert here.get("/readyz").json()["away"] == ["boards"]
    # A reader that hangs says nothing.
    live.seen = seen
    monkeypatch.setattr(monitoring, "LATE_SECONDS", -1.0)
    assert here.get("/readyz").json()["away"] == ["boards"]
    assert here.get("/healthz").status_code == 200


def test_the_numbers_are_those_of_the_boards_and_name_nobody(here: TestClient, seeded: Seeded) -> None:
    case, tags = "P500000000.fx0001", {"mqi/gpu": "simulation"}
    beams = [f"{case}__b0{number}" for number in range(1, 5)]
    seeded.arrivals([case])
    seeded.partitions("case", [case])
    seeded.run("intake", case, "SUCCESS")
    seeded.made("case_manifest", [case])
    seeded.partitions("beam", beams)
    seeded.runs([("beam", beams[0], "STARTED", tags), ("beam", beams[1], "QUEUED", tags)])
    seeded.daemon_alive()
    found = wait_for(
        lambda: (one := numbers(here)).get("mqi_runs_queued") and one,
        "the beams are seen",
    )
    assert found['mqi_partitions{kind="beam",state="in work"}'] == 2
    assert found['mqi_partitions{kind="beam",state="waiting"}'] == 2
    assert found['mqi_partitions{kind="case",state="failed"}'] == 1
    assert (found["mqi_runs_queued"], found["mqi_runs_in_work"]) == (1, 1)
    assert found["mqi_waiting_beams"] == 2
    assert found['mqi_oldest_waiting_seconds{kind="case"}'] > 3000
    assert found["mqi_boards_readable"] == 1
    assert found["mqi_read_errors_total"] == 0
    assert "mqi_boards_age_seconds" in found and "mqi_daemon_heartbeat_age_seconds" in found
    text = here.get("/metrics").text
    assert not re.search(r"P0000|fx0001|<b>", text)
    labels = set(re.findall(r'[{,](\w+)="', text))
    assert labels == {"version", "kind", "state"}
