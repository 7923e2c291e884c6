"""What changes is pushed, to those who may see it and for as long as they may."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from mqi_dagster.operations.people import change_user, sign_out
from mqi_dagster.people.passwords import fingerprint
from mqi_dagster.people.rights import Role
from mqi_dagster.web.live import Live
from tests.waiting import wait_for
from tests.web.conftest import OWNER
from tests.web.streams import Listener, served, signed_in
from tests.worklist.seeded import Seeded

Add = Callable[..., None]


@pytest.fixture
def running(seeded: Seeded, account: Add) -> Iterator[tuple[str, Live]]:
    """The pages, and accounts of viewers."""
    for name in ("vera", "olga", "nils"):
        account(name, Role.VIEWER)
    with served(seeded.site) as pages:
        yield pages


def test_what_changes_is_pushed_and_the_rest_stays_quiet(running: tuple[str, Live], seeded: Seeded) -> None:
    cookies = signed_in(seeded.site, "vera")
    everything, chosen, board = (
        Listener(running[0], path, cookies)
        for path in ("/stream/worklist", "/stream/worklist?state=person", "/stream/board")
    )
    wait_for(lambda: "it grows still" in everything.shown, "the first part")
    wait_for(lambda: "P000000001" in chosen.shown, "the first part of the chosen rows")
    wait_for(lambda: "Nothing is in work." in board.shown, "the first part of the board")
    assert "P000000002" not in chosen.shown
    beats, parts = everything.beats, len(everything.parts)
    wait_for(lambda: everything.beats > beats + 2, "signs of life")
    assert len(everything.parts) == parts
    seeded.site.ledger.arrivals.record("place-2", "P000000002.fx0001", "g" * 16, False, "2 of 3 beams", None)
    wait_for(lambda: "2 of 3 beams" in everything.shown, "the change")
    assert "it grows still" not in everything.shown
    (beam,) = seeded.taken_in(["P000000003.fx0001"], beams=1)
    run = seeded.run("beam", beam, "STARTED")
    seeded.site.ledger.database.clock = lambda: datetime.now(UTC)
    for batch in (3, 4):
        seeded.site.ledger.progress.record(beam, run, "simulating", batch, 10, 10.0 * batch)
        wait_for(lambda batch=batch: f"batch {batch} of 10" in board.shown, "its batch")  # type: ignore[misc]
    assert f'id="beam-{beam}"' in board.shown and "Field 1, 80.0-151.0 MeV, gantry 90°" in board.shown


def test_a_stream_ends_with_the_right_to_look_and_leaves_nothing(
    running: tuple[str, Live], seeded: Seeded
) -> None:
    names = ("vera", "olga", "nils")
    cookies = {name: signed_in(seeded.site, name) for name in names}
    streams = {name: Listener(running[0], "/stream/worklist", cookies[name]) for name in names}
    away = Listener(running[0], "/stream/board", cookies["vera"])
    wait_for(lambda: all(one.shown for one in (away, *streams.values())), "the first parts")
    assert running[1].streams == 4
    away.close()
    (secret,) = cookies["vera"].values()
    found = seeded.site.ledger.sessions.find(fingerprint(secret), timedelta(hours=1), timedelta(hours=1))
    assert found is not None
    sign_out(seeded.site, found[0])
    change_user(seeded.site, OWNER, "olga", disabled=True)
    change_user(seeded.site, OWNER, "nils", roles=[Role.PHYSICIST])
    for name, stream in streams.items():
        wait_for(lambda stream=stream: stream.ended, f"the end of the stream of {name}")  # type: ignore[misc]
    wait_for(lambda: running[1].streams == 0, "nothing is kept of them")


def test_a_page_that_only_brings_itself_up_to_date_is_no_use_of_a_session(
    running: tuple[str, Live], seeded: Seeded
) -> None:
    stream = Listener(running[0], "/stream/worklist", signed_in(seeded.site, "vera"))
    wait_for(lambda: stream.beats > 1, "signs of life")
    seeded.site.ledger.database.clock = lambda: datetime.now(UTC) + timedelta(minutes=20)
    beats = stream.beats
    wait_for(lambda: stream.beats > beats + 2, "signs of life")
    seeded.site.ledger.database.clock = lambda: datetime.now(UTC) + timedelta(minutes=31)
    wait_for(lambda: stream.ended, "the end of the stream")
