"""The version of an engine is part of every dose's digest: none is no version."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.execution.local import LocalExecutor
from mqi_dagster.lifecycle.beam import engine_version
from mqi_dagster.settings import EngineProfile


@pytest.fixture
def here(tmp_path: Path) -> LocalExecutor:
    return LocalExecutor(tmp_path)


def asked(*command: str) -> EngineProfile:
    return EngineProfile(command=("engine", "{tps}"), version_command=command)


def test_what_the_command_prints_is_the_version(here: LocalExecutor) -> None:
    assert engine_version(asked("echo", "moqui 1.5"), here) == "moqui 1.5"


@pytest.mark.parametrize(
    ("command", "told"),
    [(("true",), "prints nothing"), (("false",), "does not tell its version"), (("no-such",), "no-such")],
)
def test_without_a_version_nothing_is_simulated(
    here: LocalExecutor, command: tuple[str, ...], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        engine_version(asked(*command), here)


def test_the_settings_say_it_where_it_cannot_be_asked(here: LocalExecutor) -> None:
    profile = EngineProfile(command=("engine", "{tps}"), version="1.4")
    assert engine_version(profile, here) == "1.4"
    with pytest.raises(ConfigurationError, match="neither version nor version_command"):
        engine_version(profile.model_copy(update={"version": None}), here)
