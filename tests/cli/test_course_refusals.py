"""What `mqi course run` refuses before anything is computed or written, all of it at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mqi_dagster.cli.app import app
from mqi_dagster.errors import ConfigurationError, InputError
from mqi_dagster.settings import read_settings

STRUCTURES = """\
custom_structures:
  - {name: PTV_crop, operation: crop, source_structures: [PTV, Body], distance: 3}
  - {name: A, source_structures: [B]}
  - {name: B, source_structures: [C, GTV]}
  - {name: C, source_structures: [A]}
  - {name: Ring, operation: ring, source_structures: [PTV], outer_mm: 20}
  - {name: Ring, operation: ring, source_structures: [PTV], outer_mm: 30}
"""
FAULTS = [
    "radiotherapy.structures.custom_structures: definition 1 (PTV_crop): distance: there is no such key;"
    " did you mean distance_mm?",
    "radiotherapy.structures.custom_structures: Ring: is defined twice",
    "radiotherapy.structures.custom_structures: A: needs itself: A → B → C → A",
]


def mqi(*arguments: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=env)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    return folder


@pytest.fixture
def wrong_files(tmp_path: Path) -> Path:
    """A configuration whose files are all wrong."""
    (tmp_path / "structures.yaml").write_text(STRUCTURES)
    (tmp_path / "goals.yaml").write_text("name: made\nversion: '1'\ngoals: [{structure: PTV}]\n")
    (tmp_path / "pyradiomics.yaml").write_text("imageType: {Original: {}}\n")
    file = tmp_path / "configuration.yaml"
    file.write_text(
        "custom_structures: structures.yaml\ndvh: {goals: goals.yaml}\n"
        "radiomics: {params_file: pyradiomics.yaml}\n"
    )
    return file


def said(result: Result) -> list[str]:
    assert isinstance(result.exception, ConfigurationError) and result.exit_code == 1
    head, *faults = result.exception.message.splitlines()
    assert head == "files that the settings name cannot be used:"
    return faults


def test_every_file_that_cannot_be_used_is_named_before_anything_is_written(
    tree: Path, wrong_files: Path
) -> None:
    out = tree.parent / "out"
    run = ("course", "run", "--dicom-root", tree, "--out", out, "--config", wrong_files)
    faults = said(mqi(*run))
    assert [one for one in faults if "custom_structures" in one] == FAULTS
    others = [one.split(": ")[0] for one in faults if "custom_structures" not in one]
    assert set(others) == {"radiotherapy.dvh.goals", "radiotherapy.radiomics.params_file"}
    assert not out.exists()
    assert {one.split(": ")[0] for one in said(mqi(*run, "--stage", "dvh"))} == {"radiotherapy.dvh.goals"}
    wrong_files.write_text(wrong_files.read_text().replace("radiomics: {", "radiomics: {enabled: false, "))
    assert not [one for one in said(mqi(*run)) if "params_file" in one]
    # Of what this stage reads nothing is wrong; there is only no course in the tree.
    assert isinstance(mqi(*run, "--stage", "organize").exception, InputError)


def test_validate_finds_what_is_wrong_with_custom_structures(tree: Path, wrong_files: Path) -> None:
    site = tree.parent / "site"
    assert mqi("init", site).exit_code == 0
    (site / "mqi.yaml").write_text(
        "site: {timezone: Asia/Seoul}\n"
        "radiotherapy: {structures: {custom_structures: ../structures.yaml}}\n"
    )  # fmt: skip
    found = mqi("validate", site, env={"COLUMNS": "300"})
    assert found.exit_code == 1
    assert found.output.splitlines() == [f"mqi.yaml: {fault}" for fault in FAULTS]


def test_a_later_stage_does_not_take_the_results_of_another_tree(tree: Path) -> None:
    out, other = tree.parent / "out", tree.parent / "other"
    other.mkdir()
    mqi("course", "run", "--dicom-root", tree, "--out", out, "--stage", "organize")
    result = mqi("course", "run", "--dicom-root", other, "--out", out, "--stage", "segmentation")
    assert isinstance(result.exception, ConfigurationError)
    assert "are of another tree: run `--stage organize` (or all stages) with this one first" in str(
        result.exception
    )
    assert read_settings(out / "mqi.yaml").radiotherapy.dicom_root == tree
    same = mqi("course", "run", "--dicom-root", tree / ".." / "tree", "--out", out, "--stage", "dvh")
    assert "no course is organised yet" in str(same.exception)


def test_a_variable_that_holds_no_such_value_is_named(tree: Path) -> None:
    run = ("course", "run", "--dicom-root", tree, "--out", tree.parent / "out")
    result = mqi(*run, env={"RTPIPELINE_MAX_WORKERS": "two", "RTPIPELINE_RADIOMICS_TASK_TIMEOUT": "long"})
    assert isinstance(result.exception, ConfigurationError)
    assert result.exception.message == (
        "environment: RTPIPELINE_MAX_WORKERS: workers: must be a whole number of at least 1, or auto;"
        " RTPIPELINE_RADIOMICS_TASK_TIMEOUT: radiomics.task_timeout: must be a number"
    )
