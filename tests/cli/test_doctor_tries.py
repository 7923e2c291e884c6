"""`mqi doctor` tries what a beam does, and no surprise that it meets hides another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.ledger.tables import REVISION
from mqi_dagster.operations import diagnosis, probes
from mqi_dagster.settings import Host, Slurm
from tests.hpc.login_node import LoginNode

LATER = {"Dagster", "services", "way in", "retention"}
"""What is looked at last."""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    result = CliRunner().invoke(app, ["init", str(folder), "--timezone", "UTC"], catch_exceptions=False)
    assert result.exit_code == 0
    change(folder, engine=engine("true"))
    return folder


def engine(program: str, **more: object) -> dict[str, object]:
    return {"profile": "mine", "profiles": {"mine": {"command": [program, "{tps}"], "version": "1", **more}}}


def change(site: Path, **sections: object) -> None:
    content = yaml.safe_load((site / "mqi.yaml").read_text())
    (site / "mqi.yaml").write_text(yaml.safe_dump({**content, **sections}))


def doctor(site: Path) -> tuple[set[str], dict[str, dict[str, str]]]:
    """The subjects of the faults, and every finding by its subject."""
    result = CliRunner().invoke(app, ["doctor", "--site", str(site), "--json"], catch_exceptions=False)
    found = {one["subject"]: one for one in json.loads(result.output)}
    faults = {name for name, one in found.items() if one["verdict"] == "fault"}
    assert result.exit_code == (1 if faults else 0)
    return faults, found


def test_a_site_whose_engine_is_not_the_embedded_one_is_sound(site: Path) -> None:
    faults, found = doctor(site)
    assert faults == set()
    assert found["engine mine start"]["found"] == "starts"
    assert found["ledger"]["found"] == f"revision {REVISION}, whole, and takes what is written"


@pytest.mark.parametrize("damage", ["pages", "head", "beside"])
def test_a_ledger_that_is_damaged_or_cannot_be_written_hides_nothing_else(site: Path, damage: str) -> None:
    file = site / "state" / "ledger.sqlite"
    content = file.read_bytes()
    if damage == "pages":
        file.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    elif damage == "head":
        file.write_bytes(b"\xff" * len(content))
    else:
        # Where SQLite writes first: as with an immutable file, reading works and writing does not.
        (site / "state" / "ledger.sqlite-journal").mkdir()
    faults, found = doctor(site)
    assert faults == {"ledger"}
    assert found["ledger"]["advice"]
    if damage != "beside":
        assert (found["secret"]["verdict"], found["secret"]["advice"]) == ("warning", "see the ledger")
        assert "cannot be checked while the ledger is damaged" in found["secret"]["found"]
    assert found.keys() >= LATER
    listed = CliRunner().invoke(app, ["alarms", "--site", str(site), "--json"], catch_exceptions=False)
    kinds = [one["kind"] for one in json.loads(listed.output)]
    assert kinds == (["ledger_away"] if damage != "beside" else kinds)


def test_a_surprise_is_one_finding(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def surprise(*arguments: object) -> object:
        raise RuntimeError("somebody's /path")

    for name in ("_space", "_zone", "_account", "examine_units", "_services"):
        monkeypatch.setattr(diagnosis, name, surprise)
    faults, found = doctor(site)
    assert faults == {"disk", "time zone", "account", "units", "services"}
    assert found["disk"]["found"] == "it cannot be looked at (RuntimeError)"
    assert found.keys() >= LATER


def test_a_section_that_cannot_be_read_hides_no_other(site: Path) -> None:
    change(site, ui={"prot": 3000})
    faults, found = doctor(site)
    assert faults == {"settings"}
    assert found["settings"]["found"].startswith("mqi.yaml: ui.prot: ")
    assert found.keys() >= {*LATER, "inbox", "engine mine"}


@pytest.mark.parametrize("name", ["data", "handover"])
def test_folders_are_written_to(site: Path, name: str) -> None:
    # One in which nobody may make anything, whoever he is.
    if name == "data":
        change(site, paths={"data": "/proc/self"})
    else:
        change(site, handover={"folder": "/proc/self"})
    faults, found = doctor(site)
    assert {fault for fault in faults if not fault.startswith("disk")} == {name}
    assert "/proc/self" in found[name]["found"]


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("#!/no/such/interpreter\n", "No such file"),
        ("#!/bin/sh\necho 'x: error while loading shared libraries: libcuda.so.1' >&2\nexit 1\n", "libcuda"),
        ("#!/bin/sh\nexec no-such-helper\n", "not found"),
    ],
)
def test_an_engine_that_is_there_and_does_not_start_is_a_fault(
    site: Path, tmp_path: Path, script: str, word: str
) -> None:
    program = tmp_path / "engine"
    program.write_text(script)
    program.chmod(0o755)
    change(site, engine=engine(str(program)))
    faults, found = doctor(site)
    assert faults == {"engine mine start"}
    assert word in found["engine mine start"]["found"]


def test_an_engine_gets_no_more_of_the_environment_than_in_a_beam(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "engine"
    program.write_text('#!/bin/sh\n[ -n "$OF_MY_SHELL" ] || exit 127\n')
    program.chmod(0o755)
    monkeypatch.setenv("OF_MY_SHELL", "yes")
    change(site, engine=engine(str(program)))
    assert doctor(site)[0] == {"engine mine start"}


class TestHost:
    @pytest.fixture
    def node(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoginNode:
        made = LoginNode(tmp_path / "node")
        monkeypatch.setattr(probes, "run", made.run_command)
        return made

    @pytest.fixture
    def nowhere(self) -> Connection:
        host = {"host": "127.0.0.1", "user": "u", "key_file": "k", "known_hosts": "h"}
        return Connection(Host.model_validate(host))

    def test_what_a_beam_does_below_the_root_is_done(
        self, node: LoginNode, nowhere: Connection, tmp_path: Path
    ) -> None:
        root = tmp_path / "root"
        assert "is writable" in probes._writable(nowhere, str(root))
        assert list(root.iterdir()) == []

    @pytest.mark.parametrize(("tool", "word"), [("flock", "no file can be locked"), ("mv", "writing below")])
    def test_a_root_on_which_a_beam_would_fail_is_a_fault(
        self, node: LoginNode, nowhere: Connection, tmp_path: Path, tool: str, word: str
    ) -> None:
        node.install(tool, "#!/bin/sh\nexit 1\n")
        with pytest.raises(Exception, match=word):
            probes._writable(nowhere, str(tmp_path / "root"))

    def test_the_engine_is_looked_for_in_the_shell_of_a_job(
        self, node: LoginNode, nowhere: Connection, tmp_path: Path
    ) -> None:
        (tmp_path / "opt").mkdir()
        engine = tmp_path / "opt" / "moqui_of_a_module"
        engine.write_text("#!/bin/sh\n")
        engine.chmod(0o755)
        setup = tmp_path / "setup.sh"
        setup.write_text(f"PATH=$PATH:{engine.parent}\n")
        plain = Slurm.model_validate({"root": "/scratch/mqi"})
        with pytest.raises(Exception, match="is not there, or cannot be run"):
            probes._there(nowhere, plain, engine.name)
        with_setup = Slurm.model_validate({"root": "/scratch/mqi", "source": [str(setup)]})
        assert engine.name in probes._there(nowhere, with_setup, engine.name)
        setup.unlink()
        with pytest.raises(Exception, match="modules or scripts of the settings"):
            probes._there(nowhere, with_setup, engine.name)
