"""What of a site itself does not work: found by whoever looks, raised by who lives, gone with its cause."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.test_utils import create_run_for_test
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.error import SerializableErrorInfo
from typer.testing import CliRunner

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.cli.app import app
from mqi_dagster.definitions import build_definitions
from mqi_dagster.execution.code_location import socket_path
from mqi_dagster.execution.locks import hold, is_held
from mqi_dagster.lifecycle import health
from mqi_dagster.lifecycle.uptime import SILENT_SECONDS, Heartbeat
from mqi_dagster.notify.message import Message
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.operations.watch import POLL_SECONDS, SETTLED_SECONDS, Watch
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors import notifications
from mqi_dagster.settings import Host, Settings
from mqi_dagster.store import known_folders
from tests.notify.receivers import Posted, http_receiver

NOW = datetime(2026, 3, 4, 8, 0, tzinfo=UTC)
_REPOSITORY = RemoteRepositoryOrigin(
    GrpcServerCodeLocationOrigin(host="localhost", socket="/none"), "__repository__"
)


_ERROR = SerializableErrorInfo("no such file: /data/of/somebody", [], "FileNotFoundError")


class Living:
    """A site whose services are told to live or not."""

    def __init__(self, folder: Path) -> None:
        made = CliRunner().invoke(app, ["init", str(folder), "--timezone", "UTC"], catch_exceptions=False)
        assert made.exit_code == 0
        self.folder = folder
        self.site = Site(folder / "mqi.yaml")
        self.instance = open_instance(self.site.settings)
        self.now = NOW
        self._open = ExitStack()
        self.lines: list[str] = []
        self.watch = Watch(self.site.settings_file, self.lines.append, lambda: self.now)

    def close(self) -> None:
        self._open.close()
        self.instance.dispose()

    def start(self) -> None:
        """Watch and code location live."""
        lock = hold(self.site.settings.paths.state / "watch.lock")
        assert lock is not None
        os.utime(lock, (NOW.timestamp() - 3600,) * 2)
        self._open.callback(os.close, lock)
        self.load()

    def load(self) -> None:
        """The code location answers."""
        path = socket_path(self.site.settings)
        path.unlink(missing_ok=True)
        server = self._open.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(path))
        server.listen()
        os.utime(path, (NOW.timestamp() - 3600,) * 2)
        self._open.callback(path.unlink, missing_ok=True)
        self.server = server

    def beat(self, daemon: str = "one") -> None:
        """The daemon gives a sign of life."""
        self.instance.run_storage.add_daemon_heartbeat(
            DaemonHeartbeat(self.now.timestamp(), "SENSOR", daemon, [])
        )

    def switch(self, name: str, status: InstigatorStatus) -> InstigatorState:
        """A sensor is switched on or off."""
        origin = RemoteInstigatorOrigin(_REPOSITORY, name)
        state = InstigatorState(origin, InstigatorType.SENSOR, status, SensorInstigatorData(min_interval=30))
        known = self.instance.get_instigator_state(state.instigator_origin_id, state.selector_id)
        if known is None:
            self.instance.add_instigator_state(state)
        else:
            self.instance.update_instigator_state(state)
        return state

    def tick(self, name: str, status: TickStatus) -> None:
        """A sensor is evaluated."""
        state = self.switch(name, InstigatorStatus.DECLARED_IN_CODE)
        self.instance.create_tick(
            TickData(
                instigator_origin_id=state.instigator_origin_id,
                instigator_name=name,
                instigator_type=InstigatorType.SENSOR,
                status=status,
                timestamp=self.now.timestamp(),
                selector_id=state.selector_id,
                error=_ERROR if status is TickStatus.FAILURE else None,
            )
        )

    def after(self, seconds: float) -> Living:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)
        return self

    def seen(self) -> dict[str, str]:
        """What whoever looks finds: subject by kind."""
        beat = Heartbeat.of(self.instance, self.site.settings, self.now)
        found = health.health(self.instance, self.site, PIPELINES, self.site.ledger, self.now, beat)
        return {one.kind.value: one.subject for one in found}

    def raised(self) -> dict[str, str]:
        """The open alarms after a look of the watch."""
        self.watch.check()
        return {one.kind.value: one.subject for one in self.site.ledger.alarms.open()}


@pytest.fixture
def living(tmp_path: Path) -> Iterator[Living]:
    made = Living(tmp_path / "site")
    settings = made.site.settings
    free = settings.alarms.model_copy(update={"disk_free_gb": 0.0})
    for site in (made.site, made.watch._site):
        site.__dict__["settings"] = settings.model_copy(update={"alarms": free})
    yield made
    made.close()


def test_two_minutes_are_enough_for_every_alarm() -> None:
    """The longest that each may take by the defaults: what is missed, then the look that sees it."""
    settings = Settings.model_validate({"site": {"timezone": "UTC"}})
    scan = settings.intake.scan_interval_seconds
    by_sensor = health.tick_seconds("alarms", settings)
    host = Host.model_fields
    longest = {
        "daemon_away": SILENT_SECONDS + POLL_SECONDS,
        "daemon_away, its process has ended": SETTLED_SECONDS + 2 * POLL_SECONDS,
        "code_away": SETTLED_SECONDS + 2 * POLL_SECONDS,
        "watch_away": by_sensor,
        "sensor_stopped": max(by_sensor, POLL_SECONDS),
        # Two ticks in a row, or a single one of a sensor that looks seldom.
        "sensor_failing twice": 2 * scan + max(by_sensor, POLL_SECONDS),
        "sensor_failing once": health.FAILING_SECONDS + max(by_sensor, POLL_SECONDS),
        "sensor not evaluated": scan + health.LATE_SECONDS + POLL_SECONDS,
        "inbox_away, disk_full, a local target": by_sensor,
        "target_away": host["connect_seconds"].default + settings.alarms.away_seconds + 2 * by_sensor,
    }
    assert {name: seconds for name, seconds in longest.items() if seconds > 120} == {}


def test_the_sensors_that_are_watched_are_those_that_there_are(living: Living) -> None:
    sensors = {one.name: one for one in build_definitions(living.site).sensors or ()}
    assert sorted(sensors) == sorted([*health.SENSORS, *(name for one in PIPELINES for name in one.sensors)])
    for name, sensor in sensors.items():
        assert isinstance(sensor, dg.SensorDefinition)
        assert (sensor.minimum_interval_seconds or 0) <= health.tick_seconds(name, living.site.settings)


def test_a_daemon_that_gives_no_sign_is_an_alarm_and_gone_with_the_next_one(living: Living) -> None:
    living.start()
    living.beat()
    assert living.seen() == living.raised() == {}
    assert living.after(75).raised() == {}
    assert living.after(1).seen() == {"daemon_away": "daemon"}
    assert living.raised() == {"daemon_away": "daemon"}
    assert living.lines[0].startswith("alarm daemon_away (daemon): Dagster's daemon does not run")
    living.beat()
    assert living.seen() == living.raised() == {}
    assert living.lines[1] == "cleared daemon_away (daemon)"


def test_a_daemon_whose_process_has_ended_is_seen_at_once_and_a_restart_is_no_alarm(living: Living) -> None:
    living.start()
    daemon = hold(living.site.settings.paths.state / "service-daemon.lock")
    assert daemon is not None
    living.beat()
    assert living.after(1).seen() == living.raised() == {}
    os.close(daemon)
    assert living.after(1).seen() == {"daemon_away": "daemon"}
    assert living.raised() == living.after(29).raised() == {}
    daemon = hold(living.site.settings.paths.state / "service-daemon.lock")
    assert daemon is not None
    assert living.seen() == living.raised() == {}, "its first sign is still to come"
    os.close(daemon)
    assert living.raised() == {}
    assert living.after(30).raised() == {"daemon_away": "daemon"}
    living.beat("started by hand")
    assert living.seen() == living.raised() == {}


def test_a_daemon_that_is_started_together_with_the_watch_is_no_alarm(living: Living) -> None:
    living.beat()
    living.after(8 * 3600).start()
    assert living.raised() == {}, "off for the night; its first sign comes after this look"
    living.after(15).beat()
    assert living.raised() == {}
    assert living.lines == []


def test_a_daemon_that_does_not_come_up_is_an_alarm(living: Living) -> None:
    living.start()
    assert living.raised() == {}
    assert living.after(30).raised() == {"daemon_away": "daemon"}


def test_two_that_look_after_a_lock_do_not_take_each_other_for_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / "watch.lock"
    lock.touch()
    # What another one who looks has while it looks.
    with lock.open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert is_held(lock) is False


def test_a_code_location_that_is_only_restarted_is_no_alarm(living: Living) -> None:
    living.start()
    living.beat()
    living.server.close()
    assert living.seen() == {"code_away": "code"}
    assert living.raised() == {}
    assert living.after(29).raised() == {}
    living.load()
    assert living.raised() == {}
    living.server.close()
    assert living.raised() == {}
    assert living.after(30).raised() == {"code_away": "code"}
    living.load()
    assert living.raised() == {}


def test_a_watch_that_has_gone_is_missed_by_those_that_live(living: Living) -> None:
    living.load()
    living.beat()
    assert living.seen() == {}, "a site from before it had one"
    (living.site.settings.paths.state / "watch.lock").touch()
    assert living.seen() == {"watch_away": "watch"}


@pytest.mark.parametrize("name", ["case_arrivals", "alarms", "notifications"])
def test_a_sensor_that_fails_twice_or_for_long_is_an_alarm(living: Living, name: str) -> None:
    living.start()
    living.beat()
    living.tick(name, TickStatus.SKIPPED)
    living.after(1).tick(name, TickStatus.FAILURE)
    assert living.after(10).seen() == {}
    assert living.after(36).seen() == {"sensor_failing": name}
    living.tick(name, TickStatus.SKIPPED)
    assert living.seen() == living.raised() == {}
    for _ in range(2):
        living.after(1).tick(name, TickStatus.FAILURE)
    assert living.seen() == living.raised() == {"sensor_failing": name}
    assert "(FileNotFoundError)" in living.lines[-1] and "/data" not in living.lines[-1]
    living.after(1).tick(name, TickStatus.STARTED)
    assert living.raised() == {"sensor_failing": name}, "one at work says nothing yet"
    living.after(1).tick(name, TickStatus.SKIPPED)
    assert living.seen() == living.raised() == {}


def test_a_sensor_that_is_not_evaluated_any_more_is_an_alarm(living: Living) -> None:
    living.start()
    living.tick("reaper", TickStatus.SKIPPED)
    living.after(90).beat()
    assert living.seen() == {}
    living.after(1)
    assert living.seen() == living.raised() == {"sensor_failing": "reaper"}
    living.tick("reaper", TickStatus.SKIPPED)
    assert living.raised() == {}


def test_what_sensors_did_before_the_services_were_started_says_nothing(living: Living) -> None:
    living.tick("reaper", TickStatus.SKIPPED)
    living.after(7200)
    living.start()
    living.beat()
    os.utime(living.site.settings.paths.state / "watch.lock", (living.now.timestamp() - 30,) * 2)
    assert living.seen() == {}


@pytest.mark.parametrize("daemon", ["one", "another"])
def test_a_daemon_that_is_back_has_the_sensors_own_time_to_evaluate_them(living: Living, daemon: str) -> None:
    living.start()
    living.beat()
    living.tick("reaper", TickStatus.SKIPPED)
    assert living.raised() == {}
    assert living.after(600).raised() == {"daemon_away": "daemon"}
    living.beat(daemon)
    assert living.seen() == living.raised() == {}, "one that was halted, or one that was started anew"
    # It lives on, and evaluates nothing.
    living.after(60).beat(daemon)
    assert living.after(30).seen() == {}
    assert living.after(1).seen() == living.raised() == {"sensor_failing": "reaper"}


def test_what_failed_while_the_code_location_was_away_is_its_fault_and_no_sensors(living: Living) -> None:
    living.start()
    living.beat()
    living.server.close()
    for _ in range(2):
        living.after(10).tick("reaper", TickStatus.FAILURE)
    living.load()
    os.utime(socket_path(living.site.settings), (living.after(5).now.timestamp(),) * 2)
    living.beat()
    assert living.seen() == living.raised() == {}
    living.after(1).tick("reaper", TickStatus.FAILURE)
    assert living.seen() == living.raised() == {}
    living.after(10).tick("reaper", TickStatus.FAILURE)
    assert living.seen() == living.raised() == {"sensor_failing": "reaper"}


def test_a_failure_before_an_outage_of_the_daemon_is_no_long_one(living: Living) -> None:
    living.start()
    living.beat()
    living.tick("reaper", TickStatus.FAILURE)
    assert living.raised() == {}
    assert living.after(600).raised() == {"daemon_away": "daemon"}
    living.beat("another")
    assert living.raised() == {}
    assert living.after(46).seen() == {"sensor_failing": "reaper"}


def test_a_daemon_that_was_replaced_between_two_looks_has_it_too(living: Living) -> None:
    living.start()
    living.beat()
    living.tick("reaper", TickStatus.SKIPPED)
    assert living.raised() == {}
    living.after(600).beat("another")
    assert living.seen() == living.raised() == {}
    living.after(75).beat("another")
    assert living.after(16).seen() == {"sensor_failing": "reaper"}


def test_sensors_of_a_code_location_that_is_back_have_it_too(living: Living) -> None:
    living.start()
    living.tick("reaper", TickStatus.SKIPPED)
    living.after(600).beat()
    os.utime(socket_path(living.site.settings), (living.now.timestamp() - 5,) * 2)
    assert living.seen() == living.raised() == {}


def test_a_sensor_that_is_switched_off_is_an_alarm_until_it_is_on(living: Living) -> None:
    living.start()
    living.beat()
    living.switch("case_arrivals", InstigatorStatus.STOPPED)
    living.switch("retention", InstigatorStatus.STOPPED)
    assert living.seen() == living.raised() == {"sensor_stopped": "case_arrivals"}
    living.switch("case_arrivals", InstigatorStatus.RUNNING)
    assert living.seen() == living.raised() == {}


def test_services_that_do_not_run_are_missed_by_what_waits_for_them(living: Living) -> None:
    assert living.seen() == {}
    (living.folder / "inbox" / "case").mkdir()
    assert living.seen() == {"services_away": "services"}
    # What stood there before the services were stopped has been looked at.
    os.utime(living.folder / "inbox" / "case", (NOW.timestamp() - 60,) * 2)
    living.beat()
    assert living.after(600).seen() == {}
    (living.folder / "inbox" / "case" / "beam").mkdir()
    assert living.seen() == {"services_away": "services"}


def test_a_run_that_nobody_goes_on_with_is_missed_as_well(living: Living) -> None:
    create_run_for_test(living.instance, status=dg.DagsterRunStatus.STARTED)
    assert living.seen() == {"services_away": "services"}


class TestInbox:
    @pytest.fixture
    def inbox(self, living: Living) -> Path:
        """The inbox with a case in it, as the services have seen it."""
        (living.folder / "inbox" / "case").mkdir()
        living.start()
        living.beat()
        health.folders(living.site, note=True)
        return living.folder / "inbox"

    def test_an_empty_mount_point_is_no_empty_inbox(self, living: Living, inbox: Path) -> None:
        share = inbox.rename(living.folder / "share")
        inbox.mkdir()
        assert living.seen() == {"inbox_away": "inbox"}
        inbox.rmdir()
        share.rename(inbox)
        assert living.seen() == {}

    def test_an_inbox_that_was_emptied_is_an_inbox(self, living: Living, inbox: Path) -> None:
        shutil.rmtree(inbox / "case")
        assert living.seen() == {}

    def test_another_folder_with_cases_is_taken_for_what_it_is(self, living: Living, inbox: Path) -> None:
        inbox.rename(living.folder / "old server")
        inbox.mkdir()
        (inbox / "another case").mkdir()
        assert living.seen() == {}
        health.folders(living.site, note=True)
        shutil.rmtree(inbox / "another case")
        assert living.seen() == {}, "from now on it is the inbox"

    def test_an_inbox_that_the_settings_have_put_elsewhere_may_be_empty(
        self, living: Living, inbox: Path, tmp_path: Path
    ) -> None:
        settings = living.site.settings
        (tmp_path / "new").mkdir()
        paths = settings.paths.model_copy(update={"inbox": tmp_path / "new"})
        living.site.__dict__["settings"] = settings.model_copy(update={"paths": paths})
        assert living.seen() == {}

    def test_without_its_sentinel_it_counts_as_away(self, living: Living, inbox: Path) -> None:
        settings = living.site.settings
        intake = settings.intake.model_copy(update={"sentinel": "INBOX"})
        living.site.__dict__["settings"] = settings.model_copy(update={"intake": intake})
        assert living.seen() == {"inbox_away": "inbox"}
        (inbox / "INBOX").touch()
        assert living.seen() == {}

    def test_a_share_that_does_not_answer_holds_nobody_up(
        self, living: Living, inbox: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        back = threading.Event()
        real = os.scandir

        def hanging(path: Any) -> Any:
            if path == inbox:
                back.wait()
            return real(path)

        # Put back here: whoever removes the test's folders lists them, too.
        with monkeypatch.context() as patched:
            patched.setattr(known_folders, "_ANSWER_SECONDS", 0.05)
            patched.setattr(known_folders.os, "scandir", hanging)
            try:
                assert living.seen() == {"inbox_away": "inbox"}
                assert living.seen() == {"inbox_away": "inbox"}
            finally:
                back.set()

    def test_a_full_disk_of_the_state_is_no_fault_of_the_inbox(
        self, living: Living, inbox: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        (living.site.settings.paths.state / "folders.json").unlink()
        monkeypatch.setattr(known_folders, "write_whole", full)
        assert health.folders(living.site, note=True) == []


def test_a_target_that_cannot_be_written_or_has_gone_is_an_alarm(living: Living) -> None:
    living.start()
    living.beat()
    target = living.folder / "handover"
    (target / "case").mkdir()
    health.folders(living.site, note=True)
    share = target.rename(living.folder / "share")
    assert living.seen() == {"target_away": "local"}
    target.mkdir()
    assert living.seen() == {"target_away": "local"}
    target.rmdir()
    share.rename(target)
    assert living.seen() == {}


def test_a_target_that_the_first_hand_over_will_make_is_no_alarm(living: Living) -> None:
    settings = living.site.settings
    handover = settings.handover.model_copy(update={"folder": living.folder / "results" / "of" / "mqi"})
    living.site.__dict__["settings"] = settings.model_copy(update={"handover": handover})
    assert living.seen() == {}


def test_whoever_has_made_the_target_anew_is_told_how_it_goes_on(living: Living) -> None:
    target = living.folder / "handover"
    (target / "case").mkdir()
    health.folders(living.site, note=True)
    target.rename(living.folder / "full disk")
    target.mkdir()
    (found,) = health.folders(living.site)
    assert "Where it is a new one on purpose, make it, and any folder in it" in found.text
    (target / "new").mkdir()
    assert health.folders(living.site) == []


def test_one_full_disk_is_one_alarm_that_names_all_that_lies_on_it(living: Living) -> None:
    living.start()
    living.beat()
    for name in ("data", "handover"):
        (living.folder / name).mkdir(exist_ok=True)
    alarms = living.site.settings.alarms.model_copy(update={"disk_free_gb": 1e9})
    living.site.__dict__["settings"] = living.site.settings.model_copy(update={"alarms": alarms})
    beat = Heartbeat.of(living.instance, living.site.settings, living.now)
    (found,) = health.health(living.instance, living.site, PIPELINES, living.site.ledger, living.now, beat)
    assert (found.kind.value, found.subject) == ("disk_full", "data")
    assert "GB free for data, state, dagster_home, inbox, handover, the limit is" in found.text
    assert " GB (alarms.disk_free_gb). Make room" in found.text


def test_the_watch_tells_what_nobody_else_can(living: Living, tmp_path: Path) -> None:
    with http_receiver() as got:
        tell(living, got)
        living.start()
        living.beat()
        living.watch.check()
        ledger = living.site.ledger
        # The channel begins with what happens from now on.
        ledger.notices.channel("webhook")
        living.after(76)
        living.watch.check()
        assert told(got) == [("alarm_raised", "daemon_away")]


def test_a_watch_that_begins_tells_nothing_that_the_sensor_is_about_to_tell(living: Living) -> None:
    with http_receiver() as got:
        tell(living, got)
        living.site.ledger.notices.channel("webhook")
        living.site.ledger.alarms.raise_("gpu_lost", "here/gpu0", "it is gone")
        living.start()
        living.watch.check()
        assert told(got) == [], "the daemon is started together with it"
        living.after(30).watch.check()
        assert told(got) == [("alarm_raised", "gpu_lost"), ("alarm_raised", "daemon_away")]


def test_what_one_process_tells_no_other_tells_as_well(living: Living) -> None:
    ledger = living.site.ledger
    sent: list[int] = []

    class Both:
        """A channel that both want to use: the other one comes while a notice is on its way."""

        name = "webhook"

        def send(self, message: Message) -> str:
            sent.append(message.id)
            assert notifications.notify(living.site, self) == (0, None)
            return "taken"

    ledger.notices.channel("webhook")
    for name in ("gpu0", "gpu1"):
        ledger.alarms.raise_("gpu_lost", name, "it is gone")
    assert notifications.notify(living.site, Both()) == (2, None)
    assert len(sent) == len(set(sent)) == 2


def test_a_target_that_the_watch_found_away_is_cleared_by_the_watch(living: Living) -> None:
    living.start()
    target = living.folder / "handover"
    (target / "case").mkdir()
    living.beat()
    assert living.raised() == {}
    living.after(76)
    health.folders(living.site, note=True)
    share = target.rename(living.folder / "share")
    assert living.raised() == {"daemon_away": "daemon", "target_away": "local"}
    # Whichever watch it was.
    living.watch = Watch(living.site.settings_file, living.lines.append, lambda: living.now)
    living.watch._site.__dict__["settings"] = living.site.settings
    share.rename(target)
    living.watch.check()
    assert living.after(30).raised() == {"daemon_away": "daemon"}


def test_a_target_that_takes_nothing_is_not_cleared_because_its_folder_is_there(living: Living) -> None:
    living.start()
    living.site.ledger.alarms.raise_("target_away", "local", "nothing is taken since yesterday: disk full")
    assert living.raised() == {"target_away": "local"}
    assert living.after(30).raised() == {"daemon_away": "daemon", "target_away": "local"}


def test_a_ledger_that_is_away_is_told_without_one(living: Living) -> None:
    with http_receiver() as got:
        tell(living, got)
        living.start()
        living.beat()
        living.watch.check()
        ledger = living.folder / "state" / "ledger.sqlite"
        whole = ledger.read_bytes()
        for beside in ledger.parent.glob("ledger.sqlite-*"):
            beside.unlink()
        ledger.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
        for _ in range(2):
            found = {one.kind.value for one in living.watch.check()}
            assert found == {"ledger_away"}
        assert told(got) == [("alarm_raised", "ledger_away")]
        living.watch = Watch(living.site.settings_file, living.lines.append, lambda: living.now)
        living.watch.check()
        assert told(got) == [("alarm_raised", "ledger_away")], "not once more by the next watch"
        ledger.write_bytes(whole)
        assert living.watch.check() == []
        assert told(got)[-1][0] == "alarm_cleared"


def told(got: Posted) -> list[tuple[str, str]]:
    """What a receiver has been told: event and kind."""
    return [(one["event"], one["kind"]) for one in map(json.loads, got.bodies)]


def tell(living: Living, got: Posted) -> None:
    """Have the site tell a receiver."""
    file = living.site.settings_file
    content = yaml.safe_load(file.read_text())
    content["notifications"] = {"webhook": {"url": f"http://127.0.0.1:{got.port}/"}}
    content["alarms"] = {"disk_free_gb": 0}
    file.write_text(yaml.safe_dump(content))
    living.site = Site(file)
    living.watch = Watch(file, living.lines.append, lambda: living.now)
