"""A share that was unmounted, or a whole case folder that is gone, is nobody's fault: its cases wait."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from mqi_dagster.assets.proton import intake
from mqi_dagster.ledger.outcomes import RunOutcome, RunVerdict
from mqi_dagster.lifecycle import boundary, health
from mqi_dagster.partitions import root_of
from tests.chain.chain import ONE_BEAM, Chain


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path / "site", {"alarms": {"disk_free_gb": 0}})


@pytest.fixture
def beam(chain: Chain) -> str:
    """A beam whose case was taken in."""
    chain.deliver(plan=ONE_BEAM)
    chain.tick("case_arrivals")
    (request,) = chain.tick("beams_to_simulate", launch=False)
    return str(request.partition_key)


def test_a_beam_waits_while_its_inbox_is_unmounted(chain: Chain, beam: str) -> None:
    share = chain.inbox.rename(chain.folder / "share")
    chain.inbox.mkdir()
    away = chain.run("beam", beam)
    assert (away.success, away.code) == (False, "inputs-away")
    assert "the inbox: it is empty and another folder than before" in away.error
    chain.inbox.rmdir()
    share.rename(chain.inbox)
    assert chain.run("beam", beam).success


@pytest.mark.parametrize("station", ["raw_dose", "rt_dose"])
def test_it_waits_at_whatever_step_it_was(
    chain: Chain, beam: str, monkeypatch: pytest.MonkeyPatch, station: str
) -> None:
    from mqi_dagster.assets.proton import rt_dose, simulation

    module, name = {"raw_dose": (simulation, "load_beam"), "rt_dose": (rt_dose, "load_beam")}[station]
    real = getattr(module, name)

    def unmounted(*arguments: object) -> object:
        chain.inbox.rename(chain.folder / "share")
        return real(*arguments)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(module, name, unmounted)
        outcome = chain.run("beam", beam)
    assert outcome.code == "inputs-away"
    assert "the inbox: it cannot be read: No such file or directory" in outcome.error


def test_a_case_whose_whole_folder_is_gone_waits_and_a_missing_file_does_not(chain: Chain, beam: str) -> None:
    (folder,) = chain.inbox.iterdir()
    elsewhere = folder.rename(chain.folder / "elsewhere")
    gone = chain.run("beam", beam)
    assert gone.code == "inputs-away"
    assert "the case is not in the inbox any more: its whole folder is gone" in gone.error
    elsewhere.rename(folder)
    record = sorted(folder.rglob("*.ptn"))[0]
    record.rename(chain.folder / "record")
    missing = chain.run("beam", beam)
    assert missing.code == "input"
    assert "the file cannot be read any more" in missing.error
    (chain.folder / "record").rename(record)
    assert chain.run("beam", beam).success


def test_an_inbox_that_goes_between_intake_and_its_check_fails_no_check(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.deliver(plan=ONE_BEAM)
    real = intake.read_manifest

    def unmounted(*arguments: object) -> object:
        if chain.inbox.is_dir():
            chain.inbox.rename(chain.folder / "share")
        return real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(intake, "read_manifest", unmounted)
        (request,) = chain.tick("case_arrivals")
    (_, _, outcome) = chain.runs[-1]
    assert (outcome.success, outcome.code, outcome.checks) == (False, "inputs-away", {})
    (chain.folder / "share").rename(chain.inbox)
    assert chain.run("intake", str(request.partition_key)).success


@pytest.mark.parametrize("of", ["02_*.ptn", "CT/*.dcm"])
def test_a_share_that_does_not_give_one_file_of_an_arrival_is_tried_again(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    case = chain.deliver(plan=ONE_BEAM, ct="water", ct_voxel_mm=10.0, ct_cube_mm=120.0)
    held = {str(path) for path in case.folder.rglob(of)}
    assert held
    real = hashlib.file_digest

    def stuttering(stream: BinaryIO, name: str) -> object:
        if stream.name in held:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(stream, name)  # type: ignore[arg-type]

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(boundary, "_FIRST_WAIT_SECONDS", 0.0)
        meanwhile.setattr(hashlib, "file_digest", stuttering)
        (request,) = chain.tick("case_arrivals")
    (_, _, outcome) = chain.runs[-1]
    assert (outcome.success, outcome.code) == (False, "infrastructure")
    assert "cannot be read: Input/output error" in outcome.error
    assert chain.run("intake", str(request.partition_key)).success


def test_nothing_is_taken_for_gone_while_the_inbox_is_away_and_all_goes_on_at_once(
    chain: Chain, beam: str
) -> None:
    case, ledger = root_of(beam), chain.site.ledger
    now = datetime.now(UTC)
    for run, code in (("run1", "inputs-away"), ("run2", "unreachable")):
        later = now + timedelta(minutes=10)
        ledger.outcomes.record(
            RunOutcome(run, "beam", beam, RunVerdict.RETRY, code, "why", now, now, 1, next_try_at=later)
        )
    known = ledger.arrivals.get(case)
    share = chain.inbox.rename(chain.folder / "share")
    chain.inbox.mkdir()
    assert chain.tick("case_arrivals") == []
    assert ledger.arrivals.get(case) == known
    assert ledger.outcomes.due_retries(10) == []
    chain.inbox.rmdir()
    share.rename(chain.inbox)
    chain.tick("case_arrivals")
    assert [one.run_id for one in ledger.outcomes.due_retries(10)] == ["run1"]


@pytest.mark.slow
def test_results_are_not_written_into_an_empty_mount_point(chain: Chain, beam: str) -> None:
    (chain.handover / "earlier case").mkdir(parents=True)
    health.folders(chain.site, note=True)
    share = chain.handover.rename(chain.folder / "target share")
    chain.handover.mkdir()
    outcome = chain.run("beam", beam)
    assert (outcome.success, outcome.code) == (False, "handover")
    assert "the hand-over folder: it is empty and another folder than before" in outcome.error
    assert list(chain.handover.iterdir()) == []
    chain.handover.rmdir()
    share.rename(chain.handover)
    assert chain.run("beam", beam).success


def test_a_folder_that_a_person_names_is_read_whatever_the_inbox_is(tmp_path: Path) -> None:
    there = Chain(tmp_path / "there")
    delivered = there.deliver(plan=ONE_BEAM)
    given = Chain(tmp_path / "site", given=delivered.folder)
    shutil.rmtree(given.inbox)
    _, outcome = given.run_intake()
    assert outcome.success
