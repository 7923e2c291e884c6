"""A site's own command: done, or a typed failure."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mqi_dagster.errors import CommandError, ConfigurationError
from mqi_dagster.execution.scrub import Scrubber
from mqi_dagster.execution.site_command import run_site_command
from mqi_dagster.settings import SiteCommand
from tests.waiting import wait_for


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A folder with an input, and an empty one beside it."""
    (tmp_path / "input" / "sub").mkdir(parents=True)
    (tmp_path / "input" / "sub" / "1.ptn").write_bytes(b"record")
    (tmp_path / "output").mkdir()
    return tmp_path


def _run(case: Path, program: str, *arguments: str, timeout: float = 30.0, **options: object) -> None:
    command = SiteCommand(argv=(sys.executable, "-c", program, *arguments), timeout_seconds=timeout)
    places = {"input": case / "input", "output": case / "output", "beam": "7"}
    run_site_command(command, places, wanted=case / "output", **options)  # type: ignore[arg-type]


def test_placeholders_become_arguments_without_a_shell(case: Path) -> None:
    program = "import json, sys; json.dump(sys.argv[1:], open(sys.argv[2][4:] + '/x', 'w'))"
    _run(case, program, "{beam}; $(touch hacked) *", "out={output}", '{"a": 1}', "{beam}{beam}")
    assert (case / "output" / "x").read_text() == (
        f'["7; $(touch hacked) *", "out={case / "output"}", "{{\\"a\\": 1}}", "77"]'
    )
    assert [path.name for path in (case / "output").iterdir()] == ["x"]


def test_an_unknown_placeholder_is_named(case: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"\{plan\}; known are \{beam\}, \{input\}, \{output\}"):
        _run(case, "pass", "{plan}")


def test_a_missing_program_is_a_fault_of_the_configuration(case: Path) -> None:
    with pytest.raises(ConfigurationError, match="no-such-converter"):
        run_site_command(SiteCommand(argv=("no-such-converter",)), {}, wanted=case / "output")


def test_a_command_that_hangs_is_ended_with_all_it_started(
    case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqi_dagster.execution.site_command._GRACE_SECONDS", 0.3)
    program = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "open('child', 'w').write(str(child.pid))\n"
        "time.sleep(100)\n"
    )
    with pytest.raises(CommandError, match=r"longer than 1\.5 s"):
        _run(case, program, timeout=1.5)
    child = Path("/proc") / (case / "output" / "child").read_text()
    wait_for(lambda: not child.exists() or ") Z" in (child / "stat").read_text(), "its child ends")


def test_a_failing_command_says_its_last_words_without_identifiers(case: Path) -> None:
    program = (
        "import sys\n"
        "sys.stderr.write('Traceback\\n')\n"
        "sys.stderr.write('cannot read DOE^John in ' + sys.argv[1] + '/sub/1.ptn\\n\\n')\n"
        "open('half', 'w').write('x')\n"
        "sys.exit(4)\n"
    )
    with pytest.raises(CommandError) as caught:
        _run(case, program, "{input}", scrubber=Scrubber(["Doe^John"]))
    assert str(caught.value) == (
        "site command: the command has failed with exit code 4: cannot read [redacted] in [redacted]"
    )


def test_paths_of_the_case_are_not_repeated_without_being_told(case: Path) -> None:
    with pytest.raises(CommandError) as caught:
        _run(case, "import sys; sys.exit('bad ' + sys.argv[1] + '/KIM/x')", "{input}")
    assert str(caught.value).endswith("exit code 1: bad [redacted]")


def test_a_command_that_leaves_nothing_has_failed(case: Path) -> None:
    with pytest.raises(CommandError, match="left nothing"):
        _run(case, "pass")
    with pytest.raises(CommandError, match="left nothing"):
        _run(case, "open('empty', 'w')")
    (case / "output" / "old").write_text("x")
    with pytest.raises(CommandError, match="left nothing"):
        _run(case, "pass")


def test_a_command_that_writes_into_its_inputs_has_failed(case: Path) -> None:
    for program in (
        "import sys; open(sys.argv[1] + '/new.csv', 'w').write('x')",
        "import sys; open(sys.argv[1] + '/sub/1.ptn', 'a').write('x'); open('y', 'w').write('x')",
        "import os, sys; os.remove(sys.argv[1] + '/sub/1.ptn'); open('y', 'w').write('x')",
    ):
        (case / "input" / "sub" / "1.ptn").write_bytes(b"record")
        (case / "input" / "new.csv").unlink(missing_ok=True)
        with pytest.raises(CommandError, match="changed its inputs"):
            _run(case, program, "{input}")


def test_an_output_folder_within_the_inputs_is_no_input(case: Path) -> None:
    command = SiteCommand(argv=(sys.executable, "-c", "open('x', 'w').write('x')"))
    run_site_command(command, {"case": case}, wanted=case / "output")
    assert (case / "output" / "x").exists()
