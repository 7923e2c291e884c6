"""A full disk hides no cause, and what dead workers left does not stay."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mqi_dagster.operations.services import clear_leftovers
from tests.chain.chain import Chain, deliver, faulty_engine


def test_the_engine_s_fault_is_told_though_its_log_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "mode").write_text("exit-1")
    chain = Chain(
        tmp_path / "site", {"engine": faulty_engine(tmp_path / "mode")}, given=deliver(tmp_path / "in").folder
    )
    case, _ = chain.run_intake()
    chain.site.engine_logs.parent.mkdir(parents=True, exist_ok=True)
    chain.site.engine_logs.write_text("no folder can be made here")

    (failed,) = chain.run_beams(case, [2])

    assert (failed.success, failed.code) == (False, "engine")
    assert "exit code 1" in failed.error
    assert [a.outcome for a in chain.site.ledger.attempts.history(f"{case}__b02")] == ["failed"]
    assert chain.site.ledger.leases.all() == []


def test_what_dead_workers_left_half_made_goes_and_present_work_stays(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", given=deliver(tmp_path / "in").folder)
    old, present = [], []
    for root in (chain.site.store.root / ".staging", chain.site.work):
        for found, name in ((old, "interpretation.old"), (present, "interpretation.new")):
            (root / name / "case").mkdir(parents=True)
            (root / name / "case" / "RP.dcm").write_bytes(b"a copy of the plan")
            found.append(root / name)
    yesterday = time.time() - 2 * 86400
    for folder in old:
        for path in (*folder.rglob("*"), folder):
            os.utime(path, (yesterday, yesterday))

    assert clear_leftovers(chain.site.settings) == len(old)
    assert not any(folder.exists() for folder in old)
    assert all((folder / "case" / "RP.dcm").is_file() for folder in present)
