"""A tree of two courses by one command: run, run again, listed, shown, retried; and how faults look."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner, Result

from mqi_dagster.cli.app import app
from mqi_dagster.errors import ConfigurationError, InfrastructureError, InputError
from mqi_dagster.operations.course_worker import run_course
from mqi_dagster.operations.graphql import GraphQL
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.operations.site_folder import RunOptions, make_run_site
from mqi_dagster.resources.site import Site
from tests.cli import course_faults, mqi_command
from tests.courses.made_objects import Made
from tests.waiting import wait_for

ASSETS = [
    *("course_inventory", "auto_segmentation", "custom_segmentation", "structures", "dvh", "radiomics"),
    "course_report",
]


def write_courses(root: Path, count: int) -> None:
    for number in range(1, count + 1):
        made = Made(number).at(root)
        for content in made.whole():
            made.write(content)
    (root / "MARKNOTE4711.txt").write_text("a note")


def mqi(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run(root: Path, out: Path, *more: object) -> Result:
    return mqi("course", "run", "--dicom-root", root, "--out", out, *more)


def site_of(root: Path, out: Path, count: int) -> list[str]:
    """Make the folder of the results a site; the keys that its courses will have."""
    make_run_site(out, RunOptions(radiotherapy={"dicom_root": str(root)}, command="course run"))
    pseudonyms = Site(out / "mqi.yaml").pseudonyms
    return [f"{pseudonyms.patient(f'ID{number:03d}', None)}.c01" for number in range(1, count + 1)]


def answer(result: Result) -> Any:
    return json.loads(result.stdout)


def states(out: Path) -> dict[str, list[str]]:
    """How the runs of every course have ended, the latest first."""
    found: dict[str, list[str]] = {}
    with open_instance(Site(out / "mqi.yaml").settings) as instance:
        for one in instance.get_runs(dg.RunsFilter(job_name="course")):
            found.setdefault(one.tags["dagster/partition"], []).append(one.status.value)
    return found


def published(out: Path) -> dict[str, int]:
    """When each file of the store was written."""
    files = [path for path in (out / "data" / "courses").rglob("*") if path.is_file()]
    return {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in files}


@dataclass(frozen=True)
class Story:
    root: Path
    out: Path
    results: tuple[Result, Result]
    made: tuple[dict[str, int], dict[str, int]]

    @property
    def courses(self) -> list[str]:
        return [str(one["course"]) for one in answer(self.results[0])["courses"]]

    @property
    def course(self) -> str:
        return self.courses[0]

    def stage_log(self, stage: str) -> str:
        return (self.out / "state" / "logs" / "stages" / f"{stage}.log").read_text()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    place = tmp_path_factory.mktemp("courses")
    root, out = place / "tree", place / "out"
    write_courses(root, 2)
    first = run(root, out, "--workers", 2, "--json")
    made = published(out)
    again = run(root, out, "--json")
    return Story(root, out, (first, again), (made, published(out)))


def test_every_asset_of_every_course_is_made(story: Story) -> None:
    result = story.results[0]
    assert result.exit_code == 0, result.output
    found = answer(result)
    assert (found["status"], found["error"], len(found["courses"])) == ("complete", None, 2)
    for course in found["courses"]:
        assert (course["status"], course["error"]) == ("complete", None)
        assert list(course["digests"]) == ASSETS
    assert "rules_ct has failed" not in story.stage_log("segmentation")
    with open_instance(Site(story.out / "mqi.yaml").settings) as instance:
        assert instance.get_latest_materialization_event(dg.AssetKey("cohort_tables")) is not None


def test_a_second_run_computes_nothing(story: Story) -> None:
    first, again = (answer(result) for result in story.results)
    assert again["status"] == "complete"
    assert again["courses"] == first["courses"]
    # Every result is there once, and no file of it is another one or was written again.
    results = [(parts[2], parts[4]) for parts in {Path(path).parts[:6] for path in story.made[0]}]
    assert sorted(results) == sorted(
        [
            *((course, asset) for course in story.courses for asset in (*ASSETS, "course_rows")),
            ("_cohort", "cohort_tables"),
        ]
    )
    assert story.made[1] == story.made[0]
    assert states(story.out) == {course: ["SUCCESS", "SUCCESS"] for course in story.courses}
    assert story.stage_log("dvh").count("measuring 7 structures") == 2
    assert story.stage_log("segmentation").count("found in the store; no model is started") == 2
    log = (story.out / "state" / "logs" / "course_run.log").read_text()
    assert "13 files in the tree, 13 of them read now" in log
    assert "13 files in the tree, 0 of them read now" in log


def test_what_was_asked_for_stands_in_the_settings_of_the_folder(story: Story) -> None:
    radiotherapy = Site(story.out / "mqi.yaml").settings.radiotherapy
    assert (radiotherapy.workers, radiotherapy.dicom_root) == (2, story.root)


def test_services_that_are_started_later_run_none_of_them_again(story: Story) -> None:
    arrivals = Site(story.out / "mqi.yaml").ledger.arrivals
    assert len(arrivals.all()) == 2 and arrivals.open(10) == []


def test_progress_is_told_by_lines_and_kept_for_the_run_and_for_each_stage(story: Story) -> None:
    assert "Courses: 2/2 (100%) elapsed " in story.results[0].stderr
    assert "Segmentation: 2/2 (100%) elapsed " in story.results[0].stderr
    logs = story.out / "state" / "logs"
    assert "Courses: 2/2 (100%) elapsed " in (logs / "course_run.log").read_text()
    assert {path.stem for path in (logs / "stages").iterdir()} == {
        *("organize", "segmentation", "segmentation_custom", "crop_ct", "dvh", "radiomics", "visualize")
    }
    organize = story.stage_log("organize")
    assert "Organize: 2/2 (100%) elapsed " in organize
    assert f'{story.course} Finished execution of step "course_inventory"' in organize


def test_no_log_and_no_record_names_a_patient_or_a_path(story: Story) -> None:
    logs = {path.stem: path for path in (story.out / "state" / "logs").rglob("*.log")}
    assert {"course_run", "organize", "visualize", *(f"{one}.course" for one in story.courses)} <= set(logs)
    with open_instance(Site(story.out / "mqi.yaml").settings) as instance:
        told = [entry.to_json() for run in instance.get_runs() for entry in instance.all_logs(run.run_id)]
    assert sum("ASSET_MATERIALIZATION" in text for text in told) >= 2 * 15
    texts = [*(log.read_text() for log in logs.values()), *(one.stderr for one in story.results), *told]
    for word in ("Made^", "ID00", "MARKNOTE", str(story.root), "1.2.826", "19600101"):
        assert not [text for text in texts if word in text]


def test_the_list_is_of_courses_and_that_of_cases_of_cases(story: Story) -> None:
    rows = answer(mqi("course", "list", "--site", story.out, "--json"))
    assert len(rows) == 2
    assert {row["row"]["fraction"] for row in rows} == {None}
    # Their structures have no contours.
    assert all(row["row"]["arrived"] is not None and row["verdict"] == "WARNING" for row in rows)
    assert answer(mqi("case", "list", "--site", story.out, "--json")) == []
    text = mqi("course", "list", "--site", story.out).stdout
    assert story.course in text and "verdict" in text
    assert answer(mqi("course", "list", "--site", story.out, "--json", "--state", "failed")) == []


@pytest.mark.slow
def test_the_board_shows_courses_as_it_shows_cases(story: Story) -> None:
    # In a process of its own, which only reads.
    board = json.loads(mqi_command.mqi("top", "--site", story.out, "--json").stdout)
    assert {row["case"] for row in board["cases"]} == {
        one["course"] for one in answer(story.results[0])["courses"]
    }
    assert story.course in mqi_command.mqi("top", "--site", story.out, "--once").stdout


def test_show_tells_what_belongs_to_it_and_where_that_lies(story: Story) -> None:
    found = answer(mqi("course", "show", story.course, "--site", story.out, "--json"))
    told = {one["role"]: one["words"] for one in found["objects"]}
    assert told == {
        "plan": "60 Gy, 30 fractions",
        "dose": "PLAN, PHYSICAL, GY",
        "structure set": "2 structures",
        "series": "CT, 3 images, analysed",
    }
    assert all(Path(one["path"]).is_file() for one in found["objects"])
    assert found["doses"] == ["single_dose: dose 1"]
    assert [one["asset"] for one in found["results"]] == ASSETS
    assert Path(found["results"][0]["folder"], "inventory.json").is_file()
    assert found["first_cause"] is None
    text = mqi("course", "show", story.course, "--site", story.out).stdout
    assert found["objects"][0]["path"] in text and "single_dose" in text


def test_whose_courses_are_is_written_into_a_file_of_its_owner_alone(story: Story, tmp_path: Path) -> None:
    file = tmp_path / "patients.csv"
    result = mqi("course", "identities", "--out", file, "--site", story.out)
    assert result.exit_code == 0 and "2 courses: this file names patients" in result.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    head, *rows = file.read_text().splitlines()
    assert head == "course,patient_id,issuer_of_patient_id,patient_name"
    known = {row.partition(",")[0]: row.partition(",")[2] for row in rows}
    assert list(known) == sorted(story.courses)
    assert sorted(known.values()) == ["ID001,,Made^Number1", "ID002,,Made^Number2"]
    found = answer(mqi("course", "show", story.course, "--site", story.out, "--json"))["patient"]
    assert known[story.course] == f"{found['patient_id']},,{found['names'][0]}"
    assert "Made^" not in mqi("course", "show", story.course, "--site", story.out).stdout


@pytest.mark.slow
def test_keys_are_the_same_in_a_folder_that_has_the_same_secret(story: Story, tmp_path: Path) -> None:
    def keys(out: Path) -> list[str]:
        result = run(story.root, out, "--stage", "organize", "--json")
        return [one["course"] for one in answer(result)["courses"]]

    (tmp_path / "same").mkdir()
    shutil.copy(story.out / "secret", tmp_path / "same" / "secret")
    assert keys(tmp_path / "same") == story.courses
    assert not set(keys(tmp_path / "other")) & set(story.courses)


@pytest.mark.parametrize("key", ["RAAAAAAAAA.c01", "P123456789.fx0001", "nonsense"])
def test_a_course_that_nobody_knows_is_refused(story: Story, key: str) -> None:
    result = mqi("course", "show", key, "--site", story.out)
    assert isinstance(result.exception, InputError)
    assert "mqi course list" in str(result.exception)


def test_retry_refuses_where_nothing_failed(story: Story) -> None:
    result = mqi("course", "retry", story.course, "--site", story.out)
    assert isinstance(result.exception, InputError) and "nothing has failed" in str(result.exception)


def test_cancel_refuses_where_nothing_runs(
    story: Story, services: tuple[int, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = GraphQL(f"http://127.0.0.1:{services[0]}")
    monkeypatch.setattr("mqi_dagster.cli.run_control.services_of", lambda _: there)
    result = mqi("course", "cancel", story.course, "--site", story.out)
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == f"nothing to cancel: no run of {story.course} is queued or in work"
    result = mqi("course", "cancel", "P123456789.fx0001", "--site", story.out)
    assert isinstance(result.exception, InputError) and "no course key" in str(result.exception)


@pytest.mark.slow
def test_one_stage_after_another(tmp_path: Path) -> None:
    root, out = tmp_path / "tree", tmp_path / "out"
    write_courses(root, 1)
    early = run(root, out, "--stage", "dvh")
    assert isinstance(early.exception, InputError)
    assert "no course is organised yet: run `--stage organize` first" in str(early.exception)
    organised = run(root, out, "--stage", "organize", "--json")
    assert organised.exit_code == 0, organised.output
    (course,) = answer(organised)["courses"]
    assert list(course["digests"]) == ["course_inventory"]
    skipped = run(root, out, "--stage", "dvh", "--json")
    assert skipped.exit_code == 1
    assert answer(skipped)["courses"][0]["error"] == (
        "what it needs is not made yet: run `--stage crop_ct` first"
    )
    rest = (
        "--stage",
        "segmentation",
        "--stage",
        "segmentation_custom",
        "--stage",
        "crop_ct",
        "--stage",
        "dvh",
    )
    assert [path for path in published(out) if "course_inventory" not in path] == []
    made = run(root, out, *rest, "--course", course["course"], "--json")
    assert made.exit_code == 0, made.output
    assert list(answer(made)["courses"][0]["digests"]) == [
        *("course_inventory", "auto_segmentation", "custom_segmentation", "structures", "dvh")
    ]


def test_a_killed_process_is_tried_again_and_a_damaged_course_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = tmp_path / "tree", tmp_path / "out"
    write_courses(root, 2)
    monkeypatch.setattr("mqi_dagster.operations.course_run.run_course", course_faults.run_course)
    damaged, killed = site_of(root, out, 2)
    early = run(root, out, "--stage", "dvh")
    assert "no course is organised yet: run `--stage organize` first" in str(early.exception)
    course_faults.use(out, {damaged: "damaged", killed: "killed once"})
    result = run(root, out, "--workers", 2, "--stage", "organize", "--json")
    assert result.exit_code == 1
    found = {one["course"]: one for one in answer(result)["courses"]}
    assert "a file of the course is damaged" in found[damaged]["error"]
    assert (found[killed]["status"], list(found[killed]["digests"])) == ("complete", ["course_inventory"])
    assert states(out) == {damaged: ["FAILURE"], killed: ["SUCCESS", "FAILURE"]}
    skipped = run(root, out, "--stage", "dvh", "--json")
    assert skipped.exit_code == 1
    assert [(one["course"], one["error"]) for one in answer(skipped)["courses"]] == [
        (killed, "what it needs is not made yet: run `--stage crop_ct` first")
    ]


@pytest.mark.slow
def test_faults_of_courses_are_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, services: tuple[int, list[dict[str, Any]]]
) -> None:
    root, out = tmp_path / "tree", tmp_path / "out"
    write_courses(root, 3)
    monkeypatch.setattr("mqi_dagster.operations.course_run.run_course", course_faults.run_course)
    damaged, killed, starved = site_of(root, out, 3)
    course_faults.use(out, {damaged: "damaged", killed: "killed once", starved: "no memory once"})
    result = run(root, out, "--workers", 2, "--json")
    assert result.exit_code == 1
    found = {one["course"]: one for one in answer(result)["courses"]}
    assert found[damaged]["status"] == "failed"
    assert "a file of the course is damaged" in found[damaged]["error"]
    assert [found[key]["status"] for key in (killed, starved)] == ["complete", "complete"]
    assert list(found[killed]["digests"]) == list(found[starved]["digests"]) == ASSETS
    ended = states(out)
    assert [ended[key] for key in (killed, starved)] == [["SUCCESS", "FAILURE"]] * 2
    assert ended[damaged] == ["FAILURE"]
    assert "its process was ended by SIGKILL: again at 1 worker" in result.stderr
    assert (
        "its process was ended by SIGKILL: again at 1 worker"
        in (out / "state" / "logs" / "course_run.log").read_text()
    )
    _ask_again(out, damaged, services)


def _ask_again(out: Path, damaged: str, services: tuple[int, list[dict[str, Any]]]) -> None:
    port, asked = services
    settings = out / "mqi.yaml"
    settings.write_text(settings.read_text() + f"ui: {{port: {port}}}\n")
    shown = answer(mqi("course", "show", damaged, "--site", out, "--json"))
    assert "a file of the course is damaged" in shown["first_cause"]
    assert shown["next_step"] == "correct the files in the tree: what has changed is organised anew"
    result = mqi("course", "retry", damaged, "--site", out, "--json")
    assert result.exit_code == 0, result.exception
    assert answer(result) == {damaged: "abcd"}
    wanted = asked[-1]["variables"]["backfill"]
    assert wanted["assetSelection"] == [{"path": [asset]} for asset in ASSETS]
    assert wanted["partitionNames"] == [damaged]


@pytest.mark.slow
def test_an_interrupt_leaves_no_process_and_no_half_result(tmp_path: Path) -> None:
    root, out = tmp_path / "tree", tmp_path / "out"
    write_courses(root, 1)
    (key,) = site_of(root, out, 1)
    course_faults.use(out, {key: "hangs"})
    words = ["course", "run", "--dicom-root", str(root), "--out", str(out)]
    command = [sys.executable, "-m", "tests.cli.course_faults", *words]
    met = out / f"{key}.met"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            wait_for(lambda: met.exists() and met.read_text().endswith("\n"), "the course is in work", 120)
            running.send_signal(signal.SIGINT)
            running.wait(60)
        finally:
            running.kill()
    assert running.returncode == 130
    assert not Path("/proc", met.read_text().split()[0]).exists()
    assert states(out) == {key: ["FAILURE"]}
    assert published(out) == {}


def test_a_database_that_cannot_be_written_says_what_to_look_at(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OperationalError("INSERT INTO event_logs", {}, sqlite3.OperationalError("disk I/O error"))

    monkeypatch.setattr("mqi_dagster.operations.course_worker.execute_here", full)
    with pytest.raises(
        InfrastructureError, match=r"\(disk I/O error\): see whether the disk is full"
    ) as told:
        run_course(str(story.out / "mqi.yaml"), story.course, ASSETS)
    assert "INSERT" not in str(told.value)


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("--totalseg-fast", "which mode TotalSegmentator runs in"),
        ("--logs=here", "logs stand in `state/logs`"),
        ("--force-segmentation", "nothing is forced"),
    ],
)
def test_an_option_of_rtpipeline_that_can_do_nothing_is_refused(
    tmp_path: Path, option: str, why: str
) -> None:
    result = mqi("course", "run", "--out", tmp_path / "out", option)
    assert isinstance(result.exception, ConfigurationError)
    assert why in str(result.exception) and option.partition("=")[0] in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_an_option_that_nobody_knows_and_a_missing_folder_are_mistakes_of_usage(tmp_path: Path) -> None:
    assert mqi("course", "run", "--out", tmp_path / "out", "--seg-wrokers", "2").exit_code == 2
    assert mqi("course", "run", "--dicom-root", tmp_path).exit_code == 2
    assert mqi("course", "run", "--out", tmp_path / "out", "--stage", "dhv").exit_code == 2


@pytest.mark.parametrize("out", [".", "results", ".."])
def test_no_result_is_written_among_the_files(tmp_path: Path, out: str) -> None:
    root = tmp_path / "all" / "tree"
    root.mkdir(parents=True)
    (root / "file").touch()
    result = run(root, root / out)
    assert isinstance(result.exception, ConfigurationError)
    assert "the results would stand among the delivered data" in str(result.exception)
    assert [path.name for path in (tmp_path / "all").rglob("*")] == ["tree", "file"]


def test_without_a_tree_it_says_which_setting_is_missing(tmp_path: Path) -> None:
    result = mqi("course", "run", "--out", tmp_path / "out")
    assert isinstance(result.exception, ConfigurationError)
    assert "radiotherapy.dicom_root" in str(result.exception)


def test_a_tree_without_courses_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "file").write_text("a note")
    result = run(root, tmp_path / "out", "--json")
    assert result.exit_code == 1
    assert "the tree holds no course" in answer(result)["error"]
