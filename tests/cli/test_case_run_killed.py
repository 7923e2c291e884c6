"""`mqi case run` that is killed or interrupted: nothing looks in work for ever, and the next one goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.compute.run_workers import IN_WORK, end_dead_runs
from mqi_dagster.machine import Machines
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.resources.site import Site
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest, Layout
from tests.cli.mqi_command import mqi
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
ENGINE = """#!/bin/sh
if [ -e "{slow}" ]; then exec sleep 300; fi
exec "{python}" "{quick}" "$1"
"""
INTERRUPTING = """#!/bin/sh
kill -INT $PPID
exec sleep 300
"""
PHANTOM = {"dimension": [12, 12, 40], "unit_mm": [10, 10, 10], "position_mm": [-60, -60, -365]}


def states(site: Site) -> dict[str, str]:
    """The newest run of every partition, and how it stands."""
    with open_instance(site.settings) as instance:
        return {
            run.tags["dagster/partition"]: run.status.value
            for run in reversed(instance.get_runs(dg.RunsFilter(job_name="beam")))
        }


def words_for(folder: Path, machines: Machines, engine_text: str, beams: int) -> list[str]:
    """What follows `mqi` to run a new case with an engine of a site."""
    plan = BuiltInPlan(beams=beams, layers=1, spots=9, layer_seconds=0.05)
    request = DeliveryRequest(plan=plan, layout=Layout.SIMPLE, case_name="a case")
    case = simulate_delivery(request, machines.named("GENERIC"), folder / "in").folder
    engine, settings = folder / "engine.sh", folder / "settings.yaml"
    engine.write_text(engine_text)
    engine.chmod(0o755)
    profile = {"command": [str(engine), "{tps}"], "version": "1", "reads_beam_model": True}
    content = {
        "site": {"timezone": "Asia/Seoul"},
        "engine": {"profile": "test", "profiles": {"test": profile}, "histories": 100000, "phantom": PHANTOM},
        "paths": {"machines": str(ROOT / "mqi_dagster" / "config" / "machines")},
    }
    settings.write_text(yaml.safe_dump(content))
    return ["case", "run", str(case), "--out", str(folder / "out"), "--settings", str(settings), "--json"]


def test_an_interrupt_ends_the_command_and_not_only_the_beam_in_work(
    tmp_path: Path, machines: Machines
) -> None:
    words = words_for(tmp_path, machines, INTERRUPTING, beams=2)
    ended = mqi(*words)
    assert ended.returncode == 130, ended.stderr
    site = Site(tmp_path / "out" / "mqi.yaml")
    assert list(states(site).values()) == ["FAILURE"], "the second beam was not begun"


@pytest.mark.slow
def test_a_killed_command_leaves_no_run_in_work(tmp_path: Path, machines: Machines) -> None:
    slow, out = tmp_path / "slow", tmp_path / "out"
    slow.touch()
    quick = ROOT / "tests" / "engines" / "quick.py"
    engine = ENGINE.format(slow=slow, python=sys.executable, quick=quick)
    words = words_for(tmp_path, machines, engine, beams=1)
    command = [str(Path(sys.executable).with_name("mqi")), *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            wait_for((out / "state" / "engine_starts").exists, "an engine runs", 200)
            site = Site(out / "mqi.yaml")
            ((beam, state),) = states(site).items()
            with open_instance(site.settings) as instance:
                assert end_dead_runs(instance, site, IN_WORK, print) == 0, "it lives"
        finally:
            running.kill()
    assert state == "STARTED"
    with open_instance(site.settings) as instance:
        assert end_dead_runs(instance, site, IN_WORK, print) == 1
    assert states(site) == {beam: "FAILURE"}
    slow.unlink()
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["status"] == "complete"
    assert states(site) == {beam: "SUCCESS"}
