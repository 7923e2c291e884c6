"""A case from records to RT Doses by one command, and how its faults look."""

from __future__ import annotations

import json
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from mqi_dagster.cli.app import app
from mqi_dagster.embedded_engine.install import Installation
from mqi_dagster.errors import ConfigurationError, InputError, UnreachableError
from mqi_dagster.machine import Machines
from mqi_dagster.synthetic.defects import parse_defect
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest, Layout

ENGINE = """#!/bin/sh
case "$1" in *__b03*) if [ -e "$(dirname "$0")/broken" ]; then echo out of order; exit 3; fi;; esac
exec "{engine}" "$1"
"""
PHANTOM = {"dimension": [40, 40, 40], "unit_mm": [10, 10, 10], "position_mm": [-200, -200, -375]}


def write_case(inbox: Path, name: str, machines: Machines, *defects: str, **changes: Any) -> Path:
    request = DeliveryRequest(
        plan=BuiltInPlan(beams=2, layers=2, spots=9, layer_seconds=0.1),
        layout=Layout.SIMPLE,
        case_name=name,
        defects=tuple(parse_defect(text) for text in defects),
        patient_id="MARKID4711",
        **changes,
    )
    return simulate_delivery(request, machines.named("GENERIC"), inbox).folder


def mqi(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@dataclass(frozen=True)
class Story:
    """One folder run twice: with an engine that fails for beam 3, then with a whole one."""

    out: Path
    engine: Path
    case: str
    results: tuple[Result, ...]
    starts: tuple[int, ...]
    listed: tuple[Result, ...]
    shown: Result
    left_by_failure: tuple[str, ...]

    def beams(self, run: int) -> list[dict[str, Any]]:
        beams: list[dict[str, Any]] = json.loads(self.results[run].stdout)["cases"][0]["beams"]
        return beams


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, machines: Machines, mcsquare: Installation) -> Story:
    place = tmp_path_factory.mktemp("case-run")
    folder = write_case(place, "a case", machines)
    engine = place / "engine.sh"
    engine.write_text(ENGINE.replace("{engine}", str(Path(sys.executable).with_name("mqi-engine"))))
    engine.chmod(0o755)
    (place / "broken").touch()
    settings = place / "settings.yaml"
    profile = {"command": [str(engine), "{tps}"], "version": "1", "reads_beam_model": True}
    content = {
        "site": {"timezone": "Asia/Seoul"},
        "engine": {
            "phantom": PHANTOM,
            "profile": "fragile",
            "profiles": {"fragile": profile},
            "uncertainty_maximum_percent": 100.0,
        },
        "execution": {"attempts": 1},
        "paths": {"machines": str(Path(__file__).parents[2] / "mqi_dagster" / "config" / "machines")},
    }
    settings.write_text(yaml.safe_dump(content))
    out = place / "out"
    results, starts, listed, shown, left = [], [], [], None, ()
    for turn in range(2):
        results.append(
            mqi("case", "run", folder, "--out", out, "--settings", settings, "--histories", 10000, "--json")
        )
        starts.append(len((out / "state" / "engine_starts").read_text().splitlines()))
        listed.append(mqi("case", "list", "--site", out, "--json"))
        if turn == 0:
            case = json.loads(listed[0].stdout)[0]["case"]
            shown = mqi("case", "show", case, "--site", out, "--json")
            left = tuple(
                path.relative_to(out).as_posix()
                for root in ("data/.staging", "state/work", f"data/cases/{case}/b03", "handover")
                for path in sorted((out / root).rglob("*"))
                if path.is_file()
            )
            (place / "broken").unlink()
    assert shown is not None
    return Story(out, engine, case, tuple(results), tuple(starts), tuple(listed), shown, left)


def test_a_failing_beam_fails_the_case_and_not_the_other_beam(story: Story) -> None:
    assert story.results[0].exit_code == 1
    assert json.loads(story.results[0].stdout)["status"] == "failed"
    second, third = story.beams(0)
    assert (second["beam"], second["status"], second["layers"], second["units"]) == (2, "done", 2, "GY")
    assert second["rt_dose"] == f"handover/{story.case}/{story.case}__b02/rt_dose.dcm"
    assert (third["beam"], third["status"], third["rt_dose"]) == (3, "failed", None)
    assert f"beam {story.case}__b03" in third["error"] and "3" in third["error"]


def test_a_failed_beam_leaves_nothing_partial_and_no_completion_marker(story: Story) -> None:
    made = {name.split("/")[4] for name in story.left_by_failure if name.startswith("data/cases")}
    assert made == {"interpreted_csvs", "tps_file"}
    assert not [name for name in story.left_by_failure if name.startswith(("data/.staging", "state/work"))]
    assert not [name for name in story.left_by_failure if name.endswith("_COMPLETE")]
    assert f"handover/{story.case}/{story.case}__b02/rt_dose.dcm" in story.left_by_failure


def test_the_next_run_makes_what_is_missing_and_concludes(story: Story) -> None:
    assert story.results[1].exit_code == 0, story.results[1].stdout
    summary = json.loads(story.results[1].stdout)
    assert (summary["status"], summary["error"], len(summary["cases"])) == ("complete", None, 1)
    assert [beam["computed"] for beam in story.beams(1)] == [False, True]
    assert (story.out / "handover" / story.case / "_COMPLETE").is_file()
    for beam in story.beams(1):
        assert abs(beam["mu_ratio"] - 0.988) < 0.001
        assert beam["histories"] == 10000
        assert set(beam["digests"]) == {
            "interpreted_csvs", "tps_file", "raw_dose", "rt_dose", "handed_over"
        }  # fmt: skip


def test_what_was_made_before_starts_no_engine_and_keeps_its_digests(story: Story) -> None:
    assert story.starts == (2, 3)
    assert story.beams(1)[0]["digests"] == story.beams(0)[0]["digests"]


def test_once_more_it_is_concluded_again_and_the_marker_is_put_back(story: Story) -> None:
    marker = story.out / "handover" / story.case / "_COMPLETE"
    marker.unlink()
    folder = story.out.parent / "a case"
    again = mqi("case", "run", folder, "--out", story.out, "--json")
    assert again.exit_code == 0, again.stdout
    (case,) = json.loads(again.stdout)["cases"]
    assert (case["status"], case["error"]) == ("complete", None)
    assert [beam["computed"] for beam in case["beams"]] == [False, False]
    assert marker.is_file()


def test_the_list_says_where_the_case_stands(story: Story) -> None:
    before, after = (json.loads(listed.stdout)[0] for listed in story.listed)
    assert (before["state"], before["beams_done"], before["beams_total"]) == ("failed", 1, 2)
    assert "__b03" in before["reason"]
    assert (after["state"], after["beams_done"], after["beams_total"]) == ("complete", 2, 2)
    assert (after["fraction"], after["arrived"] is not None) == (1, True)


def test_the_list_can_be_of_one_state(story: Story) -> None:
    assert json.loads(mqi("case", "list", "--site", story.out, "--json", "--state", "failed").stdout) == []
    assert mqi("case", "list", "--site", story.out, "--state", "ended").exit_code == 2


def test_show_names_the_attempts_the_first_cause_and_the_real_paths(story: Story) -> None:
    report = json.loads(story.shown.stdout)
    attempts = {beam["result"]["beam"]: beam["attempts"] for beam in report["beams"]}
    assert [attempt["outcome"] for attempt in attempts[2]] == ["succeeded"]
    assert [attempt["outcome"] for attempt in attempts[3]] == ["failed"]
    assert "__b03" in report["first_cause"] and "mqi case retry" in report["next_step"]
    assert Path(report["plan"]).is_file() and len(report["deliveries"]) == 2
    text = mqi("case", "show", story.case, "--site", story.out).stdout
    assert report["plan"] in text and "attempt 1" in text


def test_the_folder_is_a_site_with_a_secret_of_its_own(story: Story) -> None:
    assert stat.S_IMODE((story.out / "secret").stat().st_mode) == 0o600
    assert {"mqi.yaml", "data", "state", "handover", "dagster", "config"} <= {
        path.name for path in story.out.iterdir()
    }


def test_no_log_of_a_run_names_the_patient_or_a_path(story: Story) -> None:
    logs = list((story.out / "state" / "logs").glob("*.log"))
    assert len(logs) == 4
    for log in logs:
        text = log.read_text()
        assert "MARKID4711" not in text and "a case" not in text


def test_retry_refuses_where_nothing_failed(story: Story) -> None:
    result = mqi("case", "retry", story.case, "--site", story.out)
    assert result.exit_code == 1
    assert isinstance(result.exception, InputError) and "nothing has failed" in str(result.exception)


@pytest.fixture
def failed_site(tmp_path: Path, machines: Machines) -> Path:
    """A site in which one case has failed its intake; no engine is needed."""
    folder = write_case(tmp_path, "case", machines, "truncated:beam=2,layer=1,bytes=8")
    out = tmp_path / "out"
    result = mqi("case", "run", folder, "--out", out, "--timezone", "UTC", "--json")
    assert result.exit_code == 1
    return out


def test_retry_asks_the_services_for_what_failed_alone(
    failed_site: Path, services: tuple[int, list[dict[str, Any]]]
) -> None:
    port, asked = services
    settings = failed_site / "mqi.yaml"
    settings.write_text(settings.read_text() + f"ui: {{port: {port}}}\n")
    case = json.loads(mqi("case", "list", "--site", failed_site, "--json").stdout)[0]["case"]
    result = mqi("case", "retry", case, "--site", failed_site, "--json")
    assert result.exit_code == 0, result.exception
    assert json.loads(result.stdout) == {case: "abcd"}
    wanted = asked[-1]["variables"]["backfill"]
    assert wanted["assetSelection"] == [{"path": ["case_manifest"]}]
    assert wanted["partitionNames"] == [case]
    assert (
        not any((failed_site / "handover").rglob("*")) and not (failed_site / "state/engine_starts").exists()
    )


def test_retry_without_services_says_how_to_start_them(failed_site: Path) -> None:
    settings = failed_site / "mqi.yaml"
    settings.write_text(settings.read_text() + "ui: {port: 1}\n")
    case = json.loads(mqi("case", "list", "--site", failed_site, "--json").stdout)[0]["case"]
    result = mqi("case", "retry", case, "--site", failed_site)
    assert isinstance(result.exception, UnreachableError) and "mqi dev" in str(result.exception)


def test_whoever_wants_the_services_to_hurry_is_sent_to_the_right_command() -> None:
    said = CliRunner().invoke(app, ["case", "run", "--help"], env={"COLUMNS": "400"}).output
    assert "Of several runs into one DIR that wait for a slot the highest is next" in said
    assert "`mqi case priority` does" in said


@pytest.mark.parametrize("out", [".", "results", ".."])
def test_no_result_is_written_among_what_was_delivered(tmp_path: Path, out: str) -> None:
    case = tmp_path / "inbox" / "1.2.3"
    case.mkdir(parents=True)
    (case / "plan.dcm").write_bytes(b"a plan")
    with pytest.raises(ConfigurationError, match="the results would stand among the delivered data"):
        CliRunner().invoke(app, ["case", "run", str(case), "--out", str(case / out)], catch_exceptions=False)
    assert [path.name for path in (tmp_path / "inbox").rglob("*")] == ["1.2.3", "plan.dcm"]
