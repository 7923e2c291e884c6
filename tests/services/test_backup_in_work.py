"""A backup that is made while an engine runs becomes a site that goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.stack import Stack
from tests.services.test_services import made_once, one_engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def stacks(tmp_path: Path) -> Iterator[tuple[Stack, Stack]]:
    """A running site, and a folder that is to become its copy."""
    made = Stack(tmp_path / "first")
    copy = Stack(tmp_path / "second")
    # The settings that are restored name the first one's engine, which looks at its steering and its trace.
    copy.trace, copy.steer = made.trace, made.steer  # type: ignore[method-assign]
    try:
        made.start()
        yield made, copy
    finally:
        for stack in (made, copy):
            stack.stop()
            assert stack.processes() == {}


def test_every_case_of_a_restored_site_concludes_once(stacks: tuple[Stack, Stack], tmp_path: Path) -> None:
    first, second = stacks
    first.steer()
    done = first.case_of(first.deliver(seed=51, beams=2))
    first.wait_for_conclusion(done)
    first.steer(seconds=240)
    in_work = first.case_of(first.deliver(seed=52, beams=2))
    one_engine(first)
    first._mqi("backup", str(tmp_path / "backup"), "--site", str(first.site), "--data")
    assert len(first.engines()) == 1, "it was made in the middle of the work"
    # The machine is lost; the inbox and the hand-over folder are elsewhere.
    first.kill_everything()
    first.steer()
    for name in ("inbox", "handover"):
        shutil.rmtree(second.site / name)
        shutil.copytree(first.site / name, second.site / name)
    second._mqi("restore", str(tmp_path / "backup"), str(second.site), "--overwrite")
    second.start()
    second.wait_for_conclusion(in_work)
    assert second.markers() == sorted([done, in_work])
    made_once(second, in_work, 2, interrupted=True)
    made_once(second, done, 2)
    assert len(second.starts()) <= 2 + 2 + 1, "only the engine that was running was started again"
    assert second.ledger().leases.all() == []
