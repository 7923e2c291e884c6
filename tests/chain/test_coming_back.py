"""What was asked for before is asked for again where something else came in between."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mqi_dagster.lifecycle.retention import spare
from mqi_dagster.partitions import beam_key
from tests.chain.boards import stage
from tests.chain.chain import PLAN, Chain
from tests.chain.chain_places import Made


def test_a_file_that_was_taken_out_and_put_back_lets_the_case_go_on(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    delivered = chain.deliver(plan=PLAN)
    chain.tick_sensors(rounds=2)
    (case,) = chain.runs_of("conclusion")

    record = min(delivered.folder.rglob("*.ptn"))
    aside = record.rename(tmp_path / record.name)
    chain.tick_sensors(rounds=2)
    assert [outcome.success for job, _, outcome in chain.runs if job == "intake"] == [True, False]

    # The same names, sizes and times as at the first intake.
    aside.rename(record)
    chain.tick_sensors(rounds=3)
    assert [outcome.success for job, _, outcome in chain.runs if job == "intake"] == [True, False, True]
    assert chain.runs_of("beam") == [beam_key(case, 2), beam_key(case, 3)]
    assert chain.runs_of("conclusion") == [case]
    assert chain.engine_starts() == 2


@pytest.mark.slow
def test_a_setting_that_was_changed_and_changed_back_is_concluded_each_time(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", {"rt_dose": {"bits": 32}})
    chain.deliver(plan=PLAN)
    chain.tick_sensors(rounds=2)
    (case,) = chain.runs_of("conclusion")
    summaries = [chain.summary(case)]

    for bits in (16, 32):
        chain.change({"rt_dose": {"bits": bits}})
        for outcome in chain.run_beams(case, [2, 3]):
            assert outcome.success, outcome.error
        chain.tick_sensors(rounds=3)
        summaries.append(chain.summary(case))

    assert chain.runs_of("conclusion") == [case] * 3
    assert summaries[0] == summaries[2] != summaries[1]
    assert chain.engine_starts() == 2
    assert (chain.handover / case / "_COMPLETE").is_file()


def test_a_plan_that_was_exchanged_and_put_back_is_simulated_for_what_stands_there(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    delivered = chain.deliver(plan=PLAN)
    chain.tick_sensors(rounds=2)
    (case,) = chain.runs_of("conclusion")
    first = chain.summary(case)
    (plan,) = delivered.folder.glob("*.dcm")
    content = plan.read_bytes()

    # Bytes at the end that change the content and nothing of the plan.
    for present in (content + b"\x0a\x40\x10\x00\x02\x00\x00\x00ab", content):
        plan.write_bytes(present)
        chain.tick_sensors(rounds=3)

    assert [outcome.error for _, _, outcome in chain.runs if not outcome.success] == []
    assert chain.runs_of("beam") == [beam_key(case, 2), beam_key(case, 3)] * 3
    assert chain.runs_of("conclusion") == [case] * 3
    assert chain.summary(case) == first


def test_a_setting_that_was_changed_back_before_anybody_looked_puts_the_marker_back(
    made: Made, tmp_path: Path
) -> None:
    chain = made(tmp_path / "site", {"rt_dose": {"bits": 32}})
    chain.deliver(plan=PLAN)
    chain.tick_sensors(rounds=2)
    (case,) = chain.runs_of("conclusion")
    first = chain.summary(case)

    for bits in (16, 32):
        chain.change({"rt_dose": {"bits": bits}})
        assert chain.run("beam", beam_key(case, 2)).success
    assert not (chain.handover / case / "_COMPLETE").exists()
    assert stage(chain, case) == "waiting"

    chain.tick_sensors(rounds=3)
    assert chain.runs_of("conclusion") == [case] * 2
    assert (chain.handover / case / "_COMPLETE").is_file()
    assert chain.summary(case) == first
    assert stage(chain, case) == "concluded"


@pytest.mark.slow
def test_a_hand_over_that_failed_halfway_and_was_taken_back_puts_the_marker_back(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", {"rt_dose": {"bits": 32}, "retention": {"case_days": 10}})
    chain.deliver(plan=PLAN)
    chain.tick_sensors(rounds=2)
    (case,) = chain.runs_of("conclusion")
    in_the_way = min((chain.handover / case).rglob("*_b02/*.dcm"))

    in_the_way.unlink()
    in_the_way.mkdir()
    chain.change({"rt_dose": {"bits": 16}})
    assert chain.run("beam", beam_key(case, 2)).code == "handover"
    assert not (chain.handover / case / "_COMPLETE").exists()
    later = datetime.now(UTC) + timedelta(days=11)
    assert not any(thing.name == case for thing in spare(chain.instance, chain.site, later, []))

    in_the_way.rmdir()
    chain.change({"rt_dose": {"bits": 32}})
    assert chain.run("beam", beam_key(case, 2)).success
    chain.tick_sensors(rounds=3)
    assert chain.runs_of("conclusion") == [case] * 2
    assert (chain.handover / case / "_COMPLETE").is_file()
    assert stage(chain, case) == "concluded"
