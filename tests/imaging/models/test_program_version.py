"""What is known of a program's version: asked of its files, of its environment, or of itself."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from mqi_dagster.imaging.models.card import PACKAGED_MODELS, Model, read_model
from mqi_dagster.imaging.models.model_errors import ModelCardError
from mqi_dagster.imaging.models.program_version import program_version
from tests.imaging.models.model_folders import card, command_card, weights, write_card


def script(path: Path, text: str) -> Path:
    """A program of the shell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def environment(folder: Path, **versions: str) -> Path:
    """A virtual environment as pip leaves it, with these distributions and the program TotalSegmentator."""
    packages = folder / "lib" / "python3.12" / "site-packages"
    for name, version in versions.items():
        info = packages / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return script(folder / "bin" / "TotalSegmentator", "exit 9")


def totalsegmentator(folder: Path, program: Path, **section: Any) -> Model:
    entry = weights(folder, "weights/Dataset291_organs/fold_0/checkpoint_final.pth", b"weights")
    content = {"program": str(program), "task": "total", "datasets": [291], **section}
    return read_model(write_card(folder, card("totalsegmentator", content, weights=[entry])))


def command(folder: Path, *argv: str, **section: Any) -> Model:
    content = card("command", {"argv": [*argv, "{input:CT}", "{output}"], **section})
    return read_model(write_card(folder, content))


def test_of_totalsegmentator_the_versions_beside_it_are_told_and_nothing_is_started(tmp_path: Path) -> None:
    program = environment(
        tmp_path / "old", TotalSegmentator="2.4.0", nnunetv2="2.5.1", torch="2.4", numpy="1"
    )
    (tmp_path / "TotalSegmentator").symlink_to(program)
    known = {"totalsegmentator": "2.4.0", "nnunetv2": "2.5.1", "torch": "2.4"}
    assert program_version(totalsegmentator(tmp_path / "model", tmp_path / "TotalSegmentator")) == known

    newer = environment(tmp_path / "new", TotalSegmentator="2.18.0", nnunetv2="2.5.1")
    assert program_version(totalsegmentator(tmp_path / "model", newer)) == {
        "totalsegmentator": "2.18.0",
        "nnunetv2": "2.5.1",
    }


def test_an_environment_that_moves_is_the_same_and_one_without_the_program_tells_of_its_file(
    tmp_path: Path,
) -> None:
    program = environment(tmp_path / "one", TotalSegmentator="2.4.0")
    before = program_version(totalsegmentator(tmp_path / "model", program))
    shutil.move(tmp_path / "one", tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / "bin" / "TotalSegmentator"
    assert program_version(totalsegmentator(tmp_path / "model", moved)) == before

    wrapper = environment(tmp_path / "other", torch="2.4")
    assert program_version(totalsegmentator(tmp_path / "model", wrapper)) == {
        "sha256": hashlib.sha256(b"#!/bin/sh\nexit 9\n").hexdigest()
    }


def test_of_any_other_program_its_file_and_those_that_its_arguments_name_are_told(tmp_path: Path) -> None:
    program = script(tmp_path / "run", "true")
    model = command(tmp_path / "model", str(program), "--fast", "{model}/segment.py")
    (tmp_path / "model" / "segment.py").write_text("1")
    known = program_version(model)
    assert known == {
        "sha256": hashlib.sha256(b"#!/bin/sh\ntrue\n").hexdigest(),
        "sha256 of argument 2": hashlib.sha256(b"1").hexdigest(),
    }
    assert str(tmp_path) not in str(known)


def test_a_program_is_asked_by_the_command_of_its_card(tmp_path: Path) -> None:
    program = script(tmp_path / "run", "true")
    script(tmp_path / "model" / "version", 'echo "segment 4.2 $1"; echo "built today"')
    asked = ["{model}/version", "now"]
    model = command(tmp_path / "model", str(program), version_command=asked)
    assert program_version(model)["version"] == "segment 4.2 now"
    # By whom it is asked is no part of what is made.
    assert model.card.digest() == command(tmp_path / "model", str(program)).card.digest()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("exit 3", "its version_command ended with exit code 3"),
        ("true", "its version_command printed nothing"),
        ("", "its version_command cannot be run: the program 'version' is not on this machine"),
    ],
)
def test_a_program_that_does_not_tell_its_version_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    if text:
        script(tmp_path / "version", text)
    asked = [str(tmp_path / "version")]
    with pytest.raises(ModelCardError, match=reason):
        program_version(command(tmp_path / "model", "true", version_command=asked))


def test_version_command_knows_one_placeholder(tmp_path: Path) -> None:
    with pytest.raises(ModelCardError, match=r"version_command knows no placeholder but \{model\}"):
        command(tmp_path / "model", "true", version_command=["true", "{inputs}"])


def test_nothing_is_known_of_a_program_that_is_not_here_and_none_belongs_to_rules(tmp_path: Path) -> None:
    absent = command_card("no-such-program", "{inputs}", "{output}")
    assert program_version(read_model(write_card(tmp_path / "absent", absent))) == {}
    assert program_version(read_model(PACKAGED_MODELS / "rules_ct")) == {}
