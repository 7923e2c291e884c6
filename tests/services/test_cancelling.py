"""`mqi case cancel` with Dagster's real services: the engine is gone, the slot is free, a retry goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mqi_dagster.lifecycle.case_reading import read_case
from mqi_dagster.resources.site import Site
from tests.courses.made_objects import Made
from tests.imaging.models.model_folders import command_card, write_card
from tests.services.stack import HOLD, MQI, Stack
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Stack]:
    """A site of its own, with one slot and engines that do not end by themselves."""
    made = Stack(tmp_path / "stack")
    with made.running():
        made.steer(seconds=HOLD)
        yield made


def at_work(site: Stack, *, seed: int, beams: int = 3) -> str:
    """A case whose first engine runs."""
    case = site.case_of(site.deliver(seed=seed, beams=beams))
    wait_for(lambda: site.engines() and site.starts(), "an engine runs", 240, report=site.report)
    wait_for(lambda: len(site.runs("beam")) == beams, "a run for each beam", report=site.report)
    return case


def command(site: Stack, *words: str) -> tuple[int, Any, str]:
    """Status, JSON and standard error of a command."""
    done = subprocess.run(
        [str(MQI), *words, "--site", str(site.site), "--json"], capture_output=True, text=True, timeout=300
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def stages(site: Stack, case: str) -> dict[str, str | None]:
    """Stage of a case and of its beams, and what to do."""
    with site.opened() as instance:
        found = read_case(instance, Site(site.settings_file), case)
    rows = {"case": found.case, **{str(number): beam for number, beam in found.beams.items()}}
    return {name: f"{row.stage.value}: {row.next_step}" for name, row in rows.items()}


CANCELLED = "cancelled: `mqi case retry` once the cause is gone"


def test_a_case_in_work_is_gone_when_the_command_returns_and_is_made_by_a_retry(site: Stack) -> None:
    case = at_work(site, seed=91)
    beams = [f"{case}__b{number:02d}" for number in (2, 3, 4)]
    runs = {run.tags["dagster/partition"]: run.run_id for run in site.runs("beam")}
    assert command(site, "case", "cancel", case) == (0, {"cancelled": runs, "going_on": []}, "")
    assert sorted(runs) == beams
    assert site.engines() == {}
    assert site.ledger().leases.all() == []
    assert [run.status for run in site.runs("beam")] == [dg.DagsterRunStatus.CANCELED] * 3
    assert list((site.site / "state/work").iterdir()) == []
    assert stages(site, case) == dict.fromkeys(("case", "2", "3", "4"), CANCELLED)
    again = command(site, "case", "cancel", case)
    assert (again[0], again[2]) == (
        1,
        f"mqi: nothing to cancel: no run of {case} is queued or in work\n",
    )
    # Before the daemon has made a run of it, a retry is a backfill: that is ended as well.
    status, launched, _ = command(site, "case", "retry", case, "--beam", "3")
    assert (status, list(launched)) == (0, beams[1:2])
    status, ended, _ = command(site, "case", "cancel", beams[1])
    assert (status, list(ended["cancelled"])) == (0, beams[1:2])
    site.steer()
    assert command(site, "case", "retry", case)[0] == 0
    site.wait_for_conclusion(case)
    assert site.materialised("raw_dose") == dict.fromkeys(beams, 1)


def test_a_worker_that_its_code_location_has_forgotten_ends_with_its_engine(site: Stack) -> None:
    case = at_work(site, seed=92, beams=1)
    site.crash("code")()
    wait_for(lambda: site.answers("code"), "the code location is there again")
    assert site.engines() != {}, "an engine needs no code location"
    status, found, _ = command(site, "case", "cancel", case)
    assert (status, list(found["cancelled"]), found["going_on"]) == (0, [f"{case}__b02"], [])
    assert (site.engines(), site.ledger().leases.all()) == ({}, [])
    assert stages(site, case)["2"] == CANCELLED


def test_without_services_it_says_so_and_ends_nothing(site: Stack) -> None:
    case = at_work(site, seed=93, beams=1)
    site.kill("pages")
    status, _, error = command(site, "case", "cancel", case)
    assert (status, error.partition(" at ")[0]) == (1, "mqi: nobody answers")
    assert site.engines() != {}


def test_a_course_in_work_is_gone_with_its_model(tmp_path: Path) -> None:
    tree, model = tmp_path / "tree", tmp_path / "models" / "made"
    tree.mkdir()
    argv = [sys.executable, "-I", "-S", "{model}/sleeps.py", "{input:CT}", "{output}"]
    write_card(model, command_card(*argv))
    (model / "sleeps.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    section = {"dicom_root": str(tree), "scan_minutes": 0.02, "workers": 1}
    section |= {"segmentation": {"enabled": False}, "custom_models": {"root": str(model.parent)}}
    site = Stack(tmp_path / "stack", {"radiotherapy": section})
    with site.running():
        made = Made(1).at(tree)
        for content in made.whole():
            made.write(content)
        wait_for(lambda: site.processes("sleeps.py"), "the model runs", 240, report=site.report)
        (run,) = site.runs("course")
        course = run.tags["dagster/partition"]
        status, told, _ = command(site, "course", "cancel", course)
        assert (status, told) == (0, {"cancelled": {course: run.run_id}, "going_on": []})
        assert site.processes("sleeps.py") == {}
        assert site.ledger().leases.all() == []
        (row,) = command(site, "course", "list")[1]
        assert (row["row"]["stage"], row["row"]["next_step"]) == (
            "cancelled",
            "`mqi course retry` once the cause is gone",
        )
