"""One rule for what came of a case: boards, the conclusion and retention say the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.lifecycle.beam import read_manifest
from mqi_dagster.lifecycle.conclusion import conclusion_request
from mqi_dagster.lifecycle.retention import Kind, spare
from mqi_dagster.worklist import Worklist
from tests.chain.chain import ONE_BEAM, Chain

NOT_HANDED_OVER = "its latest dose has not been handed over: materialise handed_over"
NOT_CONCLUDED = "its conclusion has not been started yet"
NO_CAUSE = "the run ended without an error of its own: its worker is gone"
FAILED = ("failed", "failed")
DONE, WAITING = ("complete", "handed_over"), ("waiting", "waiting")


@dataclass(frozen=True)
class Row:
    """What every surface has to say after something has happened."""

    what: str
    act: Callable[[Chain, str], object]
    beam: tuple[str, str]
    case: tuple[str, str]
    reason: str
    asked: bool
    """Whether the conclusion would be asked for under a key that has not run yet."""
    removable: bool
    """Whether retention would take the case, were all of it old."""


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


def conclude(chain: Chain, case: str) -> None:
    assert len(chain.tick("cases_to_conclude")) == 1


def failed(chain: Chain, case: str) -> None:
    """A run of the concluded beam that ended badly: somebody has to look at it before it may go."""
    chain.instance.create_run_for_job(
        chain.definitions.resolve_job_def("beam"),
        tags={"dagster/partition": f"{case}__b02"},
        status=dg.DagsterRunStatus.FAILURE,
    )


CONCLUDED = ("complete", "concluded")
ROWS = (
    Row("simulated", nothing, DONE, WAITING, NOT_CONCLUDED, True, False),
    Row("concluded", conclude, DONE, CONCLUDED, "", False, True),
    Row("the same dose once more", again("rt_dose"), DONE, CONCLUDED, "", False, True),
    Row("the same hand-over once more", again("handed_over"), DONE, CONCLUDED, "", False, True),
    Row("the same manifest once more", again("case_manifest"), DONE, CONCLUDED, "", False, True),
    Row("another dose", other_dose, WAITING, WAITING, NOT_HANDED_OVER, False, False),
    Row("the other dose handed over", simulate, DONE, WAITING, NOT_CONCLUDED, True, False),
    Row("concluded once more", conclude, DONE, CONCLUDED, "", False, True),
    Row("the first dose again", other_dose, WAITING, WAITING, NOT_HANDED_OVER, False, False),
    Row("the first dose handed over", again("handed_over"), DONE, WAITING, NOT_CONCLUDED, True, False),
    Row("concluded as at first", conclude, DONE, CONCLUDED, "", False, True),
    Row("a run of its beam failed", failed, FAILED, FAILED, NO_CAUSE, False, False),
    Row("it succeeded once more", simulate, DONE, CONCLUDED, "", False, True),
)


def board(chain: Chain, case: str) -> tuple[tuple[str, str], tuple[str, str], str]:
    work = Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger, history=None).look()
    (row,) = [row for row in work.cases if row.case == case]
    (beam,) = [beam for beam in work.beams if beam.case == case]
    return (beam.state.value, beam.stage.value), (row.state.value, row.stage.value), row.reason


def asked(chain: Chain, case: str) -> bool:
    manifest = read_manifest(chain.instance, chain.site.store, case)
    request = conclusion_request(chain.instance, manifest, chain.site.ledger.arrival(case))
    if request is None:
        return False
    return not any(run.tags.get("dagster/run_key") == request.run_key for run in chain.instance.get_runs())


def removable(chain: Chain, case: str) -> bool:
    things = spare(chain.instance, chain.site, datetime.now(UTC) + timedelta(days=2), [])
    return any(thing.kind is Kind.CASE and thing.name == case for thing in things)


def test_every_surface_says_the_same_of_a_case_after_everything_that_happens_to_it(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", {"retention": {"case_days": 1}})
    chain.deliver(plan=ONE_BEAM)
    for _ in range(2):
        chain.tick("case_arrivals")
    chain.tick("beams_to_simulate")
    (case,) = chain.runs_of("intake")
    standing = Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger, history=None)
    for row in ROWS:
        row.act(chain, case)
        assert board(chain, case) == (row.beam, row.case, row.reason), row.what
        # A board that stays open says what one that is opened now says.
        work = standing.look()
        assert [(one.state.value, one.stage.value) for one in work.cases] == [row.case], row.what
        assert asked(chain, case) is row.asked, row.what
        assert removable(chain, case) is row.removable, row.what
