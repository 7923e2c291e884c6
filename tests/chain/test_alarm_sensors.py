"""What is wrong with a site's state is an alarm for as long as it is so; and alarms leave the house."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mqi_dagster.operations.diagnosis import examine_alarms
from tests.chain.chain import Chain
from tests.chain.ended_runs import BEAM, evaluate, failed, started
from tests.chain.test_reaper import lease_of
from tests.notify.receivers import Posted, http_receiver, mail_receiver

HOST: dict[str, Any] = {
    "host": "hpc.example",
    "user": "mqi",
    "key_file": "key",
    "known_hosts": "known",
    "slurm": {"root": "/scratch/mqi", "retention": {"quota_gb": 1}, "intervals": {"alarm_seconds": 60}},
}


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path / "site", {"hosts": {"hpc": HOST}, "alarms": {"disk_free_gb": 0}})


LIMITS = {
    "beam_stuck": ("(alarms.stuck_minutes)", "(alarms.waiting_minutes)"),
    "beams_waiting": ("(alarms.stuck_minutes)", "(alarms.waiting_minutes)"),
    "cluster_away": ("(hosts.hpc.slurm.intervals.alarm_seconds)",),
    "jobs_held": ("(hosts.hpc.slurm.intervals.alarm_seconds)",),
    "target_away": ("(alarms.away_seconds)",),
    "quota": ("(hosts.hpc.slurm.retention.quota_gb)",),
    "disk_full": ("(alarms.disk_free_gb)",),
}
"""Of the kinds that a limit of the settings raises: how their text names it."""


def standing(chain: Chain) -> dict[str, str]:
    evaluate(chain, "alarms")
    for alarm in chain.site.ledger.alarms.open():
        names = LIMITS.get(alarm.kind.value)
        assert names is None or any(name in alarm.text for name in names), alarm
    return {alarm.kind.value: alarm.subject for alarm in chain.site.ledger.alarms.open()}


def ago(minutes: float) -> Any:
    return lambda: datetime.now(UTC) - timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("phase", "minutes", "stuck"),
    [
        ("simulating", 40, True),
        ("preparing", 40, True),
        ("simulating", 20, False),
        ("queued", 400, False),
        ("waiting for the cluster", 400, False),
    ],
)
def test_an_engine_without_progress_is_stuck(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, phase: str, minutes: float, stuck: bool
) -> None:
    run = started(chain)
    lease_of(chain, run, age_seconds=60 * minutes)
    ledger = chain.site.ledger
    with monkeypatch.context() as earlier:
        earlier.setattr(ledger.database, "clock", ago(minutes))
        ledger.progress.record(BEAM, run.run_id, phase, percent=40)
    assert standing(chain) == ({"beam_stuck": BEAM} if stuck else {})
    ledger.progress.record(BEAM, run.run_id, "simulating", percent=41)
    assert standing(chain) == {}


def test_a_cluster_is_away_only_for_those_who_wait_for_it(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, minute = chain.site.ledger, timedelta(minutes=1)
    with monkeypatch.context() as earlier:
        earlier.setattr(ledger.database, "clock", ago(5))
        turn = ledger.clusters.take_turn("hpc", shortest=minute, hold=minute)
        assert turn is not None
        ledger.clusters.end_turn(turn, next_in=minute, interval=minute, failure="no route to host")
    assert standing(chain) == {}
    from mqi_dagster.ledger.leases import Need
    from mqi_dagster.ledger.slots import Slot, SlotKind

    ledger.slots.declare("hpc", [Slot(SlotKind.GPU, 0)])
    ledger.leases.acquire(BEAM, "run1", Need(SlotKind.GPU, "hpc"), stale_after=minute)
    assert standing(chain) == {"cluster_away": "hpc"}
    turn = ledger.clusters.take_turn("hpc", shortest=minute, hold=minute)
    assert turn is not None
    ledger.clusters.end_turn(turn, next_in=minute, interval=minute)
    ledger.clusters.record_usage("hpc", 2e9)
    assert standing(chain) == {"quota": "hpc"}


def test_a_disk_and_the_inbox_are_watched(chain: Chain, tmp_path: Path) -> None:
    chain.data.mkdir(parents=True)
    assert standing(chain) == {}
    free = shutil.disk_usage(chain.data).free / 1e9
    chain.change({"alarms": {"disk_free_gb": free + 1000}})
    shutil.move(chain.inbox, tmp_path / "elsewhere")
    found = standing(chain)
    assert found["inbox_away"] == "inbox"
    assert found["disk_full"] in ("data", "state")
    assert all(str(tmp_path) not in alarm.text for alarm in chain.site.ledger.alarms.open())
    chain.change({"alarms": {"disk_free_gb": 0}})
    shutil.move(tmp_path / "elsewhere", chain.inbox)
    assert standing(chain) == {}


def test_a_queue_that_does_not_move_is_one_alarm_however_long_it_is(chain: Chain) -> None:
    for number in range(3):
        run = started(chain, partition=f"{BEAM[:-2]}{number:02d}")
        chain.instance.run_storage.delete_run(run.run_id)
        chain.instance.add_run(run.with_status(dg.DagsterRunStatus.QUEUED))
    assert standing(chain) == {}
    chain.change({"alarms": {"waiting_minutes": 1e-9}})
    assert standing(chain) == {"beams_waiting": "queue"}


@pytest.fixture
def posted() -> Iterator[Posted]:
    with http_receiver() as receiver:
        yield receiver


def test_alarms_are_told_until_they_are_taken(tmp_path: Path, posted: Posted) -> None:
    hook = {"url": f"http://127.0.0.1:{posted.port}/"}
    told = {"webhook": hook, "retry_seconds": 1e-3, "retry_maximum_seconds": 1e-3}
    chain = Chain(tmp_path / "site", {"notifications": told})
    evaluate(chain, "notifications")
    failed(chain, started(chain), "counts differ", "delivery", "never")
    evaluate(chain, "run_outcomes")
    posted.status = 503
    for _ in range(3):
        evaluate(chain, "notifications")
    (state,) = chain.site.ledger.notices.channels()
    assert (state.tries, state.failure) == (3, "the webhook's receiver answers HTTP 503")
    chain.reopen()
    posted.status = 200
    evaluate(chain, "notifications")
    evaluate(chain, "notifications")
    assert len(posted.bodies) == 4, "three in vain, one taken, none twice"
    content = json.loads(posted.bodies[-1])
    assert (content["event"], content["kind"], content["subject"]) == ("alarm_raised", "beam_failed", BEAM)
    assert content["text"].startswith("counts differ")
    (alarm,) = chain.site.ledger.alarms.open()
    assert alarm.notified_at is not None


def test_only_what_the_settings_name_is_told(tmp_path: Path, posted: Posted) -> None:
    told = {"webhook": {"url": f"http://127.0.0.1:{posted.port}/"}, "tell": ["case_concluded"]}
    chain = Chain(tmp_path / "site", {"notifications": told})
    evaluate(chain, "notifications")
    ledger = chain.site.ledger
    ledger.alarms.raise_("disk_full", "data", "4 GB")
    ledger.notices.record_conclusion(
        "run1", "P123456789.fx0001", "case P123456789.fx0001 has concluded", datetime.now(UTC)
    )
    evaluate(chain, "notifications")
    assert [json.loads(body)["event"] for body in posted.bodies] == ["case_concluded"]
    assert ledger.notices.due("webhook", 10) == []


def test_whom_a_mail_did_not_reach_is_shown_until_one_reaches_everybody(tmp_path: Path) -> None:
    with mail_receiver() as mails:
        mail = {
            "host": "127.0.0.1",
            "port": mails.port,
            "security": "none",
            "sender": "mqi@clinic.example",
            "recipients": ["physics@clinic.example", "it@clinic.example"],
        }
        told = {"mail": mail, "tell": ["alarm_raised"], "retry_seconds": 1e-3}
        chain = Chain(tmp_path / "site", {"notifications": told})
        ledger = chain.site.ledger
        evaluate(chain, "notifications")
        mails.unknown = {"it@clinic.example": "550 unknown"}
        ledger.alarms.raise_("disk_full", "data", "4 GB")
        # Not told, so it says nothing about the recipients.
        ledger.notices.record_conclusion("run1", "P123456789.fx0001", "concluded", datetime.now(UTC))
        for _ in range(3):
            evaluate(chain, "notifications")
        assert len(mails.got) == 1, "nobody gets it twice"
        assert ledger.notices.due("mail", 10) == [], "and nothing waits behind it"
        *_, warning = examine_alarms(chain.site.settings, ledger)
        assert (warning.subject, warning.verdict) == ("notices by mail", "warning")
        assert warning.found.startswith("not for everybody since ")
        assert "it@clinic.example (550)" in warning.found
        mails.unknown = {}
        ledger.alarms.raise_("disk_full", "state", "4 GB")
        evaluate(chain, "notifications")
        assert len(mails.got) == 2
        (state,) = ledger.notices.channels()
        assert (state.trouble, state.failing_since) == ("", None)
