"""``mqi model``: what there is, whether it can be used, and how a new one joins."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
from typer.testing import CliRunner, Result

from mqi_dagster.cli.app import app
from mqi_dagster.errors import ConfigurationError
from mqi_dagster.imaging.models.model_errors import ModelError

CARD = """
name: liver_net
version: "3"
summary: A liver.
modality: CT
inputs: [{role: CT}]
runtime: command
command: {argv: [no-such-program, "{inputs}", "{output}"]}
regions:
  - name: Liver
    tg263: Liver
    code: {value: "10200004", meaning: Liver}
    label: 1
    volume_cm3: [500, 3000]
WEIGHTS
licence: none
memory: {ram_mb: 10}
limits: [made for a test]
"""


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["model", *arguments])


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own folder of models; no site is in reach."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("MQI_SITE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mqi_dagster" / "models"


def joined(models: Path, content: bytes = b"weights", digest: str | None = None) -> None:
    folder = models / "liver"
    folder.mkdir(parents=True)
    (folder / "net.bin").write_bytes(content)
    named = digest or hashlib.sha256(content).hexdigest()
    text = CARD.replace("WEIGHTS", f'weights: [{{file: net.bin, sha256: "{named}"}}]')
    (folder / "model.yaml").write_text(text)


def rows() -> dict[str, dict[str, object]]:
    return {row["name"]: row for row in json.loads(invoke("list", "--json").stdout)}


def test_the_packaged_models_are_listed_with_what_is_missing() -> None:
    found = rows()
    assert found["rules_ct"]["state"] == "ready"
    assert found["rules_ct"]["used"] == "auto"
    assert "weights are missing" in str(found["brain_mr"]["state"])
    assert "mqi model install brain_mr" in str(found["brain_mr"]["state"])


def test_a_folder_with_a_card_joins_and_is_used_as_a_custom_model(models: Path) -> None:
    joined(models)
    assert rows()["liver_net"] == {
        "name": "liver_net",
        "version": "3",
        "modality": "CT",
        "runtime": "command",
        "regions": 1,
        "used": "custom",
        "state": "ready",
        "licence": "none",
        "folder": str(models / "liver"),
    }


def test_a_card_that_is_wrong_is_listed_with_the_wrong_key(models: Path) -> None:
    joined(models)
    card = models / "liver" / "model.yaml"
    card.write_text(card.read_text().replace("licence: none", "license: none"))
    assert "license" in str(rows()["liver"]["state"])
    assert invoke("check", "liver").exit_code == 1


def test_other_weights_than_the_card_names_fail_the_check(models: Path) -> None:
    joined(models, digest="0" * 64)
    done = invoke("check", "liver_net", "--json")
    findings = {one["what"]: one for one in json.loads(done.stdout)["findings"]}
    assert done.exit_code == 1
    assert not findings["weights"]["passed"]
    assert "the card names 00000000" in findings["weights"]["text"]


def test_a_program_that_is_not_there_fails_the_check(models: Path) -> None:
    joined(models)
    done = invoke("check", "liver_net")
    assert done.exit_code == 1
    assert "its program is not on PATH" in done.stdout


def test_a_model_is_tried_on_images(tmp_path: Path) -> None:
    values = np.full((20, 60, 60), -1000, np.int16)
    values[2:18, 10:50, 10:50] = 40
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((5.0, 5.0, 5.0))
    images = tmp_path / "images"
    images.mkdir()
    sitk.WriteImage(image, str(images / "CT.nii.gz"))
    done = invoke("check", "rules_ct", "--images", str(images), "--json")
    assert done.exit_code == 0
    volumes = {one["name"]: one["volume_cm3"] for one in json.loads(done.stdout)["regions"]}
    # A block of 200 x 200 x 80 mm, whose edges an opening of 4 mm may round.
    assert volumes["External"] == pytest.approx(3200, rel=0.05)
    assert (images / "out" / "segmentation.nii.gz").is_file()


def test_the_output_of_a_program_that_fails_is_printed(models: Path, tmp_path: Path) -> None:
    joined(models)
    card = models / "liver" / "model.yaml"
    script = "print('reading'); raise ValueError('no such network: net_7')"
    argv = f"[{json.dumps(sys.executable)}, '-c', {json.dumps(script)}, '{{inputs}}', '{{output}}']"
    card.write_text(card.read_text().replace('[no-such-program, "{inputs}", "{output}"]', argv))
    sitk.WriteImage(sitk.Image(8, 8, 8, sitk.sitkInt16), str(tmp_path / "CT.nii.gz"))
    done = invoke("check", "liver_net", "--images", str(tmp_path))
    assert done.exit_code == 1 and isinstance(done.exception, ModelError)
    assert "reading\n" in done.stderr and "ValueError: no such network: net_7" in done.stderr


def test_the_lines_for_a_new_card_name_every_file_with_its_digest(models: Path) -> None:
    joined(models)
    lines = invoke("weights", str(models / "liver")).stdout.splitlines()
    assert lines == [
        "weights:",
        '  - file: "net.bin"',
        f'    sha256: "{hashlib.sha256(b"weights").hexdigest()}"',
    ]


def test_what_nobody_knows_how_to_make_is_not_installed() -> None:
    error = invoke("install", "totalsegmentator").exception
    assert isinstance(error, ConfigurationError)
    assert "joins as a folder with a card" in error.message


def test_a_model_that_is_not_there_is_named_with_those_that_are() -> None:
    error = invoke("check", "nothing").exception
    assert isinstance(error, ConfigurationError)
    assert "there is no model 'nothing'; those that are there: brain_mr, rules_ct" in error.message
