"""Whatever the engine does wrong ends as failed, with its cause, and nothing of it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqi_dagster.compute.engine_run import EngineRun
from mqi_dagster.errors import UnreachableError
from tests.chain.chain import Chain, deliver, faulty_engine

BEAM = 2
FAULTS = {
    "zero-histories": ("engine", "the engine simulated no history"),
    "few-histories": ("engine", "1.00 % apart, at most 0.1 %"),
    "all-zero": ("engine", "the dose is zero everywhere"),
    "nan": ("engine", "the dose holds values that are not finite"),
    "negative": ("engine", "the dose holds negative values"),
    "other-beam": ("engine", "the engine has ended without output 1 of 4"),
    "stale": ("engine", "older than its start"),
    "nothing": ("engine", "the engine has ended without output 1 of 4"),
    "half-a-file": ("engine", "ends within a value"),
    "exit-1": ("engine", "exit code 1"),
    "killed": ("engine", "exit code -9"),
    "crash-text": ("engine", "the engine crashed (first cause: terminate called after throwing"),
    "hang": ("engine-timeout", "ran longer than 2 s (engine.timeout_seconds)"),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """A case that was taken in, with the faulty engine; its mode stands in ``mode``."""
    folder = tmp_path_factory.mktemp("engine-faults")
    (folder / "mode").write_text("good")
    chain = Chain(
        folder,
        {"engine": faulty_engine(folder / "mode")},
        given=deliver(folder / "in").folder,
    )
    assert chain.run_intake()[1].success
    yield chain


@pytest.mark.parametrize("mode", FAULTS)
def test_an_engine_fault_ends_as_failed_and_the_retry_succeeds(site: Chain, mode: str) -> None:
    code, cause = FAULTS[mode]
    # Another seed is another dose, so that nothing of the other modes' results can be taken.
    seed = 100 + list(FAULTS).index(mode)
    site.change({"engine": {"seed": seed, "timeout_seconds": 2 if mode == "hang" else 60}})
    (case,) = site.cases()
    key = f"{case}__b02"
    shutil.rmtree(site.handover, ignore_errors=True)
    before, starts = site.published(key), site.engine_starts()

    (site.folder / "mode").write_text(mode)
    (failed,) = site.run_beams(case, [BEAM])

    assert not failed.success
    assert failed.code == code
    assert f"beam {key}" in failed.error
    assert cause in failed.error
    assert site.engine_starts() == starts + 1
    new = {name for name in site.published(key) if name not in before}
    assert {name.split("/")[0] for name in new} <= {"interpreted_csvs", "tps_file"}
    assert site.handed_over_files() == []
    assert site.leftovers() == []
    assert site.site.ledger.leases.all() == []
    last = site.site.ledger.attempts.history(key)[-1]
    assert (last.number, last.outcome.value if last.outcome else None) == (1, "failed")
    assert cause in (last.cause or "")

    (site.folder / "mode").write_text("good")
    site.change({"engine": {"timeout_seconds": 60}})
    (again,) = site.run_beams(case, [BEAM])

    assert again.success, again.error
    last = site.site.ledger.attempts.history(key)[-1]
    assert (last.number, last.outcome.value if last.outcome else None) == (2, "succeeded")
    assert site.metadata("raw_dose", key)["seed"] == seed
    assert any(name.endswith("rt_dose.dcm") for name in site.handed_over_files())


def test_a_case_with_a_failed_beam_is_not_concluded_by_hand(tmp_path: Path) -> None:
    (tmp_path / "mode").write_text("nan")
    chain = Chain(
        tmp_path / "site",
        {"engine": faulty_engine(tmp_path / "mode")},
        given=deliver(tmp_path / "in").folder,
    )
    case, _ = chain.run_intake()
    assert not chain.run_beams(case, [2])[0].success

    concluded = chain.conclude(case)

    assert not concluded.success
    assert "its latest dose has not been handed over: materialise handed_over" in concluded.error
    assert chain.handed_over_files() == []


def test_the_attempt_budget_repeats_a_failed_engine_within_one_run(tmp_path: Path) -> None:
    (tmp_path / "mode").write_text("exit-1")
    chain = Chain(
        tmp_path / "site",
        {"engine": faulty_engine(tmp_path / "mode"), "execution": {"attempts": 2}},
        given=deliver(tmp_path / "in").folder,
    )
    case, _ = chain.run_intake()

    assert not chain.run_beams(case, [2])[0].success

    found = [
        (attempt.number, attempt.outcome) for attempt in chain.site.ledger.attempts.history(f"{case}__b02")
    ]
    assert found == [(1, "failed"), (2, "failed")]
    assert chain.engine_starts() == 2


def test_a_run_that_dies_after_its_dose_was_published_is_followed_by_one_that_takes_it_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(tmp_path / "site", given=deliver(tmp_path / "in").folder)
    case, outcome = chain.run_intake()
    assert outcome.success
    with monkeypatch.context() as dying:
        dying.setattr(EngineRun, "clear", _away)
        assert not chain.run_beams(case, [BEAM])[0].success
    assert chain.run_beams(case, [BEAM])[0].success
    assert chain.engine_starts() == 1
    made = chain.site.ledger.attempts.history(f"{case}__b02")
    assert [(one.number, one.outcome) for one in made] == [(1, "lost"), (1, "succeeded")]


def _away(_: EngineRun) -> None:
    raise UnreachableError("the cluster does not answer")
