"""A case taken in under a name that identifies: all under that name goes, and the case stays."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.ledger.glance import ledger_file
from mqi_dagster.operations.instance import open_instance, write_instance
from mqi_dagster.plan.identity import Identity
from mqi_dagster.settings import parse_settings
from tests.chain.chain import ONE_BEAM, Chain

PATIENT = "PAT7431"
BY_FOLDER = {"site": {"timezone": "Asia/Seoul", "case_names": "folder"}}
OLD = "A-PAT7431.fx0001"


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    """A chain whose records lie in files."""
    folder = tmp_path / "site"
    settings = parse_settings(BY_FOLDER, folder)
    write_instance(settings)
    with open_instance(settings) as instance:
        yield Chain(folder, BY_FOLDER, instance=instance)


def taken_in(chain: Chain, monkeypatch: pytest.MonkeyPatch, *, rounds: int = 2) -> Path:
    """The case under the name of its folder, as code took it in that did not see the ID there."""
    delivered = chain.deliver(plan=ONE_BEAM, case_name=f"A-{PATIENT}", patient_id=PATIENT)
    with monkeypatch.context() as earlier:
        earlier.setattr(Identity, "named_in", lambda self, told: None)
        chain.tick_sensors(rounds=rounds)
    assert set(chain.runs_of("intake")) == {OLD}
    chain.site.ledger.alarms.raise_(AlarmKind.BEAM_FAILED, f"{OLD}__b02", f"{OLD} has failed")
    chain.reopen()
    return delivered.folder


def another(chain: Chain) -> None:
    """A later run: SQLite would give the number of the newest one out again."""
    chain.deliver(plan=ONE_BEAM, case_name="B", patient_id="PAT9", seed=9)
    chain.tick_sensors()


def places_of_the_name(chain: Chain) -> list[str]:
    """Files of the site, but the inbox and the hand-over, that bear or hold the name."""
    found = []
    for path in chain.folder.rglob("*"):
        if path.is_relative_to(chain.inbox) or path.is_relative_to(chain.handover):
            continue
        if PATIENT in path.name or (
            path.is_file() and path.suffix != ".dcm" and PATIENT.encode() in path.read_bytes()
        ):
            found.append(path.relative_to(chain.folder).as_posix())
    return found


def test_everything_under_a_refused_folder_name_is_removed(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_in(chain, monkeypatch)
    assert chain.runs_of("conclusion") == [OLD]
    chain.tick("case_arrivals")

    (row,) = chain.site.ledger.arrivals.all()
    assert row.case.startswith("X") and not row.ready
    assert row.reason == (
        "the folder name contains the patient's ID: rename the folder, or set site.case_names to pseudonym,"
        " and the case is taken in by itself"
    )
    assert chain.instance.get_dynamic_partitions("case") == []
    assert chain.instance.get_dynamic_partitions("beam") == []
    assert list((chain.data / "cases").iterdir()) == []
    (alarm,) = chain.site.ledger.alarms.open()
    assert (alarm.kind, alarm.subject) == (AlarmKind.IDENTITY_LEFT, row.case)
    assert "its folder at the hand-over target: remove or rename it there" in alarm.text
    assert "its runs in Dagster's records" in alarm.text

    another(chain)
    chain.reopen()
    chain.tick("case_arrivals")
    assert {run.tags["dagster/partition"][:1] for run in chain.instance.get_runs()} == {"B"}
    (alarm,) = chain.site.ledger.alarms.open()
    assert "its runs in Dagster's records" not in alarm.text
    chain.site.ledger.alarms.dismiss(alarm.id)
    chain.reopen()
    chain.tick("case_arrivals")
    assert chain.site.ledger.alarms.open() == []
    assert PATIENT not in str(chain.site.ledger.alarms.all())
    # What SQLite has freed is written over when it is needed; the rows themselves are gone.
    assert [place for place in places_of_the_name(chain) if ".db" not in place] == []

    with sqlite3.connect(ledger_file(chain.site.settings)) as ledger:
        assert PATIENT not in "\n".join(ledger.iterdump())


@pytest.mark.parametrize("by", ["another name", "pseudonym"])
def test_the_case_is_taken_in_again_under_a_name_that_does_not_identify(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    folder = taken_in(chain, monkeypatch)
    if by == "pseudonym":
        chain.change({"site": {"case_names": "pseudonym"}})
    else:
        folder.rename(folder.with_name("Q12"))
    chain.tick_sensors(rounds=2)

    (row,) = chain.site.ledger.arrivals.all()
    assert row.case.startswith("P" if by == "pseudonym" else "Q12.")
    assert chain.runs_of("conclusion") == [OLD, row.case]
    assert chain.instance.get_dynamic_partitions("case") == [row.case]
    assert [path.name for path in (chain.data / "cases").iterdir()] == [row.case]
    assert [alarm.subject for alarm in chain.site.ledger.alarms.open()] == [row.case]
    # Its runs have newer ones behind them since.
    chain.reopen()
    chain.tick_sensors(rounds=2)
    assert {run.tags["dagster/partition"].partition("__")[0] for run in chain.instance.get_runs()} == {
        row.case
    }
    assert chain.runs_of("conclusion") == [OLD, row.case]


def test_a_run_in_work_under_such_a_name_is_waited_for(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = taken_in(chain, monkeypatch)
    job = chain.definitions.resolve_job_def("beam")
    running = chain.instance.create_run_for_job(
        job, tags={"dagster/partition": f"{OLD}__b02"}, status=dg.DagsterRunStatus.STARTED
    )
    folder.rename(folder.with_name("Q12"))
    chain.tick_sensors(rounds=2)
    assert chain.runs_of("intake") == [OLD]
    (row,) = chain.site.ledger.arrivals.all()
    assert row.reason == (
        "it is in work under a folder name that identifies the patient: it goes on at the end of that"
    )
    assert (chain.data / "cases" / OLD).is_dir()

    chain.instance.report_run_failed(running)
    chain.reopen()
    chain.tick_sensors(rounds=2)
    assert chain.runs_of("conclusion") == [OLD, "Q12.fx0001"]
    assert not (chain.data / "cases" / OLD).exists()


def test_a_case_of_another_patient_under_the_same_folder_name_stays(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_in(chain, monkeypatch)
    (chain.inbox / "G2").mkdir()
    other = chain.deliver(plan=ONE_BEAM, case_name="kept", patient_id="PAT9", seed=9)
    other.folder.rename(chain.inbox / "G2" / f"A-{PATIENT}")
    chain.tick_sensors(rounds=2)
    assert chain.runs_of("conclusion") == [OLD, "A-PAT7431.fx0002"]
    chain.reopen()
    chain.tick_sensors()
    assert [path.name for path in (chain.data / "cases").iterdir()] == ["A-PAT7431.fx0002"]
