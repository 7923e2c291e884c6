"""What a command loads: an answer that needs no records of Dagster does not wait for Dagster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mqi_dagster import __version__
from mqi_dagster.machine import PACKAGED_MACHINES, Machines
from mqi_dagster.operations.settings_text import settings_file
from mqi_dagster.resources.site import Site
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest, Layout
from tests.cli.mqi_command import MQI

HEAVY = ("dagster", "sqlalchemy", "paramiko", "polars", "matplotlib")
SCIENCE = ("pydicom", "numpy")
NO_LEDGER = tuple(name for name in HEAVY if name != "sqlalchemy")
PROGRAM = """
import sys
sys.argv[0] = "mqi"
from mqi_dagster.cli import main
try:
    main()
finally:
    sys.stderr.write("\\nloaded: " + " ".join(name for name in {names} if name in sys.modules))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, machines: Machines) -> Path:
    """A site in ``site``, and a case in ``case``."""
    folder = tmp_path_factory.mktemp("startup")
    files = folder / "site" / "config" / "machines"
    files.mkdir(parents=True)
    for file in PACKAGED_MACHINES.glob("*.yaml"):
        (files / file.name).write_bytes(file.read_bytes())
    (folder / "site" / "mqi.yaml").write_text(settings_file({"site.timezone": "UTC"}))
    logs = folder / "site" / "state" / "logs"
    logs.mkdir(parents=True)
    (logs / "daemon.log").write_text("2026-03-01 12:00:00 +0000 - ticking\n")
    ledger = Site(folder / "site" / "mqi.yaml").ledger
    ledger.arrivals.record("place", "P000000001.fx0001", "f" * 16, True, "", None)
    ledger.close()
    plan = BuiltInPlan(beams=1, layers=2, spots=4, layer_seconds=0.1)
    request = DeliveryRequest(plan=plan, layout=Layout.SIMPLE, case_name="case")
    simulate_delivery(request, machines.named("GENERIC"), folder)
    return folder


@pytest.mark.parametrize(
    ("command", "unwanted"),
    [
        ("--version", (*HEAVY, *SCIENCE)),
        ("--help", (*HEAVY, *SCIENCE)),
        ("settings-reference", (*HEAVY, *SCIENCE)),
        ("validate", (*HEAVY, *SCIENCE)),
        ("validate --json", (*HEAVY, *SCIENCE)),
        ("logs", (*HEAVY, *SCIENCE)),
        ("logs daemon --json", (*HEAVY, *SCIENCE)),
        ("alarms --help", (*HEAVY, *SCIENCE)),
        ("doctor --help", (*HEAVY, *SCIENCE)),
        ("dev --help", (*HEAVY, *SCIENCE)),
        ("gpu off --help", (*HEAVY, *SCIENCE)),
        ("case cancel --help", (*HEAVY, *SCIENCE)),
        ("course cancel --help", (*HEAVY, *SCIENCE)),
        ("model check --help", (*HEAVY, *SCIENCE)),
        ("--show-completion bash", (*HEAVY, *SCIENCE)),
        ("simulate-delivery --help", (*HEAVY, *SCIENCE)),
        ("simulate-delivery --list-defects", (*HEAVY, *SCIENCE)),
        ("case list --help", (*HEAVY, *SCIENCE)),
        ("case check --help", (*HEAVY, *SCIENCE)),
        ("case check case", (*HEAVY, "requests")),
        ("user --help", (*HEAVY, *SCIENCE)),
        ("user list", (*NO_LEDGER, *SCIENCE)),
        ("token list", (*NO_LEDGER, *SCIENCE)),
        ("audit verify", (*NO_LEDGER, *SCIENCE)),
    ],
)
def test_a_command_loads_no_library_that_it_does_not_need(
    place: Path, command: str, unwanted: tuple[str, ...]
) -> None:
    program = PROGRAM.replace("{names}", repr(unwanted))
    ended = subprocess.run(
        [sys.executable, "-c", program, *command.split()],
        cwd=place,
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.rpartition("loaded: ")[2] == ""


@pytest.mark.parametrize(
    ("line", "word"), [("mqi case show P", "P000000001.fx0001"), ("mqi model check r", "rules_ct")]
)
def test_a_word_is_completed_without_what_loads_for_long(place: Path, line: str, word: str) -> None:
    told = {"_MQI_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    program = PROGRAM.replace("{names}", repr((*HEAVY, *SCIENCE)))
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=place,
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.stdout.split(), ended.stderr.strip()) == ([word], "loaded:")


def test_the_code_location_loads_nothing_that_draws(tmp_path: Path) -> None:
    program = "import sys, mqi_dagster.definitions; print([m for m in sys.modules if m == 'matplotlib'])"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"


def test_the_version_of_the_embedded_engine_is_told_without_what_computes(tmp_path: Path) -> None:
    program = (
        "import sys; sys.argv[1:] = ['--version']\n"
        "from mqi_dagster.embedded_engine.command import main; main()\n"
        "print([name for name in ('numpy', 'polars', 'pydicom') if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines() == ["mqi-engine 1.0 (MCsquare 1.1)", "[]"]


def test_the_version_is_that_of_the_package() -> None:
    ended = subprocess.run([MQI, "--version"], capture_output=True, text=True, check=True)
    assert ended.stdout == f"mqi_dagster {__version__}\n"


def test_a_shell_is_told_how_to_complete() -> None:
    ended = subprocess.run([MQI, "--help"], capture_output=True, text=True, check=True)
    assert "--install-completion" in ended.stdout
    asked = subprocess.run(
        [MQI],
        env={**os.environ, "_MQI_COMPLETE": "complete_bash", "COMP_WORDS": "mqi set", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.stdout.split() == ["settings-reference"]
