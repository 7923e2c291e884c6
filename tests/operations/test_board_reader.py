"""The thread that reads the boards holds up nothing else of its process."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.operations.board_reader import BoardReader
from mqi_dagster.resources.site import Site


def test_records_that_cannot_be_opened_cost_no_look_for_garbage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mqi.yaml").write_text("site: {timezone: Asia/Seoul}\n")
    looks = list[int]()
    monkeypatch.setattr(gc, "collect", lambda *_: looks.append(1) or 0)
    reader = BoardReader(Site(tmp_path / "mqi.yaml"), None, again=True)
    for _ in range(3):
        with pytest.raises(ConfigurationError):
            reader.snapshot()
    assert looks == []
