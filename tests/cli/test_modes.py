"""What belongs to a site is its account's alone, whatever the umask of whoever makes it."""

from __future__ import annotations

import grp
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.operations.probes import ProbeVerdict, examine_modes
from mqi_dagster.settings import read_settings
from mqi_dagster.store.store import Store
from tests.chain.chain import ONE_BEAM, Chain

MQI = str(Path(sys.executable).with_name("mqi"))


@pytest.fixture
def open_to_all() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mqi(*arguments: str | Path) -> None:
    result = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def open_to_others(folder: Path) -> list[str]:
    """Everything in a folder, and the folder, that its owner is not alone with."""
    places = [folder, *folder.rglob("*")]
    return [f"{path} {path.stat().st_mode & 0o777:o}" for path in places if path.stat().st_mode & 0o077]


@pytest.mark.parametrize("umask", ["000", pytest.param("077", marks=pytest.mark.slow)])
def test_a_new_site_is_its_owners_alone(tmp_path: Path, umask: str) -> None:
    site = tmp_path / "sites" / "site"
    command = f'umask {umask}; exec "$0" init "$1" --timezone Asia/Seoul'
    subprocess.run(["sh", "-c", command, MQI, str(site)], check=True, capture_output=True)
    assert open_to_others(tmp_path / "sites") == []
    settings = read_settings(site / "mqi.yaml")
    assert examine_modes(site / "mqi.yaml", settings).verdict is ProbeVerdict.OK
    for path in [site, *site.rglob("*")]:
        assert path.stat().st_mode & 0o700 == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.usefixtures("open_to_all")
def test_a_restored_site_is_no_more_open_than_its_backup(tmp_path: Path) -> None:
    mqi("init", tmp_path / "site", "--timezone", "Asia/Seoul")
    store = Store(tmp_path / "site/data")
    with store.stage("P1.fx0001", "b02", "rt_dose") as staged:
        (staged / "rt_dose.dcm").write_bytes(b"a dose")
        published = store.publish(staged, "P1.fx0001", "b02", "rt_dose", "0123", meta={})
    # As an earlier version, or somebody else, has left it.
    for path in (published.folder, *published.folder.iterdir()):
        path.chmod(0o777 if path.is_dir() else 0o666)
    mqi("backup", tmp_path / "backup", "--site", tmp_path / "site", "--data")
    assert open_to_others(tmp_path / "backup") == []
    other = tmp_path / "other"
    mqi("restore", tmp_path / "backup", other)
    for name in ("data", "config", "handover", "inbox"):
        assert open_to_others(other / name) == []
    for name in (
        ".",
        "mqi.yaml",
        "secret",
        "state",
        "state/ledger.sqlite",
        "dagster",
        "dagster/dagster.yaml",
    ):
        assert (other / name).stat().st_mode & 0o077 == 0, name

    (other / "data/cases/P1.fx0001/b02/rt_dose/0123/rt_dose.dcm").chmod(0o644)
    mqi("restore", tmp_path / "backup", other, "--overwrite")
    assert open_to_others(other / "data") == []


@pytest.mark.usefixtures("open_to_all")
def test_results_and_what_is_handed_over_are_the_owners_alone_or_a_groups(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    chain.deliver(plan=ONE_BEAM)
    chain.tick_sensors()
    (case,) = chain.runs_of("conclusion")
    assert (chain.handover / case / "_COMPLETE").is_file()
    assert open_to_others(chain.data) == []
    assert open_to_others(chain.handover) == []

    group = next(one for one in os.getgroups() if os.geteuid() != 0) if os.geteuid() else 1
    chain.change({"handover": {"access": "group", "group": grp.getgrgid(group).gr_name}})
    assert chain.run_asset("handed_over", chain.runs_of("beam")[0]).success
    assert chain.conclude(case).success
    modes = {path: path.stat() for path in [chain.handover, *chain.handover.rglob("*")]}
    assert {found.st_gid for found in modes.values()} == {group}
    assert {found.st_mode & 0o777 for path, found in modes.items() if path.is_dir()} == {0o750}
    assert {found.st_mode & 0o777 for path, found in modes.items() if path.is_file()} == {0o640}
    assert open_to_others(chain.data) == []


def test_doctor_says_who_else_may_read_or_change_a_site(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    settings, file = chain.site.settings, chain.settings_file
    assert chain.site.ledger.alarms.open() == [] and chain.site.store.root == settings.paths.data
    places = (tmp_path / "site", settings.paths.data, settings.paths.state, settings.paths.dagster_home)
    settings.handover.folder.mkdir()
    for place in (*places, settings.handover.folder):
        place.mkdir(exist_ok=True)
        place.chmod(0o700)
    assert examine_modes(file, settings).verdict is ProbeVerdict.OK
    settings.paths.data.chmod(0o755)
    found = examine_modes(file, settings)
    assert (found.verdict, found.found) == (ProbeVerdict.WARNING, "open to others: data")
    settings.paths.data.chmod(0o700)
    settings.handover.folder.chmod(0o755)
    found = examine_modes(file, settings)
    assert found.verdict is ProbeVerdict.WARNING and "handover" in found.found
    settings.paths.state.chmod(0o777)
    found = examine_modes(file, settings)
    assert (found.verdict, found.found) == (ProbeVerdict.FAULT, "others may change: state")
