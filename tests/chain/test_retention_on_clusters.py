"""What retention takes away of jobs' folders on clusters, also where one of them is away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.errors import MqiError
from mqi_dagster.hpc import retention
from mqi_dagster.hpc.errors import ConnectError
from mqi_dagster.ledger.cluster_jobs import ClusterJobState, Observation
from mqi_dagster.operations.instance import write_instance
from tests.chain.chain import Chain
from tests.hpc.removed_folders import RemovedFolders

HOST: dict[str, Any] = {
    "host": "hpc.example",
    "user": "mqi",
    "key_file": "key",
    "known_hosts": "known",
    "slurm": {"root": "/scratch/mqi", "retention": {"failed_days": 14}},
}
LONG_AGO = datetime.now(UTC) - timedelta(days=30)


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> RemovedFolders:
    made = RemovedFolders()
    monkeypatch.setattr(retention, "remove_folder", made.remove)
    return made


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """Simulates here; on two clusters that it used before, jobs have failed long ago."""
    made = Chain(tmp_path / "site", {"hosts": {"gone": HOST, "hpc": HOST}, "retention": {"daily": True}})
    ledger = made.site.ledger
    now, ledger.database.clock = ledger.database.clock, lambda: LONG_AGO
    for host, keys in {"gone": ["d01-1"], "hpc": [f"d1{number:x}-1" for number in range(12)]}.items():
        ledger.clusters.take_turn(host, shortest=timedelta(0), hold=timedelta(0))
        for number, key in enumerate(keys, start=100):
            ledger.jobs.reserve(host, key, "P1.fx0001__b01", "P1.fx0001/b01")
            ledger.jobs.mark_submitted(host, key, str(number))
            ledger.jobs.observe(host, [Observation(key, str(number), ClusterJobState.FAILED)])
    ledger.database.clock = now
    return made


def tick(chain: Chain, cursor: str | None = None) -> tuple[str | None, str]:
    """Cursor and words of a tick of the sensor."""
    sensor = next(s for s in chain.definitions.sensors or () if s.name == "retention")
    context = dg.build_sensor_context(
        instance=chain.instance, cursor=cursor, resources={"site": chain.site}, sensor_name="retention"
    )
    data = sensor.evaluate_tick(context)
    return data.cursor, str(data.skip_message)


def test_the_daily_removal_takes_job_folders_some_a_tick(chain: Chain, clusters: RemovedFolders) -> None:
    clusters.fails = {"d01-1": ConnectError("no route")}
    today = datetime.now(UTC).date().isoformat()
    assert tick(chain) == (None, "10 things removed, more with the next tick")
    assert tick(chain) == (today, "2 things removed")
    assert sorted(clusters.removed) == sorted(f"d1{number:x}-1" for number in range(12))
    clusters.fails = {}
    assert tick(chain, "2026-01-01") == (today, "1 things removed")
    assert clusters.removed[-1] == "d01-1", "the cluster that was away answers again"


def test_by_hand_all_go_and_what_cannot_is_said(chain: Chain, clusters: RemovedFolders) -> None:
    write_instance(chain.site.settings)
    arguments = ["retention", "--site", str(chain.folder)]
    would = CliRunner().invoke(app, [*arguments, "--dry-run"], catch_exceptions=False).output
    assert would.count("would remove job folder P1.fx0001/b01/") == 13
    assert "would remove job folder P1.fx0001/b01/d01-1 on gone (failed)\n" in would
    assert clusters.removed == []
    clusters.fails = {"d01-1": ConnectError("no route")}
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, MqiError)
    assert result.exception.message == "cluster gone: no route"
    assert "12 job folders on clusters\n" in result.output
    assert len(clusters.removed) == 12
