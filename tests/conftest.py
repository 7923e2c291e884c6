"""Fixtures that every room's tests share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from mqi_dagster.embedded_engine.install import Installation, install_engine
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.machine import Machines, read_machines
from tests import vendor_plans
from tests.qa_twin import STUDY, write_twin

if TYPE_CHECKING:
    from dagster import DagsterInstance

# How long an example takes says something of the machine alone; what hangs is pytest-timeout's business.
settings.register_profile("mqi", deadline=None)
settings.load_profile("mqi")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what a test reports of itself also where it has passed, and in another process."""
    if config.getoption("capture") == "no":
        return
    for reports in (terminalreporter.getreports(outcome) for outcome in ("passed", "failed")):
        for report in reports:
            for name, value in report.user_properties:
                terminalreporter.section(f"{name}: {report.nodeid}")
                terminalreporter.write_line(str(value))


@pytest.fixture(scope="session", autouse=True)
def _no_models_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Models that whoever runs the tests has installed would join in them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real input beside the checkout; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "cases").is_dir():
        pytest.skip("the folder with real cases is not here")
    return folder


@pytest.fixture(scope="session")
def machines() -> Machines:
    """The machines of the product's own machine files."""
    return read_machines(Path(__file__).resolve().parents[1] / "mqi_dagster" / "config" / "machines")


@pytest.fixture
def vendor_plan(request: pytest.FixtureRequest, machines: Machines, tmp_path: Path) -> Path:
    """A plan by its name in `tests/vendor_plans.py`, given by an indirect parameter."""
    if request.param in vendor_plans.TWINS:
        return vendor_plans.write_twin(tmp_path / "vendor.dcm", request.param, machines.named("GENERIC"))
    shared: Path = request.getfixturevalue("shared")
    return shared / "cases" / "ion_plans" / f"{request.param}.dcm"


@pytest.fixture(scope="session")
def generated_qa(tmp_path_factory: pytest.TempPathFactory, machines: Machines) -> Path:
    """The case folder of the generated twin; nobody changes it."""
    return write_twin(tmp_path_factory.mktemp("qa") / "inbox", machines.named("G2"))


@pytest.fixture(scope="session", params=["generated", pytest.param("real", marks=pytest.mark.slow)])
def qa(request: pytest.FixtureRequest) -> Path:
    """The folder of the QA case: the twin in the default suite, the real one as well in the slow one."""
    if request.param == "generated":
        twin: Path = request.getfixturevalue("generated_qa")
        return twin
    shared: Path = request.getfixturevalue("shared")
    return shared / "cases" / "qa_9spots_g2" / STUDY


@pytest.fixture(scope="session")
def mcsquare() -> Installation:
    """A real MCsquare in the user's cache; tests that need it skip where no package index answers."""
    try:
        return install_engine()
    except InfrastructureError as error:
        pytest.skip(f"MCsquare cannot be fetched: {error}")


@pytest.fixture(scope="session")
def empty_instance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An instance on disk without a run; making one takes seconds, copying it does not."""
    import dagster as dg

    folder = tmp_path_factory.mktemp("instance") / "empty"
    folder.mkdir()
    dg.DagsterInstance.local_temp(str(folder)).dispose()
    return folder


@pytest.fixture
def disk_instance(empty_instance: Path, tmp_path: Path) -> Iterator[DagsterInstance]:
    """An instance on disk, in ``tmp_path/dagster``, which several processes can open."""
    import dagster as dg

    folder = tmp_path / "dagster"
    shutil.copytree(empty_instance, folder)
    instance = dg.DagsterInstance.local_temp(str(folder))
    yield instance
    instance.dispose()
