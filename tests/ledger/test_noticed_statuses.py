"""A change of status is written down once, whoever sees it, on every database."""

from __future__ import annotations

import threading
from dataclasses import replace

from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.notices import SeenStatus
from tests.ledger.ledger_doubles import Clock

BEAM = SeenStatus("P1.fx0001__b01", "beam", "in work", "", "simulating")
CASE = SeenStatus("P1.fx0001", "case", "in work", "", "beams at work")


def told(ledger: Ledger) -> list[tuple[str, str]]:
    return [(one.subject, one.state) for one in ledger.notices.due("webhook", 99, ["status_changed"])]


def test_what_differs_is_written_and_what_is_gone_is_forgotten(url: str, clock: Clock) -> None:
    ledger = Ledger.open(url, clock)
    ledger.notices.channel("webhook")
    see = ledger.notices.record_statuses
    assert [see([BEAM, CASE], clock.now), see([BEAM, CASE], clock.now)] == [0, 0]
    failed = replace(BEAM, state="failed", run_id="run1")
    assert [see([failed, CASE], clock.now), see([failed, CASE], clock.now)] == [1, 0]
    assert see([replace(failed, run_id="run2"), CASE], clock.now) == 1
    assert [see([CASE], clock.now), see([BEAM, CASE], clock.now)] == [0, 1]
    assert told(ledger) == [
        (BEAM.partition, "failed"),
        (BEAM.partition, "failed"),
        (BEAM.partition, "in work"),
    ]


def test_an_empty_site_has_begun_as_well(url: str, clock: Clock) -> None:
    ledger = Ledger.open(url, clock)
    ledger.notices.channel("webhook")
    assert [ledger.notices.record_statuses(seen, clock.now) for seen in ([], [CASE])] == [0, 1]


def test_many_who_see_a_change_together_write_it_once(url: str, clock: Clock) -> None:
    ledger = Ledger.open(url, clock)
    ledger.notices.channel("webhook")
    ledger.notices.record_statuses([], clock.now)
    together = threading.Barrier(4)

    def see() -> None:
        together.wait()
        ledger.notices.record_statuses([CASE, BEAM], clock.now)

    threads = [threading.Thread(target=see) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told(ledger)) == [(CASE.partition, "in work"), (BEAM.partition, "in work")]
