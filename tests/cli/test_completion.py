"""What a shell offers for a word: asked as its completion script asks, with the variables of that script."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from mqi_dagster.cli.completion import completed
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.location import ledger_url
from mqi_dagster.ledger.slots import Slot, SlotKind
from mqi_dagster.settings import read_settings
from tests.cli.mqi_command import MQI

CASES = ("P000000001.fx0001", "P000000002.fx0001", "Q000000001.fx0001")
COURSE = "RAAAAAAAA2.c01"
SERVICES = ("code", "daemon", "pages", "viewer", "web", "watch")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a site in it that knows three cases, beams, a course and two slots."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "site" / "state").mkdir(parents=True)
    (folder / "site" / "mqi.yaml").write_text("site: {timezone: Asia/Seoul}\n")
    ledger = Ledger.open(ledger_url(read_settings(folder / "site" / "mqi.yaml")))
    for case in CASES:
        ledger.arrivals.record(f"arrival of {case}", case, "1", True, "", None)
    ledger.arrivals.record("arrival of a course", COURSE, "1", True, "", None, kind="course")
    for partition in (f"{CASES[0]}__b02", f"{CASES[0]}__b03", CASES[0], COURSE):
        ledger.progress.record(partition, "a run", "simulating")
    ledger.slots.declare("gpuserver", [Slot(SlotKind.CPU, 0), Slot(SlotKind.CPU, 1)])
    ledger.close()
    return folder


def offered(place: Path, line: str, **environment: str) -> list[str]:
    """What bash is offered for the last word of a line."""
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    told = {"_MQI_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    inherited = {name: value for name, value in os.environ.items() if name != "MQI_SITE"}
    done = subprocess.run(
        [MQI],
        cwd=place,
        env={**inherited, **told, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mqi case show P", [CASES[1], CASES[0]]),
        ("mqi case priority Q", [CASES[2]]),
        (f"mqi case retry {CASES[0]}", [CASES[0], f"{CASES[0]}__b03", f"{CASES[0]}__b02"]),
        ("mqi course cancel ", [COURSE]),
        ("mqi logs ", [*SERVICES, f"{CASES[0]}__b03", f"{CASES[0]}__b02", COURSE]),
        ("mqi gpu off g", ["gpuserver/cpu0", "gpuserver/cpu1"]),
        ("mqi model check r", ["rules_ct"]),
        ("mqi case list --state in", ["in-work"]),
        ("mqi service d", ["daemon"]),
        ("mqi case can", ["cancel"]),
    ],
)  # fmt: skip
def test_the_words_of_the_site_are_offered(place: Path, line: str, words: list[str]) -> None:
    assert offered(place, line) == words


def test_the_site_that_the_line_or_the_environment_names_is_asked(place: Path, tmp_path: Path) -> None:
    assert offered(tmp_path, f"mqi case show --site {place}/site Q") == [CASES[2]]
    assert offered(tmp_path, "mqi case show Q", MQI_SITE=f"{place}/site") == [CASES[2]]


@pytest.mark.parametrize("content", [None, "no: [yaml", "site: {timezone: Asia/Seoul}\n"])
def test_what_cannot_be_read_is_silent_and_nothing_is_made(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "mqi.yaml").write_text(content)
    before = sorted(tmp_path.rglob("*"))
    assert offered(tmp_path, "mqi case show P") == []
    assert offered(tmp_path, "mqi logs d") == ["daemon"]
    assert sorted(tmp_path.rglob("*")) == before


def test_one_kind_of_words_that_fails_keeps_no_other() -> None:
    import typer

    from mqi_dagster.cli.app import app

    context = typer.Context(typer.main.get_command(app))
    assert completed(lambda *_: 1 // 0, lambda *_: ["word", "other"])(context, "w") == ["word"]  # type: ignore[arg-type, return-value]


def test_bash_is_given_a_script_that_asks_mqi(tmp_path: Path) -> None:
    told = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}
    shown = subprocess.run([MQI, "--show-completion", "bash"], env=told, capture_output=True, text=True)
    assert "_MQI_COMPLETE=complete_bash" in shown.stdout
    syntax = subprocess.run(["bash", "-n"], input=shown.stdout, capture_output=True, text=True)
    assert (syntax.returncode, syntax.stderr) == (0, "")
    done = subprocess.run([MQI, "--install-completion", "bash"], env=told, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / ".bashrc").read_text()
