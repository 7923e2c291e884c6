"""`mqi validate`: every wrong key by its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.machine import PACKAGED_MACHINES
from tests.cli.mqi_command import mqi


@pytest.fixture
def site(tmp_path: Path) -> Path:
    machines = tmp_path / "config" / "machines"
    machines.mkdir(parents=True)
    for name in ("g2.yaml", "generic.yaml"):
        (machines / name).write_bytes((PACKAGED_MACHINES / name).read_bytes())
    (tmp_path / "mqi.yaml").write_text("site: {timezone: Asia/Seoul}\n")
    return tmp_path


def validate(place: Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["validate", str(place)], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_right_files_are_said_to_be_right(site: Path) -> None:
    for place in (site, site / "mqi.yaml"):
        assert validate(place) == (0, f"{site / 'mqi.yaml'}: settings and machine files are right\n")


def test_every_wrong_key_is_named(site: Path) -> None:
    (site / "mqi.yaml").write_text(
        "site: {timezone: Asia/Atlantis}\n"
        "engine: {histories: 1, embeded: {}}\n"
        "execution: {max_runs: many}\n"
        "handover: {template: <beam>}\n"
    )
    code, output = validate(site)
    assert code == 1
    assert [line.split(": ")[1] for line in output.splitlines()] == [
        "site.timezone",
        "engine.histories",
        "engine.embeded",
        "execution.max_runs",
        "handover.template",
    ]


def test_a_wrong_machine_file_is_named_with_its_keys(site: Path) -> None:
    path = site / "config/machines/g2.yaml"
    path.write_text(path.read_text().replace("row_period_ms: 0.06", "row_period_ms: 0\n  rows: 3"))
    code, output = validate(site)
    assert code == 1
    assert output.startswith("machine file g2.yaml: ")
    assert "record.row_period_ms: " in output
    assert "record.rows: " in output


def test_two_files_of_one_machine_are_an_error(site: Path) -> None:
    text = (site / "config/machines/g2.yaml").read_text()
    (site / "config/machines/copy.yaml").write_text(text)
    code, output = validate(site)
    assert code == 1
    assert "stands in two machine files" in output


def test_a_site_without_machine_files_is_wrong(site: Path) -> None:
    for path in (site / "config/machines").iterdir():
        path.unlink()
    assert validate(site)[0] == 1


def test_an_expected_error_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    done = mqi("validate", tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"mqi: {tmp_path} is no site: it has no mqi.yaml; name one by --site or MQI_SITE,"
        f" or make one: mqi init {tmp_path}\n"
    )
