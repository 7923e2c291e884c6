"""Fetching and unpacking MCsquare."""

from __future__ import annotations

import hashlib
import os
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from mqi_dagster import wheels
from mqi_dagster.embedded_engine import install
from mqi_dagster.embedded_engine.install import Installation, install_engine, installed_engine
from mqi_dagster.errors import EngineInputError, InfrastructureError

INSIDE = "opentps/core/processing/doseCalculation/protons/MCsquare/"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small wheel of the same build, with the digest that is expected."""
    path = tmp_path / "small.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("MCsquare_linux", "MCsquare_linux_avx512", "MCsquare_win.exe", "Materials/list.dat"):
            archive.writestr(INSIDE + name, f"content of {name}")
        archive.writestr(INSIDE + "Materials/Water/G4_Stop_Pow.dat", "1 2")
        archive.writestr(INSIDE + "Materials/__init__.py", "")
        archive.writestr("opentps/core/__init__.py", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(install, "WHEEL", replace(install.WHEEL, sha256=digest))
    return path


def test_only_the_plain_build_and_the_materials_are_unpacked(wheel: Path, tmp_path: Path) -> None:
    found = install_engine(tmp_path / "cache", wheel)
    names = sorted(str(p.relative_to(found.folder)) for p in found.folder.rglob("*") if p.is_file())
    assert names == [
        "MCsquare_linux",
        "Materials/Water/G4_Stop_Pow.dat",
        "Materials/list.dat",
        "manifest.json",
    ]
    assert os.access(found.executable, os.X_OK)
    assert found.executable.name == "MCsquare_linux"
    assert installed_engine(tmp_path / "cache") == found
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [found.folder.name]


def test_a_wheel_of_another_digest_is_refused(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "WHEEL", replace(install.WHEEL, sha256="0" * 64))
    with pytest.raises(EngineInputError, match="has SHA-256"):
        install_engine(tmp_path / "cache", wheel)
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_an_installation_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineInputError, match="run `mqi engine install`"):
        installed_engine(tmp_path)


@pytest.mark.parametrize("damage", ["short", "missing", "no run bit", "no manifest"])
def test_a_damaged_installation_is_seen_and_replaced(damage: str, wheel: Path, tmp_path: Path) -> None:
    found = install_engine(tmp_path / "cache", wheel)
    if damage == "short":
        (found.materials / "list.dat").write_text("")
    elif damage == "missing":
        (found.materials / "list.dat").unlink()
    elif damage == "no run bit":
        found.executable.chmod(0o644)
    else:
        (found.folder / "manifest.json").unlink()
    with pytest.raises(EngineInputError, match="not installed"):
        installed_engine(tmp_path / "cache")
    again = install_engine(tmp_path / "cache", wheel)
    assert (again.materials / "list.dat").read_text() == "content of Materials/list.dat"
    assert installed_engine(tmp_path / "cache") == again


def test_installing_at_once_gives_one_whole_installation(wheel: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: install_engine(tmp_path / "cache", wheel), range(8)))
    assert len(set(found)) == 1
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [found[0].folder.name]


@pytest.mark.parametrize(("system", "machine"), [("linux", "aarch64"), ("darwin", "x86_64")])
def test_other_platforms_are_refused(
    system: str, machine: str, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install.platform, "machine", lambda: machine)
    monkeypatch.setattr(install.sys, "platform", system)
    with pytest.raises(EngineInputError, match="Linux on x86-64 only"):
        install_engine(tmp_path / "cache", wheel)


def test_an_index_that_does_not_answer_is_infrastructure_and_its_address_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(command: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        assert command[1:4] == ["-m", "pip", "download"]
        assert "opentps-core==3.0.1" in command
        return subprocess.CompletedProcess(command, 1, b"", b"https://user:password@index.example/simple")

    monkeypatch.setattr(wheels.subprocess, "run", fails)
    with pytest.raises(InfrastructureError, match=r"pip could not fetch opentps-core 3\.0\.1") as caught:
        install_engine(tmp_path / "cache")
    assert "password" not in str(caught.value)


def test_the_real_engine_is_the_plain_build_of_the_known_wheel(mcsquare: Installation) -> None:
    digest = hashlib.sha256(mcsquare.executable.read_bytes()).hexdigest()
    assert digest == "25243b76560dff0584c519f6a629c6834349c5246a6962225c935d5aa315a64f"
    assert not list(mcsquare.folder.glob("MCsquare_linux_*"))
