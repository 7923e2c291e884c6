"""No more courses are in a stage at once than may be, and a process that dies gives its turn back."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from mqi_dagster.compute import stage_slots
from mqi_dagster.compute.stage_slots import stage_slot
from mqi_dagster.lifecycle.stages import stage_of
from mqi_dagster.processes import worker_counts
from mqi_dagster.processes.worker_counts import courses_at_once, stage_limit
from mqi_dagster.resources.site import Site
from mqi_dagster.settings.radiotherapy import Radiotherapy
from tests.waiting import wait_for


class Log:
    """What a step has said."""

    def __init__(self) -> None:
        self.said: Queue[str] = Queue()

    def info(self, text: str) -> None:
        self.said.put(text)


def context(course: str) -> Any:
    """Of a step of a course."""
    return SimpleNamespace(partition_key=course, run=SimpleNamespace(run_id=f"run-{course}"), log=Log())


def said(of: Any) -> str:
    """The next thing that a step says."""
    text = of.log.said.get(timeout=30)
    return str(text)


def reported(site: Site, course: str) -> tuple[str, str] | None:
    """Phase of a course and why it waits, as boards read them."""
    row = site.ledger.progress.get(course)
    return None if row is None else (row.phase, row.message)


HOLDER = """
import sys
from pathlib import Path
from mqi_dagster.compute.stage_slots import stage_slot
from mqi_dagster.resources.site import Site
from tests.assets.test_stage_slots import context
with stage_slot(context("R234567ABC.c02"), Site(Path(sys.argv[1])), "segmentation"):
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    content = {"site": {"timezone": "UTC"}, "radiotherapy": {"workers": 2}}
    (tmp_path / "mqi.yaml").write_text(yaml.safe_dump(content))
    return Site(tmp_path / "mqi.yaml")


@pytest.mark.parametrize(
    ("content", "limits"),
    [
        (
            {"workers": 4},
            {"organize": 4, "segmentation": 1, "segmentation_custom": 1, "crop_ct": 4, "dvh": 4},
        ),
        ({"workers": 4}, {"radiomics": 1, "visualize": 4, "qc": 4}),
        ({"workers": 4, "segmentation": {"workers": 3}}, {"segmentation": 3, "segmentation_custom": 1}),
        ({"workers": 4, "custom_models": {"workers": 9}}, {"segmentation_custom": 4}),
        ({"workers": 4, "segmentation": {"workers": "auto"}}, {"segmentation": 4}),
        ({"workers": 4, "dvh": {"workers": 2}}, {"dvh": 2}),
    ],
)
def test_the_limits_are_those_of_the_table_of_workers(
    content: dict[str, object], limits: dict[str, int]
) -> None:
    settings = Radiotherapy.model_validate(content)
    assert {stage: stage_limit(settings, stage) for stage in limits} == limits


def test_auto_leaves_one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_counts, "processors", lambda: 8)
    assert courses_at_once(Radiotherapy.model_validate({})) == 7


def test_one_more_waits_in_sight_until_one_has_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_slots, "_POLL_SECONDS", 0.01)
    entered = threading.Event()
    waits = context("R234567ABC.c03")

    def third() -> None:
        with stage_slot(waits, site, "organize"):
            entered.set()

    with stage_slot(context("R234567ABC.c01"), site, "organize"):
        with (
            stage_slot(context("R234567ABC.c02"), site, "organize"),
            stage_slot(context("R234567ABC.c02"), site, "segmentation"),
        ):
            follower = threading.Thread(target=third, daemon=True)
            follower.start()
            words = said(waits)
            assert words == "waits for its turn: 2 in the stage organize at once"
            wait_for(lambda: reported(site, "R234567ABC.c03") == ("organising", words), "it is reported", 30)
            assert not entered.is_set()
        assert entered.wait(30)
    follower.join(30)
    assert reported(site, "R234567ABC.c03") == ("organising", "")


def test_a_process_that_is_killed_gives_its_turn_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_slots, "_POLL_SECONDS", 0.01)
    command = [sys.executable, "-c", HOLDER, str(site.settings_file)]
    waits, entered = context("R234567ABC.c01"), threading.Event()

    def second() -> None:
        with stage_slot(waits, site, "segmentation"):
            entered.set()

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "in\n"
        follower = threading.Thread(target=second, daemon=True)
        follower.start()
        assert said(waits) == "waits for its turn: 1 in the stage segmentation at once"
        holder.kill()
    assert entered.wait(30)
    follower.join(30)


def test_an_error_gives_the_turn_back(site: Site) -> None:
    with pytest.raises(ValueError, match="broken"), stage_slot(context("a"), site, "segmentation"):
        raise ValueError("broken")
    free = context("b")
    with stage_slot(free, site, "segmentation"):
        assert free.log.said.empty()


def test_a_course_is_the_farther_the_later_its_stage(site: Site) -> None:
    stages = ("organize", "segmentation", "segmentation_custom", "crop_ct", "dvh", "radiomics", "visualize")
    found = []
    for stage in stages:
        with stage_slot(context("a"), site, stage):
            row = site.ledger.progress.get("a")
            assert row is not None
            found.append((stage_of(row.phase), row.percent))
    assert [stage.value for stage, _ in found] == [
        *("intake", "segmenting", "segmenting", "making_structures", "making_tables", "making_tables"),
        "concluding",
    ]
    # Of seven stages in which something is computed; `qc` names the same work as `visualize`.
    assert [percent for _, percent in found] == pytest.approx(
        [0, 14.286, 28.571, 42.857, 57.143, 71.429, 85.714], abs=1e-3
    )
