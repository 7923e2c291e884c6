"""`mqi simulate-delivery`: options become a request, and wrong ones are named."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pydicom
import pytest
from click.testing import Result
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.errors import ConfigurationError, MqiError, UnknownMachineError

SMALL = ("--layers", "2", "--spots", "5")


def simulate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(
        app, ["simulate-delivery", *map(str, arguments)], catch_exceptions=False, env={"COLUMNS": "200"}
    )


def plan_of(inbox: Path) -> pydicom.Dataset:
    return pydicom.dcmread(next(inbox.rglob("RP.*.dcm")))


def records(inbox: Path) -> list[str]:
    return sorted(path.parent.name for path in inbox.rglob("*.ptn"))


def test_three_beams_of_the_generic_machine_are_the_default(tmp_path: Path) -> None:
    output = simulate(tmp_path / "inbox", *SMALL).output
    plan = plan_of(tmp_path / "inbox")
    assert [beam.BeamNumber for beam in plan.IonBeamSequence] == [1, 2, 3, 4]
    assert {beam.TreatmentMachineName for beam in plan.IonBeamSequence} == {"GENERIC"}
    assert (
        records(tmp_path / "inbox")
        == ["2026010510100000"] * 2 + ["2026010510140000"] * 2 + ["2026010510180000"] * 2
    )
    assert "2026010510180000" in output


def test_options_reach_the_plan_and_the_delivery(tmp_path: Path) -> None:
    simulate(
        *(tmp_path / "inbox", *SMALL, "--machine", "g2", "--energy", "120", "--energy", "150"),
        *("--layout", "simple", "--case-name", "mine", "--patient-id", "QA7", "--marker", "_CASE_READY"),
        *("--order", "3", "--order", "2", "--start", "2026-02-03T04:05:06", "--ct", "water"),
    )
    case = tmp_path / "inbox" / "mine"
    assert (case / "_CASE_READY").is_file()
    assert list((case / "CT").iterdir())
    plan = plan_of(case)
    assert plan.PatientID == "QA7"
    assert [
        float(beam.IonControlPointSequence[0].NominalBeamEnergy) for beam in plan.IonBeamSequence[1:]
    ] == [
        120.0,
        150.0,
    ]
    assert len(records(case)) == 4


def test_the_plan_s_own_machine_is_taken(tmp_path: Path) -> None:
    simulate(tmp_path / "first", *SMALL, "--machine", "G2")
    plan = next((tmp_path / "first").rglob("RP.*.dcm"))
    simulate(tmp_path / "second", "--plan", plan, "--layers", "1")
    assert len(records(tmp_path / "second")) == 3
    with pytest.raises(UnknownMachineError, match="the plan is for machine"):
        simulate(tmp_path / "third", "--plan", plan, "--machine", "GENERIC")


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    def bytes_of(inbox: Path) -> list[bytes]:
        return [path.read_bytes() for path in sorted(inbox.rglob("*.ptn"))]

    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        simulate(tmp_path / name, *SMALL, "--seed", seed)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    assert bytes_of(tmp_path / "a") != bytes_of(tmp_path / "c")


def test_defects_are_done(tmp_path: Path) -> None:
    simulate(
        *(tmp_path, *SMALL, "--defect", "missing-layer:beam=2,layer=1"),
        *("--defect", "missing-layer:beam=4,layer=2"),
    )
    assert records(tmp_path) == [
        "2026010510100000",
        "2026010510140000",
        "2026010510140000",
        "2026010510180000",
    ]


def test_every_defect_is_listed() -> None:
    lines = simulate("--list-defects").output.splitlines()[1:]
    names = {line.split()[0] for line in lines}
    assert {"truncated:beam=,layer=,bytes=", "two-plans", "unknown-machine:name="} <= names
    assert len(lines) == 33


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--defect", "sabotage"), "unknown defect sabotage; the defects are:\n  out-of-order"),
        (("--defect", "mu-error:beam=2"), "mu-error: it needs layer="),
        (("--machine", "G9"), "machine G9 is unknown"),
        (("--ct", "bone"), "^ct: "),
        (("--plan", "/nowhere.dcm", "--beams", "2"), "beams: only for the plan made in code"),
        (("--plan", "/nowhere.dcm"), "the plan cannot be opened"),
        (("--range-shifter", "RS_9CM"), "has no range shifter RS_9CM"),
    ],
)
def test_wrong_options_are_named_and_nothing_is_written(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(MqiError, match=message):
        simulate(tmp_path / "inbox", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_without_a_target_it_says_what_is_missing() -> None:
    with pytest.raises(ConfigurationError, match="name the folder to write into"):
        simulate()


def test_a_target_that_is_a_mount_of_its_own_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    rename = Path.rename

    def within_one_mount(path: Path, to: Any) -> Path:
        # As for a folder mounted elsewhere in its own file system: the device numbers are the same.
        if path.is_relative_to(inbox) != Path(to).is_relative_to(inbox):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", within_one_mount)
    simulate(inbox, *SMALL, "--beams", "1")
    assert len(records(inbox)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["inbox"], "nothing is left beside it"
    assert len(list(inbox.iterdir())) == 1, "and nothing in it but the case"
