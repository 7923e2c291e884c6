"""No more courses are in a stage at once than may be, and a process that dies gives its turn back."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from mqi_dagster.compute import stage_slots
from mqi_dagster.compute.stage_slots import courses_at_once, stage_limit, stage_slot
from mqi_dagster.resources.site import Site
from mqi_dagster.settings.radiotherapy import Radiotherapy

HOLDER = """
import sys
from pathlib import Path
from mqi_dagster.compute.stage_slots import stage_slot
from mqi_dagster.resources.site import Site
with stage_slot(Site(Path(sys.argv[1])), "segmentation"):
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
        ({"workers": 4, "dvh": {"workers": 2}}, {"dvh": 2}),
    ],
)
def test_the_limits_are_those_of_the_table_of_workers(
    content: dict[str, object], limits: dict[str, int]
) -> None:
    settings = Radiotherapy.model_validate(content)
    assert {stage: stage_limit(settings, stage) for stage in limits} == limits


def test_auto_leaves_one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_slots, "processors", lambda: 8)
    assert courses_at_once(Radiotherapy.model_validate({})) == 7


def test_one_more_waits_until_one_has_left_and_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_slots, "_POLL_SECONDS", 0.01)
    said: list[str] = []
    waits, entered = threading.Event(), threading.Event()

    def third() -> None:
        with stage_slot(site, "organize", lambda text: (said.append(text), waits.set())):
            entered.set()

    with stage_slot(site, "organize"):
        with stage_slot(site, "organize"), stage_slot(site, "segmentation"):
            follower = threading.Thread(target=third, daemon=True)
            follower.start()
            assert waits.wait(30)
            assert not entered.is_set()
        assert entered.wait(30)
    follower.join(30)
    assert said == ["waits for its turn: 2 in the stage organize at once"]


def test_a_process_that_is_killed_gives_its_turn_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_slots, "_POLL_SECONDS", 0.01)
    command = [sys.executable, "-c", HOLDER, str(site.settings_file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "in\n"
        said: list[str] = []

        def end(text: str) -> None:
            said.append(text)
            holder.kill()

        with stage_slot(site, "segmentation", end):
            pass
    assert len(said) == 1


def test_an_error_gives_the_turn_back(site: Site) -> None:
    with pytest.raises(ValueError, match="broken"), stage_slot(site, "segmentation"):
        raise ValueError("broken")
    with stage_slot(site, "segmentation", pytest.fail):
        pass
