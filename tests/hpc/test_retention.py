"""Which folders go from a cluster, and that one that cannot go holds up no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mqi_dagster.errors import MqiError
from mqi_dagster.hpc import retention
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.errors import ConnectError, PathRejectedError, RemoteCommandError
from mqi_dagster.hpc.retention import Housekeeping
from mqi_dagster.ledger.cluster_jobs import ClusterJob, Observation
from mqi_dagster.ledger.cluster_jobs import ClusterJobState as State
from mqi_dagster.ledger.database import sqlite_url
from mqi_dagster.ledger.ledger import Ledger
from tests.hpc.hpc_cases import BEAM, make_slurm
from tests.hpc.removed_folders import RemovedFolders

LONG_AGO = datetime.now(UTC) - timedelta(days=30)


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch) -> RemovedFolders:
    made = RemovedFolders()
    monkeypatch.setattr(retention, "remove_folder", made.remove)
    monkeypatch.setattr(retention, "used_bytes", lambda *_: 200_000_000_000)
    return made


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(sqlite_url(tmp_path / "ledger.db"), lambda: LONG_AGO)
    opened.clusters.take_turn("hpc", shortest=timedelta(0), hold=timedelta(0))
    yield opened
    opened.close()


@pytest.fixture
def housekeeping(ledger: Ledger, nowhere: Connection) -> Housekeeping:
    return Housekeeping("hpc", nowhere, make_slurm(), ledger)


def ended(ledger: Ledger, number: int, state: State = State.FAILED) -> ClusterJob:
    key, job_id = f"d{number:02d}-1", str(100 + number)
    ledger.jobs.reserve("hpc", key, BEAM, "P1.fx0001/b01")
    ledger.jobs.mark_submitted("hpc", key, job_id)
    ledger.jobs.observe("hpc", [Observation(key, job_id, state)])
    found = ledger.jobs.get("hpc", key)
    assert found is not None
    return found


@pytest.mark.parametrize("error", [PathRejectedError("not ours"), RemoteCommandError("busy", 1)])
def test_a_folder_that_cannot_go_holds_up_no_other(
    ledger: Ledger, folders: RemovedFolders, housekeeping: Housekeeping, error: MqiError
) -> None:
    for number in range(4):
        ended(ledger, number)
    folders.fails = {"d00-1": error, "d02-1": RemoteCommandError("too", 1)}
    with pytest.raises(type(error), match="b01/d00-1 stays on the cluster"):
        housekeeping.remove_kept(limit=2)
    assert folders.removed == ["d01-1", "d03-1"], "the limit is one of successes"
    assert [job.key for job in housekeeping.kept_too_long()] == ["d00-1", "d02-1"]


def test_a_cluster_that_is_away_ends_the_removing(
    ledger: Ledger, folders: RemovedFolders, housekeeping: Housekeeping
) -> None:
    ended(ledger, 0)
    ended(ledger, 1)
    folders.fails = {"d00-1": ConnectError("away")}
    with pytest.raises(ConnectError):
        housekeeping.remove_kept()
    assert folders.removed == []


def test_what_stays_and_what_is_too_much_are_alarms_of_a_beam_that_is_done(
    ledger: Ledger, folders: RemovedFolders, housekeeping: Housekeeping
) -> None:
    ended(ledger, 0)
    done = ended(ledger, 1, State.SUCCEEDED)
    folders.fails = {"d00-1": PathRejectedError("not ours")}
    alarm = housekeeping.clear(done)
    assert folders.removed == ["d01-1"]
    assert "d00-1 stays on the cluster: not ours; " in alarm
    assert "the quota is" in alarm and ".slurm.retention.quota_gb)" in alarm


def test_a_job_that_is_wanted_again_keeps_its_folder(
    ledger: Ledger, folders: RemovedFolders, housekeeping: Housekeeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, other = ended(ledger, 0, State.LOST), ended(ledger, 1)
    listed = housekeeping.kept_too_long()
    ledger.jobs.retire("hpc", lost.key, "100")
    monkeypatch.setattr(housekeeping, "kept_too_long", lambda: listed)
    assert housekeeping.remove_kept() == 1
    ledger.jobs.mark_submitted("hpc", lost.key, "200")
    ledger.jobs.observe("hpc", [Observation(lost.key, "200", State.SUCCEEDED)])
    assert housekeeping.remove_kept() == 1, "the other one again, and not that of the new job"
    assert set(folders.removed) == {other.key}


def test_the_folder_of_a_published_dose_that_could_not_go_at_once_goes_with_the_next_job(
    tmp_path: Path, folders: RemovedFolders, nowhere: Connection
) -> None:
    with closing(Ledger.open(sqlite_url(tmp_path / "today.db"))) as ledger:
        ledger.clusters.take_turn("hpc", shortest=timedelta(0), hold=timedelta(0))
        housekeeping = Housekeeping("hpc", nowhere, make_slurm(), ledger)
        published, lost = (ledger.attempts.begin(BEAM, digest, "run") for digest in ("aa", "bb"))
        ledger.attempts.end(published, "succeeded")
        ledger.attempts.end(lost, "lost", "its worker died before it had fetched")
        made = {}
        for number, key in enumerate(("mark-aa-1", "mark-bb-1", "mark-cc-1"), start=1):
            ledger.jobs.reserve("hpc", key, BEAM, "P1.fx0001/b01")
            ledger.jobs.mark_submitted("hpc", key, str(number))
            ledger.jobs.observe("hpc", [Observation(key, str(number), State.SUCCEEDED)])
            made[key] = ledger.jobs.get("hpc", key)
        folders.fails = {"mark-aa-1": ConnectError("away")}
        with pytest.raises(ConnectError):
            housekeeping.clear(made["mark-aa-1"])
        folders.fails = {}
        housekeeping.clear(made["mark-cc-1"])
        assert folders.removed == ["mark-cc-1", "mark-aa-1"]
        assert housekeeping.kept_too_long() == []
        # The results were removed since, and are made anew under the same key.
        again = ledger.attempts.begin(BEAM, "aa", "another run")
        ledger.jobs.retire("hpc", "mark-aa-1", "1")
        ledger.jobs.mark_submitted("hpc", "mark-aa-1", "9")
        ledger.jobs.observe("hpc", [Observation("mark-aa-1", "9", State.SUCCEEDED)])
        assert housekeeping.kept_too_long() == [], "its outputs are not fetched yet"
        ledger.attempts.end(again, "succeeded")
        assert [job.job_id for job in housekeeping.kept_too_long()] == ["9"]
