"""The QA case for the tests of reading and checking deliveries: generated, and real where that is present."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqi_dagster.machine import Machines
from tests.delivery.delivery_cases import STUDY
from tests.delivery.qa_twin import write_twin


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
