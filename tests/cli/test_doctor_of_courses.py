"""`mqi doctor` and `mqi validate` of courses: each fault is found, and ends with status 1."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.imaging.models import isolation
from mqi_dagster.imaging.models.card import PACKAGED_MODELS
from mqi_dagster.operations.site_folder import RunOptions, make_run_site
from tests.courses.made_objects import Made
from tests.imaging.models.model_folders import card, write_card

SUBJECTS = ("courses", "DICOM tree", "Orthanc", "extra imaging", "model", "CUDA", "GPU of", "memory")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    made = CliRunner().invoke(app, ["init", str(folder), "--timezone", "UTC"], catch_exceptions=False)
    assert made.exit_code == 0
    (tmp_path / "tree").mkdir()
    return folder


def configure(site: Path, **radiotherapy: object) -> None:
    """Write the section beside what `mqi init` has written."""
    file = site / "mqi.yaml"
    content = yaml.safe_load(file.read_text())
    content["radiotherapy"] = {"dicom_root": str(site.parent / "tree"), "workers": 1, **radiotherapy}
    file.write_text(yaml.safe_dump(content))


def doctor(site: Path) -> dict[str, tuple[str, str]]:
    """Verdict and words of every finding about courses."""
    result = CliRunner().invoke(app, ["doctor", "--site", str(site), "--json"], catch_exceptions=False)
    found = {one["subject"]: (one["verdict"], one["found"]) for one in json.loads(result.output)}
    if any(verdict == "fault" for verdict, _ in found.values()):
        assert result.exit_code == 1
    return {subject: one for subject, one in found.items() if subject.startswith(SUBJECTS)}


def test_a_site_without_a_tree_says_so_in_one_line(site: Path) -> None:
    assert doctor(site) == {
        "courses": ("ok", "not set up: radiotherapy.dicom_root names no tree of DICOM files")
    }


def test_a_site_with_a_tree_and_the_packaged_rules_is_sound(site: Path) -> None:
    configure(site)
    made = Made(1).at(site.parent / "tree")
    made.write(made.plan())
    found = doctor(site)
    assert {verdict for verdict, _ in found.values()} <= {"ok", "warning"}
    assert found["DICOM tree"] == ("ok", f"{site.parent / 'tree'} is readable, not looked at yet")
    assert found["model rules_ct"][1].endswith("rules, no weights")
    assert found["model device"] == ("ok", "cpu")
    assert found["memory"][1].endswith("GB for 1 courses at once")


def test_a_tree_that_is_not_there_is_a_fault(site: Path) -> None:
    configure(site)
    (site.parent / "tree").rmdir()
    assert doctor(site)["DICOM tree"] == ("fault", f"{site.parent / 'tree'} is not there")


def test_a_package_of_the_extra_that_is_missing_is_a_fault(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(site)
    real = metadata.version

    def version(name: str) -> str:
        if name == "highdicom":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    result = CliRunner().invoke(app, ["doctor", "--site", str(site), "--json"], catch_exceptions=False)
    (found,) = [one for one in json.loads(result.output) if one["subject"] == "highdicom"]
    assert (found["verdict"], found["advice"]) == ("fault", "make install-imaging")
    assert result.exit_code == 1


def test_a_model_that_is_not_there_or_whose_weights_are_others_is_a_fault(site: Path) -> None:
    configure(site, segmentation={"models": ["rules_ct", "brain_mr", "no_such_model"]})
    found = doctor(site)
    assert found["model brain_mr"][0] == "fault" and "weights are missing" in found["model brain_mr"][1]
    assert found["model no_such_model"] == (
        "fault",
        "there is no model of this name; `mqi model list` shows those that there are",
    )
    installed = site / "config" / "models" / "brain_mr"
    shutil.copytree(PACKAGED_MODELS / "brain_mr", installed)
    card = yaml.safe_load((installed / "model.yaml").read_text())
    for one in card["weights"]:
        (installed / one["file"]).parent.mkdir(parents=True, exist_ok=True)
        (installed / one["file"]).write_bytes(b"other weights")
    found = doctor(site)
    assert found["model brain_mr"][0] == "fault" and "the card names" in found["model brain_mr"][1]


def test_a_program_that_is_not_there_is_a_fault(site: Path) -> None:
    configure(site)
    folder = site / "config" / "models" / "own"
    folder.mkdir(parents=True)
    card = yaml.safe_load((PACKAGED_MODELS / "rules_ct" / "model.yaml").read_text())
    del card["rules"]
    role = card["inputs"][0]["role"]
    argv = ["no-such-program", f"{{input:{role}}}", "{output}"]
    card |= {"name": "own", "runtime": "command", "command": {"argv": argv}}
    (folder / "model.yaml").write_text(yaml.safe_dump(card))
    verdict, words = doctor(site)["model own"]
    assert verdict == "fault" and "no-such-program" in words


@pytest.mark.parametrize(
    ("permitted", "required", "verdict"),
    [(True, False, "ok"), (False, False, "warning"), (False, True, "fault")],
)
def test_a_machine_that_cannot_keep_a_program_from_the_network_is_told(
    site: Path, monkeypatch: pytest.MonkeyPatch, permitted: bool, required: bool, verdict: str
) -> None:
    monkeypatch.setattr(isolation, "_COMMANDS", (("env",) if permitted else ("/bin/false",),))
    isolation.isolation.cache_clear()
    try:
        configure(site, segmentation={"require_isolation": required})
        assert "model isolation" not in doctor(site), "rules start no program"
        folder = site / "config" / "models" / "own"
        section = {"argv": ["true", "{input:CT}", "{output}"]}
        write_card(folder, card("command", section, name="own"))
        found = doctor(site)
    finally:
        isolation.isolation.cache_clear()
    assert found["model isolation"][0] == verdict
    assert found["model isolation"][1].startswith("network: none" if permitted else "network not taken away")
    assert ", true found, sha256 " in found["model own"][1]


@pytest.mark.parametrize(("fallback", "verdict"), [(True, "warning"), (False, "fault")])
def test_a_gpu_that_onnxruntime_does_not_see_is_told(
    site: Path, monkeypatch: pytest.MonkeyPatch, fallback: bool, verdict: str
) -> None:
    from mqi_dagster.operations import course_diagnosis

    monkeypatch.setattr(course_diagnosis, "_onnx_providers", lambda: ["CPUExecutionProvider"])
    configure(site, segmentation={"models": ["brain_mr"], "device": "gpu", "allow_fallback": fallback})
    installed = site / "config" / "models" / "brain_mr"
    shutil.copytree(PACKAGED_MODELS / "brain_mr", installed)
    for one in yaml.safe_load((installed / "model.yaml").read_text())["weights"]:
        (installed / one["file"]).write_bytes(b"other weights")
    assert doctor(site)["CUDA of onnxruntime"] == (verdict, "it offers CPUExecutionProvider")


def test_a_folder_of_a_run_needs_no_services(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    options = RunOptions(radiotherapy={"dicom_root": str(tmp_path / "tree")}, command="course run")
    make_run_site(tmp_path / "out", options)
    result = CliRunner().invoke(app, ["doctor", "--site", str(tmp_path / "out"), "--json"])
    found = {one["subject"]: (one["verdict"], one["found"]) for one in json.loads(result.output)}
    not_needed = "not needed here: `mqi case run` and `mqi course run` do without services"
    assert found["services"] == ("ok", f"not running; {not_needed}")
    assert found["pool gpu"] == ("ok", f"no limit is set; {not_needed}")


def test_an_orthanc_that_is_away_is_a_fault(site: Path) -> None:
    configure(site, orthanc={"url": "http://127.0.0.1:9"})
    verdict, words = doctor(site)["Orthanc"]
    assert verdict == "fault" and words == "it cannot be reached: Connection refused"


def test_a_file_of_the_section_that_cannot_be_used_is_told_by_its_key(site: Path) -> None:
    (site.parent / "goals.yaml").write_text("goals: [{}]\n")
    configure(site, dvh={"goals": str(site.parent / "goals.yaml")})
    result = CliRunner().invoke(app, ["validate", "--site", str(site)])
    assert result.exit_code == 1
    assert "radiotherapy.dvh.goals" in result.output
