"""The board: what is in work and where, the GPUs with their last hour, the queue, the parts of the site."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.ledger.gpus import GpuUsage
from mqi_dagster.ledger.leases import Need
from mqi_dagster.ledger.slots import Slot, SlotKind
from mqi_dagster.operations.service_locks import Service, take
from mqi_dagster.people.rights import Role
from mqi_dagster.web.gpu_history import GpuHistory, Line
from mqi_dagster.worklist import GpuStatus
from tests.waiting import wait_for
from tests.web.conftest import Browser
from tests.worklist.seeded import Seeded

NOW = datetime(2026, 3, 4, 8, 0, tzinfo=UTC)


def row_of(page: str, identity: str) -> str:
    """The text of an element, without its markup; empty where it is not there."""
    found = re.search(rf'<(tr|li)[^>]* id="{re.escape(identity)}".*?</\1>', page, re.DOTALL)
    return " ".join(re.sub("<[^>]+>", " ", found[0]).split()) if found else ""


def test_the_board_shows_every_part_of_a_busy_site(
    browser: Browser, account: Callable[..., None], seeded: Seeded
) -> None:
    account("vera", Role.VIEWER)
    browser.sign_in("vera")
    ledger = seeded.ledger()
    seeded.now = datetime.now(UTC)
    keys = seeded.taken_in(["P000000003.fx0001"], beams=3)
    runs = seeded.runs([("beam", key, "STARTED", {"mqi/gpu": "simulation"}) for key in keys[:2]])
    seeded.run("beam", keys[2], "QUEUED", tags={"mqi/gpu": "simulation"})
    ledger.slots.declare("node1", [Slot(SlotKind.GPU, index, f"GPU-{index}", 24576) for index in range(2)])
    ledger.leases.acquire(keys[0], runs[0], Need(SlotKind.GPU), stale_after=timedelta(seconds=60))
    ledger.slots.switch_off("node1", "gpu", 1, "<loud> fan")
    usage = GpuUsage("node1", 0, "GPU-0", "RTX A5000", 24576, 12288, 96, 71, None, None, 0, seeded.now)
    ledger.gpus.record("node1", [usage])
    ledger.progress.record(keys[0], runs[0], "simulating", 4, 10, 37.0)
    ledger.progress.record(keys[1], runs[1], "waiting", message="1 of 1 is leased")
    turn = ledger.clusters.take_turn("farm", shortest=timedelta(seconds=30), hold=timedelta(seconds=60))
    assert turn is not None
    ledger.clusters.end_turn(turn, next_in=timedelta(0), interval=timedelta(0), failure="no route to host")
    lock = take(seeded.site.settings, Service.WEB)
    seeded.daemon_alive()
    ledger.database.clock = lambda: datetime.now(UTC)
    ledger.alarms.raise_(AlarmKind.BEAM_STUCK, keys[0], "its engine stands still: `mqi case show`")
    late = (
        (f"alarm-beam_stuck-{keys[0]}", "its engine stands still"),
        ("part-service-web", "service web runs started"),
        ("part-daemon", "Dagster's daemon lives"),
    )
    page = wait_for(
        lambda: (
            found if all(text in row_of(found := browser.get("/board"), part) for part, text in late) else ""
        ),
        "the board",
    )
    assert re.fullmatch(
        rf"{keys[0]} Field 1, 80.0-151.0 MeV, gantry 90° simulating 37 % 37 % batch 4 of 10 .*node1/gpu0",
        row_of(page, f"beam-{keys[0]}"),
    )
    assert "waiting for a slot 1 of 1 is leased" in row_of(page, f"beam-{keys[1]}")
    assert row_of(page, f"beam-{keys[2]}") == ""
    gpu = row_of(page, "gpu-node1-gpu0-GPU-0")
    assert f"node1/gpu0 leased RTX A5000 for {keys[0]} · " in gpu
    assert "12.0 of 24.0 GiB 96 % in use · 71 °C" in gpu
    assert row_of(page, "gpu-node1-gpu1-GPU-1").startswith("node1/gpu1 off &lt;loud&gt; fan")
    alarm = row_of(page, f"alarm-beam_stuck-{keys[0]}")
    assert "beam stuck" in alarm and "its engine stands still: mqi case show" in alarm
    assert f'<a class="key" href="/case/{keys[0].partition("__")[0]}">{keys[0]}</a>' in page
    assert "does not answer" in row_of(page, "part-cluster-farm")
    assert "no route to host" in row_of(page, "part-cluster-farm")
    assert re.match("hand-over to local no trouble", row_of(page, "part-target-local"))
    assert "Why they wait" in page and "1 · " in page
    os.close(lock)
    wait_for(lambda: "does not run" in row_of(browser.get("/board"), "part-service-web"), "its end")


def test_an_idle_site_says_so(browser: Browser, account: Callable[..., None]) -> None:
    account("vera", Role.VIEWER)
    browser.sign_in("vera")
    page = browser.get("/board")
    assert "Nothing is in work. Nothing waits for its turn either." in page
    assert "No slot is declared and no GPU was seen yet" in page
    assert "No service of this site has ever run: <code>mqi dev</code> starts them all." in page


def gpu(minutes: float, percent: float | None) -> GpuStatus:
    """A GPU as it was seen so long before `NOW`."""
    return GpuStatus(
        host="node1", kind="gpu", index=0, uuid="GPU-0", slot=True, in_service=True, owner=None,
        leased_at=None, heartbeat_at=None, memory_mb=0, utilisation_percent=percent,
        seen_at=NOW - timedelta(minutes=minutes),
    )  # fmt: skip


def test_the_last_hour_of_a_gpu_is_a_line_from_the_left_to_the_right() -> None:
    history = GpuHistory()
    assert history.line(gpu(0, 0.0), NOW) is None
    for minutes, percent in ((90, 10.0), (60, 0.0), (30, 50.0), (29.9, 77.0), (0, 100.0), (0, None)):
        history.add([gpu(minutes, percent)])
    assert history.line(gpu(0, 0.0), NOW) == Line(
        "0.0,24.0 60.0,12.0 120.0,0.0", NOW - timedelta(hours=1), 50.0, 100.0
    )


def test_the_history_of_gpus_has_an_end() -> None:
    history = GpuHistory()
    for second in range(20_000, 0, -10):
        history.add([gpu(second / 60, 50.0)])
    line = history.line(gpu(0, 0.0), NOW)
    assert line is not None and len(line.points.split()) <= 121
    history.add([])
    assert history.line(gpu(0, 0.0), NOW) is None
