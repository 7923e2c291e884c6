"""What stands at the target belongs together: the marker never vouches for a dose it does not know."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from mqi_dagster.partitions import beam_key
from tests.chain.chain import PLAN, Chain, quick_engine


def concluded(chain: Chain) -> str:
    chain.deliver(plan=PLAN)
    chain.tick_sensors(rounds=2)
    (case,) = chain.runs_of("conclusion")
    assert (chain.handover / case / "_COMPLETE").is_file()
    return case


def test_the_marker_goes_before_another_dose_comes_and_returns_with_its_summary(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", {"rt_dose": {"bits": 32}})
    case = concluded(chain)
    chain.change({"rt_dose": {"bits": 16}})

    assert chain.run_beams(case, [2])[0].success
    assert not (chain.handover / case / "_COMPLETE").exists()

    chain.tick_sensors(rounds=2)
    assert (chain.handover / case / "_COMPLETE").is_file()
    (dose,) = (chain.handover / case / beam_key(case, 2)).glob("rt_dose.dcm")
    files = [entry for beam in chain.summary(case)["beams"] for entry in beam["files"]]
    assert hashlib.sha256(dose.read_bytes()).hexdigest() in {entry["sha256"] for entry in files}


def test_the_same_dose_handed_over_again_leaves_the_marker(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    case = concluded(chain)
    assert chain.run_asset("handed_over", beam_key(case, 2)).success
    assert (chain.handover / case / "_COMPLETE").is_file()


@pytest.mark.slow
def test_a_raw_dose_made_again_alone_is_not_mixed_with_the_old_rt_dose(tmp_path: Path) -> None:
    chain = Chain(
        tmp_path / "site", {"handover": {"raw_dose": True}, "engine": {**quick_engine(), "seed": 1}}
    )
    case = concluded(chain)
    before = chain.summary(case)
    chain.change({"engine": {**quick_engine(), "seed": 2}})
    key = beam_key(case, 2)
    assert chain.run_asset("raw_dose", key).success
    assert chain.digest("raw_dose", key) != before["beams"][0]["raw_dose"]["digest"]

    assert chain.run_asset("handed_over", key).success
    assert chain.conclude(case).success
    assert chain.summary(case) == before
    handed = json.loads((chain.handover / case / key / "receipt.json").read_bytes())
    assert handed["entries"] == before["beams"][0]["files"]


def test_an_rt_dose_that_was_not_handed_over_holds_the_conclusion(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", {"rt_dose": {"bits": 32}})
    case = concluded(chain)
    chain.change({"rt_dose": {"bits": 16}})
    assert chain.run_asset("rt_dose", beam_key(case, 2)).success
    assert chain.run_asset("handed_over", beam_key(case, 3)).success
    chain.tick_sensors(rounds=2)
    assert chain.runs_of("conclusion") == [case]
    assert not chain.conclude(case).success
