"""What every test of the commands begins with."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_site_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No site in the working directory or the environment, whoever runs the tests where."""
    monkeypatch.delenv("MQI_SITE", raising=False)
    monkeypatch.chdir(tmp_path)
