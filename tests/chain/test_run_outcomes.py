"""What the end of a run means: once a run, by the type of its error, through crashes and restarts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.ledger.outcomes import RunVerdict
from mqi_dagster.lifecycle import run_requests
from mqi_dagster.lifecycle.failures import first_cause
from mqi_dagster.sensors import outcomes
from mqi_dagster.worklist import Worklist
from mqi_dagster.worklist import runs as run_index
from tests.chain.chain import Chain
from tests.chain.ended_runs import BEAM, CASE, evaluate, failed, lost, queued, started, step, succeeded

SETTINGS = {"execution": {"retry_seconds": 10, "retry_maximum_seconds": 60}, "alarms": {"retried_minutes": 5}}


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path / "site", SETTINGS)


def alarms(chain: Chain) -> list[tuple[str, str, int]]:
    return [(alarm.kind.value, alarm.subject, alarm.count) for alarm in chain.site.ledger.alarms.open()]


def waits(chain: Chain, run: dg.DagsterRun) -> float:
    """Seconds from now until a run goes on."""
    outcome = chain.site.ledger.outcomes.get_many([run.run_id])[run.run_id]
    assert outcome.next_try_at is not None
    return (outcome.next_try_at - datetime.now(UTC)).total_seconds()


def test_a_run_whose_worker_is_lost_goes_on_at_once_and_is_no_alarm(chain: Chain) -> None:
    run = started(chain, **{"dagster/priority": "7", "mqi/gpu": "simulation"})
    step(chain, run, "interpreted_csvs")
    step(chain, run, "simulation")
    lost(chain, run)
    (request,) = evaluate(chain, "run_outcomes")
    assert (request.job_name, request.partition_key) == ("beam", BEAM)
    assert request.run_key == f"retry:{run.run_id}"
    assert [key.to_user_string() for key in request.asset_selection or ()] == [
        *("tps_file", "raw_dose", "rt_dose", "handed_over")
    ], "a finished step is not repeated"
    assert request.tags["dagster/priority"] == "7"
    assert (request.tags["mqi/case"], request.tags["mqi/gpu"]) == (CASE, "simulation")
    assert request.tags["dagster/parent_run_id"] == run.run_id
    assert alarms(chain) == []
    outcome = chain.site.ledger.outcomes.get_many([run.run_id])[run.run_id]
    assert (outcome.verdict, outcome.tries) == (RunVerdict.RETRY, 1)
    assert outcome.cause == "the run ended without an error of its own: its worker is gone"


def test_what_is_asked_for_is_asked_until_it_exists_and_then_never_again(chain: Chain) -> None:
    run = started(chain)
    lost(chain, run)
    (first,) = evaluate(chain, "run_outcomes", keep_cursor=False)
    (second,) = evaluate(chain, "run_outcomes")
    assert second.run_key == first.run_key
    chain.reopen()
    assert len(evaluate(chain, "run_outcomes")) == 1, "the daemon has died before it made the run"
    started(chain, **first.tags)
    assert evaluate(chain, "run_outcomes") == []
    assert evaluate(chain, "run_outcomes") == []
    assert chain.site.ledger.outcomes.open_retries() == []


def test_a_full_queue_keeps_no_run_from_going_on(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    lost(chain, started(chain))
    monkeypatch.setattr(run_requests, "QUEUED_AT_MOST", 1)
    monkeypatch.setattr(run_requests, "URGENT_AT_MOST", 1)
    for number in (3, 4, 5):
        queued(chain, partition=f"{CASE}__b0{number}", **{"dagster/sensor_name": "beams_to_simulate"})
    (request,) = evaluate(chain, "run_outcomes")
    assert request.partition_key == BEAM


@pytest.mark.parametrize(
    ("job", "partition", "assets"),
    [
        ("intake", CASE, ["case_manifest"]),
        ("conclusion", CASE, ["case_handed_over"]),
        ("beam", BEAM, ["interpreted_csvs", "tps_file", "raw_dose", "rt_dose", "handed_over"]),
    ],
)
def test_each_job_goes_on_as_what_it_was(chain: Chain, job: str, partition: str, assets: list[str]) -> None:
    lost(chain, started(chain, job, partition))
    (request,) = evaluate(chain, "run_outcomes")
    assert (request.job_name, request.partition_key) == (job, partition)
    assert [key.to_user_string() for key in request.asset_selection or ()] == assets
    assert ("mqi/upload" in request.tags) is (job != "intake")


def test_lost_infrastructure_is_tried_for_ever_with_growing_waits_and_an_alarm(chain: Chain) -> None:
    tags: dict[str, str] = {}
    ledger = chain.site.ledger
    spans = []
    for number in range(8):
        run = started(chain, **tags)
        failed(chain, run, "share away", "handover", "forever")
        evaluate(chain, "run_outcomes")
        spans.append(waits(chain, run))
        assert ledger.outcomes.get_many([run.run_id])[run.run_id].tries == number + 1
        assert [alarm.kind.value for alarm in ledger.alarms.open()] == []
        tags = {"mqi/retry_of": run.run_id, "dagster/parent_run_id": run.run_id}
    for span, wanted in zip(spans, [10, 20, 40, 60, 60, 60, 60, 60], strict=True):
        assert wanted - 5 < span <= wanted


def test_an_outage_longer_than_the_limit_is_an_alarm_until_a_run_succeeds(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", {"alarms": {"retried_minutes": 1e-9}})
    first = started(chain)
    failed(chain, first, "share away", "handover", "forever")
    evaluate(chain, "run_outcomes")
    second = started(chain, **{"mqi/retry_of": first.run_id})
    failed(chain, second, "share away", "handover", "forever")
    evaluate(chain, "run_outcomes")
    (alarm,) = chain.site.ledger.alarms.open()
    assert (alarm.kind, alarm.subject) == ("retried_long", BEAM)
    assert "(alarms.retried_minutes)" in alarm.text
    assert "tried 2 times" in alarm.text and "share away" in alarm.text
    succeeded(chain, started(chain))
    evaluate(chain, "run_outcomes")
    assert alarms(chain) == []


def long_loss(chain: Chain, monkeypatch: pytest.MonkeyPatch, **tags: str) -> dg.DagsterRun:
    """A run whose worker is lost after twenty minutes, a minute after the loss before."""
    run = started(chain, **tags)
    lost(chain, run)
    (record,) = chain.instance.get_run_records(dg.RunsFilter(run_ids=[run.run_id]))
    early = record._replace(start_time=record.create_timestamp.timestamp() - 1200)
    with monkeypatch.context() as then:
        then.setattr(chain.instance, "get_run_records", lambda *_a, **_k: [early])
        evaluate(chain, "run_outcomes")
    return run


def test_a_worker_that_dies_each_time_after_a_while_is_an_alarm_and_waits_longer_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(tmp_path / "site", {**SETTINGS, "alarms": {"retried_minutes": 1e-9}})
    tags: dict[str, str] = {}
    raised, tries, spans = [], [], []
    for _ in range(4):
        run = long_loss(chain, monkeypatch, **tags)
        tries.append(chain.site.ledger.outcomes.get_many([run.run_id])[run.run_id].tries)
        spans.append(round(waits(chain, run) / 10) * 10)
        raised.append([alarm.kind.value for alarm in chain.site.ledger.alarms.open()])
        tags = {"mqi/retry_of": run.run_id, "dagster/parent_run_id": run.run_id}
    assert tries == [1, 2, 3, 4]
    assert spans == [0, 10, 20, 40]
    assert raised == [[], [], ["retried_long"], ["retried_long"]], "two may be two restarts of the machine"


def test_a_run_that_has_finished_the_step_before_it_is_lost_begins_a_new_streak(chain: Chain) -> None:
    first = started(chain)
    for key in ("interpreted_csvs", "simulation"):
        step(chain, first, key)
    lost(chain, first)
    (request,) = evaluate(chain, "run_outcomes")
    wanted = frozenset(request.asset_selection or ())
    tries = []
    parent = first
    for steps in (["simulation"], ["simulation", "rt_dose"]):
        run = started(chain, **{"mqi/retry_of": parent.run_id}, selection=wanted)
        for key in steps:
            step(chain, run, key)
        lost(chain, run)
        evaluate(chain, "run_outcomes")
        tries.append(chain.site.ledger.outcomes.get_many([run.run_id])[run.run_id].tries)
        parent = run
    assert tries == [2, 1]


def test_odd_tags_of_one_run_stop_no_other(chain: Chain) -> None:
    odd = started(chain, partition="trial__x")
    urgent = started(chain, **{"dagster/priority": "high"})
    for run in (odd, urgent):
        lost(chain, run)
    (request,) = evaluate(chain, "run_outcomes")
    assert (request.partition_key, request.tags["dagster/priority"]) == (BEAM, "0")
    (alarm,) = chain.site.ledger.alarms.open()
    assert (alarm.kind, alarm.subject) == ("beam_failed", "trial__x"), "it is not forgotten"
    assert "cannot go on by itself" in alarm.text
    (left,) = chain.site.ledger.outcomes.open_retries()
    assert left.partition == BEAM, "and not tried at every tick"


def test_a_run_of_what_this_site_does_not_make_any_more_is_not_forgotten(chain: Chain) -> None:
    selection = frozenset([dg.AssetKey("dose_of_before")])
    lost(chain, started(chain, "dose_of_before_job", selection=selection))
    assert evaluate(chain, "run_outcomes") == []
    (alarm,) = chain.site.ledger.alarms.open()
    assert (alarm.kind, alarm.subject) == ("beam_failed", BEAM)
    assert "It cannot go on by itself: no job of this site makes dose_of_before" in alarm.text
    assert chain.site.ledger.outcomes.open_retries() == []


def test_an_open_board_shows_a_try_that_was_given_up_or_brought_forward(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing but the ledger tells the board.
    monkeypatch.setattr(run_index, "_BEHIND", timedelta(0))
    run = started(chain, "intake", CASE)
    failed(chain, run, "share away", "inputs-away", "forever")
    evaluate(chain, "run_outcomes")
    work = Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger, history=None)

    def shown() -> str:
        (case,) = work.snapshot().cases
        return f"{case.stage.value}: {case.reason}"

    first = shown()
    assert first.startswith("retried: goes on by itself at ")
    chain.site.ledger.outcomes.bring_forward("inputs-away")
    assert shown().startswith("retried: goes on by itself at ") and shown() != first
    chain.site.ledger.outcomes.settle([run.run_id])
    assert shown() == "failed: share away"


def test_an_end_that_nobody_understands_stops_no_other_and_is_an_alarm(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = f"{BEAM[:-2]}03"
    odd = started(chain)
    for run in (odd, started(chain, partition=other)):
        failed(chain, run, "died", "engine", "from_budget")

    def cause(instance: dg.DagsterInstance, run_id: str) -> object:
        if run_id == odd.run_id:
            raise KeyError("an event of another Dagster")
        return first_cause(instance, run_id)

    monkeypatch.setattr(outcomes, "first_cause", cause)
    evaluate(chain, "run_outcomes")
    evaluate(chain, "run_outcomes")
    found = {alarm.subject: alarm.text for alarm in chain.site.ledger.alarms.open()}
    assert sorted(found) == [BEAM, other]
    assert found[BEAM].startswith("how a run has ended cannot be judged: KeyError")
    assert found[other].startswith("died")


def test_a_database_that_is_away_while_an_end_is_judged_is_asked_again(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = started(chain)
    failed(chain, run, "died", "engine", "from_budget")

    def away(*_: object) -> object:
        raise InfrastructureError("the ledger's database failed")

    with monkeypatch.context() as then:
        then.setattr(outcomes, "first_cause", away)
        with pytest.raises(Exception, match="the ledger's database failed"):
            evaluate(chain, "run_outcomes")
    assert alarms(chain) == []
    evaluate(chain, "run_outcomes")
    assert alarms(chain) == [("beam_failed", BEAM, 1)]


@pytest.mark.parametrize(
    ("code", "retry", "words"),
    [
        ("delivery", "never", "correct the files in the inbox"),
        ("engine", "from_budget", "then `mqi case retry`"),
        ("configuration", "never", "mqi doctor"),
        ("unexpected", "never", "mqi case retry"),
    ],
)
def test_what_has_failed_for_good_is_an_alarm_with_cause_and_advice(
    chain: Chain, code: str, retry: str, words: str
) -> None:
    run = started(chain)
    failed(chain, run, "layer 3: counts differ", code, retry)
    assert evaluate(chain, "run_outcomes") == []
    (alarm,) = chain.site.ledger.alarms.open()
    assert (alarm.kind, alarm.subject, alarm.count) == ("beam_failed", BEAM, 1)
    assert alarm.text.startswith("layer 3: counts differ. What to do: ") and words in alarm.text
    for _ in range(3):
        evaluate(chain, "run_outcomes", keep_cursor=False)
    chain.cursors.clear()
    evaluate(chain, "run_outcomes")
    assert alarms(chain) == [("beam_failed", BEAM, 1)], "once a run, also with a lost cursor"
    again = started(chain)
    failed(chain, again, "layer 3: counts differ", code, retry)
    evaluate(chain, "run_outcomes")
    assert alarms(chain) == [("beam_failed", BEAM, 2)]
    succeeded(chain, started(chain))
    evaluate(chain, "run_outcomes")
    assert alarms(chain) == []


def test_a_case_that_cannot_be_taken_in_is_an_alarm_of_the_case(chain: Chain) -> None:
    failed(chain, started(chain, "intake", CASE), "no plan", "plan", "never")
    evaluate(chain, "run_outcomes")
    assert alarms(chain) == [("case_failed", CASE, 1)]


def test_backfills_and_clicks_in_the_pages_are_seen_as_well(chain: Chain) -> None:
    run = started(chain, "__ASSET_JOB", BEAM, **{"dagster/backfill": "abcdefgh"})
    lost(chain, run)
    (request,) = evaluate(chain, "run_outcomes")
    assert request.job_name == "beam" and "dagster/backfill" not in request.tags


def test_a_cancelled_run_is_neither_tried_again_nor_an_alarm(chain: Chain) -> None:
    failed(chain, started(chain), "died", "engine", "from_budget")
    evaluate(chain, "run_outcomes")
    run = started(chain)
    chain.instance.report_run_canceled(run)
    assert evaluate(chain, "run_outcomes") == []
    assert chain.site.ledger.outcomes.get_many([run.run_id])[run.run_id].verdict is RunVerdict.CANCELLED
    assert alarms(chain) == []


def test_what_a_person_has_started_anew_meanwhile_is_not_tried_twice(chain: Chain) -> None:
    run = started(chain)
    failed(chain, run, "share away", "handover", "forever")
    succeeded(chain, started(chain))
    assert evaluate(chain, "run_outcomes") == []
    ledger = chain.site.ledger
    with pytest.MonkeyPatch.context() as later:
        later.setattr(ledger.database, "clock", lambda: datetime.now(UTC) + timedelta(hours=1))
        assert evaluate(chain, "run_outcomes") == []
        assert ledger.outcomes.open_retries() == []


def test_a_partition_that_was_removed_keeps_no_other_waiting(chain: Chain) -> None:
    other = f"{BEAM[:-2]}03"
    for partition in (BEAM, other):
        lost(chain, started(chain, partition=partition))
    chain.instance.delete_dynamic_partition("beam", BEAM)
    (request,) = evaluate(chain, "run_outcomes")
    assert request.partition_key == other


def test_a_late_failure_of_an_earlier_run_raises_no_alarm_over_a_later_success(chain: Chain) -> None:
    old = started(chain)
    succeeded(chain, started(chain))
    failed(chain, old, "died", "engine", "from_budget")
    evaluate(chain, "run_outcomes")
    assert alarms(chain) == []


def test_a_run_in_a_terminal_is_left_to_the_person_who_sees_it(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    chain.instance.add_dynamic_partitions("case", [CASE])
    assert not chain.run("intake", CASE).success
    assert evaluate(chain, "run_outcomes") == []
    assert alarms(chain) == [("case_failed", CASE, 1)]


def test_a_concluded_case_is_noted_once(chain: Chain) -> None:
    chain.site.ledger.notices.channel("mail")
    run = started(chain, "conclusion", CASE)
    succeeded(chain, run)
    for _ in range(3):
        chain.cursors.clear()
        evaluate(chain, "run_outcomes")
    (notice,) = chain.site.ledger.notices.due("mail", 10)
    assert (notice.event, notice.subject) == ("case_concluded", CASE)


def test_many_ends_are_judged_page_by_page_and_each_once(chain: Chain) -> None:
    beams = [f"P{number:09d}.fx0001__b02" for number in range(130)]
    for beam in beams:
        failed(chain, started(chain, partition=beam), "died", "engine", "from_budget")
        succeeded(chain, started(chain, partition=f"{beam[:-2]}03"))
    for _ in range(20):
        evaluate(chain, "run_outcomes")
    assert sorted(alarm.subject for alarm in chain.site.ledger.alarms.all()) == beams


def test_an_unfinished_database_error_of_dagster_is_no_final_failure(chain: Chain) -> None:
    from dagster._core.events import DagsterEvent, StepFailureData
    from dagster_shared.error import SerializableErrorInfo

    run = started(chain)
    cause = SerializableErrorInfo("server closed the connection", [], "OperationalError")
    error = SerializableErrorInfo("a step failed", [], "DagsterExecutionStepExecutionError", cause=cause)
    event = DagsterEvent(
        event_type_value="STEP_FAILURE",
        job_name="beam",
        step_key="rt_dose",
        event_specific_data=StepFailureData(error=error, user_failure_data=None),
    )
    chain.instance.report_dagster_event(event, run.run_id)
    lost(chain, run)
    found = first_cause(chain.instance, run.run_id)
    assert (found.code, found.again) == ("infrastructure", True)
