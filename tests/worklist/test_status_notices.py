"""Changes of status become notices: each once, in order, for the channels that want them."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
import yaml

from mqi_dagster.notify.message import channels_of
from mqi_dagster.operations.status_notices import StatusNotices, is_wanted
from mqi_dagster.operations.watch import Watch
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors.notifications import notify
from tests.notify.receivers import Posted, http_receiver
from tests.worklist.seeded import Seeded

CASE = "P000000001.fx0001"


def told(site: Site, channel: str = "webhook") -> list[tuple[str, str, str]]:
    """Kind, partition and state of what the channel has to tell, in its order."""
    events = {one.value for one in site.settings.notifications.told_by(channel)}
    return [(one.kind, one.subject, one.state) for one in site.ledger.notices.due(channel, 99, events)]


def subscribed(seeded: Seeded, **notifications: Any) -> Site:
    """The site with these notifications."""
    file = seeded.site.settings_file
    settings = {**yaml.safe_load(file.read_text()), "notifications": notifications}
    file.write_text(yaml.safe_dump(settings))
    return Site(file)


def webhook(posted: Posted, **more: Any) -> dict[str, Any]:
    return {"url": f"http://127.0.0.1:{posted.port}/", "tell": ["status_changed"], **more}


def fail(seeded: Seeded, run: str, cause: str) -> None:
    seeded.end(run, "FAILURE")
    seeded.judged(run, CASE, "failed", cause)


@pytest.fixture
def begun(seeded: Seeded) -> Seeded:
    """A site with a case that is taken in."""
    seeded.arrivals([CASE])
    seeded.partitions("case", [CASE])
    return seeded


def test_each_change_is_written_once_whoever_looks(begun: Seeded) -> None:
    site = begun.site
    site.ledger.notices.channel("test")
    one, other = StatusNotices(site), StatusNotices(site)
    # What stands there already is no change.
    assert (one.look(), other.look()) == (0, 0)
    run = begun.run("intake", CASE, "STARTED")
    assert (one.look(), other.look(), one.look()) == (1, 0, 0)
    fail(begun, run, "delivery 2 is short")
    assert (other.look(), one.look()) == (1, 0)
    # Another try that fails between two looks is another failure.
    fail(begun, begun.run("intake", CASE, "STARTED"), "delivery 2 is short still")
    assert one.look() == 1
    notices = site.ledger.notices.due("test", 99, ["status_changed"])
    assert [(notice.kind, notice.subject, notice.state, notice.text) for notice in notices] == [
        ("case", CASE, "in work", "being taken in"),
        ("case", CASE, "failed", "failed: delivery 2 is short"),
        ("case", CASE, "failed", "failed: delivery 2 is short still"),
    ]


def test_what_comes_while_nobody_looks_is_told_afterwards(begun: Seeded) -> None:
    site = begun.site
    StatusNotices(site).look()
    fail(begun, begun.run("intake", CASE, "STARTED"), "it is short")
    begun.arrivals(["P000000002.fx0001"], asked=False)
    assert StatusNotices(site).look() == 2


def test_a_case_that_is_forgotten_leaves_nothing(begun: Seeded) -> None:
    site = begun.site
    StatusNotices(site).look()
    begun.run("intake", CASE, "STARTED")
    notices = StatusNotices(site)
    site.ledger.notices.channel("webhook")
    assert notices.look() == 1
    site.ledger.forget_case(CASE, "X000000001")
    (row,) = site.ledger.notices.due("webhook", 9, ["status_changed"])
    assert (row.subject, CASE in row.text) == ("X000000001", False)
    with site.ledger.database.read() as connection:
        rows = connection.exec_driver_sql("SELECT partition FROM mqi_noticed_status").all()
    assert [tuple(one) for one in rows] == [("",)]


def test_a_webhook_gets_them_signed_in_order_and_again_until_it_takes_them(begun: Seeded) -> None:
    key = begun.site.settings_file.parent / "webhook_secret"
    key.touch(mode=0o600)
    key.write_text("a shared secret\n")
    with http_receiver() as posted:
        site = subscribed(begun, webhook=webhook(posted, secret_file=str(key)), retry_seconds=1e-3)
        (channel,) = channels_of(site.settings.notifications)
        site.ledger.notices.channel("webhook")
        notices = StatusNotices(site)
        notices.look()
        run = begun.run("intake", CASE, "STARTED")
        notices.look()
        posted.status = 503
        assert notify(site, channel)[0] == 0
        fail(begun, run, "delivery 2 is short")
        notices.look()
        site.ledger.alarms.raise_("case_failed", CASE, "it failed")
        posted.status = 200
        while told(site):
            notify(site, channel)
        bodies = [json.loads(body) for body in posted.bodies]
        assert [(body["event"], body["subject"], body["state"]) for body in bodies] == [
            ("status_changed", CASE, "in work"),
            ("status_changed", CASE, "in work"),
            ("status_changed", CASE, "failed"),
        ]
        assert bodies[0]["id"] == bodies[1]["id"] < bodies[2]["id"]
        assert bodies[2]["title"] == f"[{site.settings.site.name}] Status: case {CASE}"
        expected = hmac.new(b"a shared secret", posted.bodies[2], hashlib.sha256).hexdigest()
        assert posted.seen[2]["X-Mqi-Signature"] == f"sha256={expected}"


def test_a_channel_is_not_held_up_by_what_it_does_not_tell(begun: Seeded) -> None:
    notices = begun.site.ledger.notices
    notices.channel("mail")
    writer = StatusNotices(begun.site)
    writer.look()
    begun.arrivals([f"P1{number:08d}.fx0001" for number in range(200)], asked=False)
    assert writer.look() == 200
    begun.site.ledger.alarms.raise_("gpu_lost", "here/gpu0", "it is gone")
    (found,) = notices.due("mail", 50, ["alarm_raised"])
    assert (found.event, found.subject) == ("alarm_raised", "here/gpu0")
    notices.mark_notified("mail", found)
    # Nor is what it has passed told later, when it is to tell more.
    begun.arrivals(["P200000000.fx0001"], asked=False)
    writer.look()
    assert notices.due("mail", 50, ["alarm_raised"]) == []
    assert notices.due("mail", 50) == []


def test_the_watch_writes_them_only_where_a_channel_tells_them(begun: Seeded) -> None:
    assert not is_wanted(begun.site)
    with http_receiver() as posted:
        site = subscribed(begun, webhook=webhook(posted))
        assert is_wanted(site)
        site.ledger.notices.channel("webhook")
        watch = Watch(site.settings_file, lambda line: None)
        watch.check()
        begun.run("intake", CASE, "STARTED")
        watch.check()
        assert told(site) == [("case", CASE, "in work")]
