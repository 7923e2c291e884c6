"""One rule for where a case stands: whoever is asked, and however it is read, says the same."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.cli.case_show import show_case, show_cases
from mqi_dagster.cli.screen import output
from mqi_dagster.errors import InputError
from mqi_dagster.lifecycle.arrived import find_case
from mqi_dagster.lifecycle.beam import find_manifest
from mqi_dagster.lifecycle.case_reading import read_case
from mqi_dagster.lifecycle.case_status import PartitionStatus
from mqi_dagster.lifecycle.conclusion_request import conclusion_request
from mqi_dagster.lifecycle.retention import Removable, RemovableKind, remove, spare
from mqi_dagster.moments import in_zone
from mqi_dagster.operations.case_report import case_report
from mqi_dagster.operations.retry import GraphQL, retry
from mqi_dagster.people.rights import Actor
from mqi_dagster.sensors.arrivals import fingerprint_of
from mqi_dagster.worklist import BeamStatus, CaseStatus, Worklist
from tests.chain import ended_runs
from tests.chain.chain import ONE_BEAM, Chain, deliver_other_records

OWNER = Actor.of_this_account()
NOT_HANDED_OVER = "its latest dose has not been handed over: materialise handed_over"
NOT_CONCLUDED = "its conclusion has not been started yet"
DELIVERED_ANEW = (
    "its files have changed since its latest dose: it is simulated anew by itself; where no run of it comes,"
    " materialise interpreted_csvs to handed_over"
)
NO_CAUSE = "the run ended without an error of its own: its worker is gone"
AWAY = "no connection to the host"
REMOVED = "its results were removed since"
DONE, WAITING = ("complete", "handed_over"), ("waiting", "waiting")
FAILED, CANCELLED = ("failed", "failed"), ("failed", "cancelled")
RETRIED, BEAMS = ("in work", "retried"), ("in work", "beams")
CONCLUDED, CONCLUDING = ("complete", "concluded"), ("in work", "concluding")
AT_THE_TARGET = ("in work", "waiting_for_target")


@dataclass(frozen=True)
class Row:
    """What every surface has to say after something has happened."""

    what: str
    act: Callable[[Chain, str], object]
    beam: tuple[str, str] | None
    """State and stage; None where it is not listed."""
    case: tuple[str, str]
    reason: str
    """Of the case; how it begins where it names a time."""
    asked: bool = False
    """Whether the conclusion would be asked for under a key that has not run yet."""
    removable: bool = False
    """Whether retention would take the case, were all of it old."""
    retried: str = ""
    """What `mqi case retry` would start again: the beam, the case or nothing."""
    alarm: str = ""
    """The kind of alarm that stands."""

    @property
    def is_concluded(self) -> bool:
        return self.case == CONCLUDED


def nothing(chain: Chain, case: str) -> None:
    """What has come is taken in and simulated, and not concluded yet."""


def again(asset: str) -> Callable[[Chain, str], object]:
    def act(chain: Chain, case: str) -> None:
        outcome = chain.run_asset(asset, case if asset.startswith("case_") else f"{case}__b02")
        assert outcome.success, outcome.error

    return act


def other_dose(chain: Chain, case: str) -> None:
    """Another dose of the same beam, made alone as from the page of the asset."""
    bits = chain.site.settings.rt_dose.bits
    chain.change({"rt_dose": {"bits": 48 - bits}})
    again("rt_dose")(chain, case)


def simulate(chain: Chain, case: str) -> None:
    assert chain.run("beam", f"{case}__b02").success


def take_in(chain: Chain, case: str) -> None:
    assert chain.run("intake", case).success


def conclude(chain: Chain, case: str) -> None:
    assert len(chain.tick("cases_to_conclude")) == 1


def deliver_anew(chain: Chain, case: str) -> None:
    """Other records of the beam, taken in."""
    deliver_other_records(chain.inbox / "case-1", 2, plan=ONE_BEAM, aside=chain.folder / "aside")
    for _ in range(2):
        chain.tick("case_arrivals")


def repeat_conclusion(chain: Chain, case: str) -> None:
    assert chain.run("conclusion", case).success


def failed(job: str) -> Callable[[Chain, str], object]:
    """A run that ended badly: somebody has to look at it before the case may go."""

    def act(chain: Chain, case: str) -> None:
        run = ended_runs.started(chain, job, f"{case}__b02" if job == "beam" else case)
        ended_runs.failed(chain, run, "the machine file is wrong", "unknown-machine", "never")

    return act


def lost(job: str, **tags: str) -> Callable[[Chain, str], object]:
    """A run whose worker is gone, which is no fault of the case."""

    def act(chain: Chain, case: str) -> None:
        run = ended_runs.started(chain, job, f"{case}__b02" if job == "beam" else case, **tags)
        ended_runs.lost(chain, run)

    return act


def cancelled(chain: Chain, case: str) -> None:
    run = ended_runs.started(chain, "beam", f"{case}__b02")
    chain.instance.report_run_canceled(run)


def concluding(chain: Chain, case: str) -> None:
    ended_runs.started(chain, "conclusion", case)


def waits_for_target(chain: Chain, case: str) -> None:
    run = chain.instance.get_runs(limit=1)[0]
    chain.site.ledger.progress.record(case, run.run_id, "waiting for the target", message=AWAY)


def worker_gone(chain: Chain, case: str) -> None:
    ended_runs.lost(chain, chain.instance.get_runs(limit=1)[0])


def forget_runs(chain: Chain, case: str) -> None:
    """A person has tidied Dagster's runs away; what they made stays recorded."""
    for run in chain.instance.get_runs():
        chain.instance.run_storage.delete_run(run.run_id)


def removed(chain: Chain, case: str) -> None:
    (thing,) = takeable(chain, case)
    assert remove(chain.instance, chain.site, thing)


ROWS = (
    Row("simulated", nothing, DONE, WAITING, NOT_CONCLUDED, asked=True),
    Row("concluded", conclude, DONE, CONCLUDED, "", removable=True),
    Row("the same dose once more", again("rt_dose"), DONE, CONCLUDED, "", removable=True),
    Row("the same hand-over once more", again("handed_over"), DONE, CONCLUDED, "", removable=True),
    Row("the same manifest once more", again("case_manifest"), DONE, CONCLUDED, "", removable=True),
    Row("another dose", other_dose, WAITING, WAITING, NOT_HANDED_OVER),
    Row("the other dose handed over", simulate, DONE, WAITING, NOT_CONCLUDED, asked=True),
    Row("concluded once more", conclude, DONE, CONCLUDED, "", removable=True),
    Row("the first dose again", other_dose, WAITING, WAITING, NOT_HANDED_OVER),
    Row("the first dose handed over", again("handed_over"), DONE, WAITING, NOT_CONCLUDED, asked=True),
    Row("concluded as at first", conclude, DONE, CONCLUDED, "", removable=True),
    Row("it was delivered anew", deliver_anew, WAITING, WAITING, DELIVERED_ANEW),
    Row("the dose of that handed over", simulate, DONE, WAITING, NOT_CONCLUDED, asked=True),
    Row("concluded with that", conclude, DONE, CONCLUDED, "", removable=True),
    Row(
        "a run of its beam failed",
        failed("beam"),
        FAILED,
        FAILED,
        "the machine file is wrong",
        retried="beam",
        alarm="beam_failed",
    ),
    Row("it succeeded once more", simulate, DONE, CONCLUDED, "", removable=True),
    Row("a run of its beam was cancelled", cancelled, CANCELLED, CANCELLED, "cancelled", retried="beam"),
    Row("the worker of its beam is gone", lost("beam"), RETRIED, BEAMS, "", retried="beam"),
    Row(
        "no other try of it can be asked for",
        lost("beam", **{"mqi/engine_failures": "many"}),
        FAILED,
        FAILED,
        NO_CAUSE,
        retried="beam",
        alarm="beam_failed",
    ),
    Row("it succeeded in the end", simulate, DONE, CONCLUDED, "", removable=True),
    Row(
        "a run of the case failed",
        failed("intake"),
        DONE,
        FAILED,
        "the machine file is wrong",
        retried="case",
        alarm="case_failed",
    ),
    Row("it was taken in once more", take_in, DONE, CONCLUDED, "", removable=True),
    Row("it is being concluded", concluding, DONE, CONCLUDING, ""),
    Row("its conclusion waits for the target", waits_for_target, DONE, AT_THE_TARGET, AWAY),
    Row(
        "the worker of its conclusion is gone",
        worker_gone,
        DONE,
        RETRIED,
        "goes on by itself",
        retried="case",
    ),
    Row("it is concluded in the end", repeat_conclusion, DONE, CONCLUDED, "", removable=True),
    Row("its runs are not recorded any more", forget_runs, DONE, CONCLUDED, "", removable=True),
    Row("its results were removed", removed, None, CONCLUDED, REMOVED),
)


class Services(GraphQL):
    """Starts nothing, and says what it was asked for."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:0")

    def backfills(self) -> dict[str, list[str]]:
        return {}

    def reexecute_from_failure(self, run_id: str) -> str:
        return run_id

    def backfill(self, assets: Sequence[str], partitions: Sequence[str], title: str) -> str:
        return title


def in_words(row: CaseStatus | BeamStatus | PartitionStatus) -> tuple[str, str]:
    return row.state.value, row.stage.value


def listed(chain: Chain, work: Worklist, case: str) -> tuple[CaseStatus | None, list[BeamStatus]]:
    shown = work.snapshot()
    row = next((row for row in shown.cases if row.case == case), None)
    return row, [beam for beam in shown.beams if beam.case == case]


def as_row(chain: Chain, work: Worklist, case: str) -> tuple[object, object, str]:
    row, beams = listed(chain, work, case)
    assert row is not None and len(beams) < 2
    return (in_words(beams[0]) if beams else None), in_words(row), row.reason


def asked(chain: Chain, case: str) -> bool:
    manifest = find_manifest(chain.instance, chain.site.store, case)
    if manifest is None:
        return False
    request = conclusion_request(chain.instance, manifest, chain.site.ledger.arrivals.get(case))
    if request is None:
        return False
    return not any(run.tags.get("dagster/run_key") == request.run_key for run in chain.instance.get_runs())


def takeable(chain: Chain, case: str) -> list[Removable]:
    things = spare(chain.instance, chain.site, datetime.now(UTC) + timedelta(days=2), [])
    return [thing for thing in things if thing.kind is RemovableKind.CASE and thing.name == case]


def retried(chain: Chain, case: str) -> list[str]:
    try:
        return list(retry(chain.instance, chain.site, Services(), OWNER, [case, f"{case}__b02"]))
    except InputError as error:
        assert "nothing to retry" in error.message
        return []


def taken_in_anew_after_a_move(chain: Chain, case: str) -> bool:
    arrival = chain.site.ledger.arrivals.get(case)
    assert arrival is not None
    moved = replace(arrival, arrival="somewhere else")
    found = find_case(chain.site, case)
    now = datetime.now(UTC)
    return fingerprint_of(chain.instance, chain.site, found, moved, (), (), now) != arrival.fingerprint


def printed(chain: Chain, work: Worklist, case: str) -> tuple[str, str]:
    """What `mqi case list` and `mqi case show` say of a case."""
    board, one = io.StringIO(), io.StringIO()
    rows = [row for row in work.every_case() if row.case == case]
    show_cases(output(file=board), rows, {case: work.beams_of(case)}, chain.site.timezone)
    show_case(output(file=one), case_report(chain.instance, chain.site, case), chain.site.timezone)
    return board.getvalue(), one.getvalue().splitlines()[0]


def test_every_surface_says_the_same_of_a_case_after_everything_that_happens_to_it(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", {"retention": {"case_days": 1}})
    chain.deliver(plan=ONE_BEAM)
    for _ in range(2):
        chain.tick("case_arrivals")
    chain.tick("beams_to_simulate")
    (case,) = chain.runs_of("intake")
    partitions = {"beam": [f"{case}__b02"], "case": [case], "": []}
    standing = Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger, history=None)
    for row in ROWS:
        row.act(chain, case)
        ended_runs.evaluate(chain, "run_outcomes")
        work = Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger, history=None)
        beam, state, reason = as_row(chain, work, case)
        assert (beam, state) == (row.beam, row.case), row.what
        assert reason.startswith(row.reason) and bool(reason) is bool(row.reason), row.what
        # A board that stays open says what one that is opened now says, and one that hides what is over
        # hides nothing else.
        seen = as_row(chain, standing, case)
        # It reads once in five minutes which partitions are gone.
        assert (seen if row.beam else seen[1]) == ((beam, state, reason) if row.beam else state), row.what
        hiding = Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger, history=timedelta(0))
        assert (listed(chain, hiding, case)[0] is None) <= row.is_concluded, row.what
        reading = read_case(chain.instance, chain.site, case)
        beams = [in_words(one) for one in reading.beams.values()]
        assert ((beams or [None])[0], in_words(reading.case), reading.case.reason) == (beam, state, reason)
        assert reading.concluded is row.is_concluded, row.what
        board, one = printed(chain, work, case)
        why = in_zone(reason, chain.site.timezone)
        assert row.case[0] in board and why in board, row.what
        assert one.startswith(f"case {case}: {row.case[0]}") and why in one, row.what
        assert asked(chain, case) is row.asked, row.what
        assert len(takeable(chain, case)) == row.removable, row.what
        assert retried(chain, case) == partitions[row.retried], row.what
        alarms = [alarm.kind.value for alarm in chain.site.ledger.alarms.open()]
        assert alarms == ([row.alarm] if row.alarm else []), row.what
        if "in work" not in (row.case[0], (row.beam or row.case)[0]):
            assert taken_in_anew_after_a_move(chain, case) is not row.is_concluded, row.what
