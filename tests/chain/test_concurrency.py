"""Two runs at once: a beam is simulated once, and a slot holds one engine."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from tests.chain.chain import Chain, deliver, quick_engine
from tests.chain.processes import intervals, worker_of
from tests.waiting import wait_for


def slow_chain(tmp_path: Path, instance: dg.DagsterInstance, slots: int) -> Chain:
    engine = quick_engine("--seconds", "3", "--trace", str(tmp_path / "trace"))
    return Chain(
        tmp_path / "site",
        {"engine": engine, "execution": {"slots": slots}},
        given=deliver(tmp_path / "in").folder,
        instance=instance,
    )


@pytest.mark.slow
def test_a_beam_backfilled_while_it_runs_is_simulated_once(
    tmp_path: Path, disk_instance: dg.DagsterInstance
) -> None:
    # A second slot is free, so that only the beam's own lease holds the second run back.
    chain = slow_chain(tmp_path, disk_instance, slots=2)
    case, _ = chain.run_intake()
    key = f"{case}__b02"
    disk_instance.add_dynamic_partitions("beam", [key])
    with worker_of(chain, tmp_path / "dagster", "beam", key) as worker:
        wait_for((tmp_path / "trace").exists, "an engine runs")
        (second,) = chain.run_beams(case, [2])
        assert worker.wait(200) == 0

    assert second.success, second.error
    assert chain.engine_starts() == 1
    assert len(intervals(tmp_path / "trace")) == 1
    records = disk_instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey("raw_dose"), asset_partitions=[key]), limit=10
    ).records
    made = [r.asset_materialization for r in records]
    assert len({m.metadata["digest"].value for m in made if m}) == 1
    assert sorted(m.metadata["computed in this run"].value for m in made if m) == [False, True]
    assert chain.site.ledger.leases.all() == []


def test_one_slot_never_holds_two_engines(tmp_path: Path, disk_instance: dg.DagsterInstance) -> None:
    chain = slow_chain(tmp_path, disk_instance, slots=1)
    case, _ = chain.run_intake()
    disk_instance.add_dynamic_partitions("beam", [f"{case}__b02", f"{case}__b03"])
    with worker_of(chain, tmp_path / "dagster", "beam", f"{case}__b02") as worker:
        wait_for((tmp_path / "trace").exists, "an engine runs")
        (second,) = chain.run_beams(case, [3])
        assert worker.wait(200) == 0

    assert second.success, second.error
    assert chain.engine_starts() == 2
    (_, first_end), (second_start, _) = intervals(tmp_path / "trace")
    assert second_start >= first_end
    assert chain.site.ledger.leases.all() == []
