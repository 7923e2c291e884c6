"""An inbox with every bad entry at once: three good cases conclude, each entry is told with its reason."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import pytest

from tests.delivery.bad_entries import (
    BEAM,
    damaged_vr,
    deflate_bomb,
    delivery,
    far_time,
    name_not_utf8,
    nested_folders,
    nested_sequences,
    on_tmpfs,
    plan,
)
from tests.dicom.dicom_files import deflated
from tests.services.stack import Stack
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WAITING = {
    "deep": "folders are nested more than 32 deep (intake.max_folder_depth)",
    "far": "the time of a file lies beyond the year 9999",
    "name": "is not UTF-8: rename it",
    "sparse record": "a record in it has 10,000,000,000 bytes, more than 500 MB (intake.max_record_mb)",
    "sparse text": "a PlanInfo in it has 4,000,000,000 bytes, more than 500 MB (intake.max_record_mb)",
    "link": "is a link that leads out of the inbox or nowhere",
}
PLANS = {
    "cut": deflated(plan(PatientComments="w" * 4000))[:-9],
    "vr": damaged_vr(),
    "nested": nested_sequences(3000),
    "bomb": deflate_bomb(6_000_000_000),
    "random": os.urandom(5000),
    "empty": b"",
}
"""Plans that cannot be read: their cases fail in sight."""


@pytest.fixture
def inbox() -> Iterator[Path]:
    folder = on_tmpfs("bad-inbox")
    yield folder
    shutil.rmtree(folder)


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as stream:
        stream.truncate(size)


def fill(inbox: Path) -> None:
    """Every bad entry but the nested folders."""
    for name, content in PLANS.items():
        delivery(inbox / name / BEAM)
        (inbox / name / "RP.dcm").write_bytes(content)
    name_not_utf8(inbox)
    delivery(inbox / "far" / BEAM)
    far_time(inbox / "far")
    sparse(delivery(inbox / "sparse record" / BEAM) / "1.ptn", 10_000_000_000)
    sparse(delivery(inbox / "sparse text" / BEAM) / "PlanInfo.txt", 4_000_000_000)
    (inbox / "link").symlink_to("/nowhere")


def listed(services: Stack) -> list[dict[str, str]]:
    """The cases as the command shows them."""
    return list(
        json.loads(services._mqi("case", "list", "--site", str(services.site), "--limit", "0", "--json"))
    )


def failed_ticks(instance: dg.DagsterInstance) -> list[str]:
    failures = []
    for state in instance.all_instigator_state():
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id)
        failures += [f"{state.name}: {tick.error}" for tick in ticks if tick.status.value == "FAILURE"]
    return failures


def test_every_bad_entry_at_once_beside_three_good_cases(tmp_path: Path, inbox: Path) -> None:
    services = Stack(
        tmp_path / "stack",
        {"paths": {"inbox": str(inbox)}, "intake": {"stable_seconds": 1, "scan_interval_seconds": 2}},
    )
    services.inbox = inbox
    with ExitStack() as stack:
        stack.enter_context(nested_folders(inbox, 1500))
        fill(inbox)
        stack.enter_context(services.running())
        good = [services.case_of(services.deliver(seed, beams=1)) for seed in (1, 2, 3)]
        for case in good:
            services.wait_for_conclusion(case)
        with services.opened() as instance:

            def all_told() -> bool:
                runs = instance.get_runs(
                    dg.RunsFilter(job_name="intake", statuses=[dg.DagsterRunStatus.FAILURE])
                )
                return len({run.tags["dagster/partition"] for run in runs}) == len(PLANS)

            wait_for(all_told, "every unreadable plan has failed in sight", 300, report=services.report)
            assert failed_ticks(instance) == []
        rows = {row["case"]: row for row in listed(services)}
        assert {rows[case]["stage"] for case in good} == {"concluded"}
        others = [row for case, row in rows.items() if case not in good]
        assert len(others) == len(WAITING) + len(PLANS)
        for reason in WAITING.values():
            assert sum(reason in row["reason"] for row in others) == 1, (reason, others)
        failed = [row for row in others if row["state"] == "failed"]
        assert len(failed) == len(PLANS)
        assert all("RT plan" in row["reason"] for row in failed), failed
