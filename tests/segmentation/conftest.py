"""A site that segments on request, and its PACS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mqi_dagster.dicom import pacs as pacs_module
from mqi_dagster.operations import segmentation_request
from tests.segmentation.on_request_site import OnRequestSite
from tests.segmentation.pacs_stand_in import StandIn, pacs_stand_in


@pytest.fixture
def pacs() -> Iterator[StandIn]:
    """A stand-in of an Orthanc."""
    with pacs_stand_in() as shown:
        yield shown


@pytest.fixture
def site(tmp_path: Path, pacs: StandIn, monkeypatch: pytest.MonkeyPatch) -> OnRequestSite:
    """A site whose services run in this process."""
    made = OnRequestSite(tmp_path / "site", pacs.url)
    monkeypatch.setattr(segmentation_request, "services_of", lambda of: made.services)
    monkeypatch.setattr(pacs_module, "_BACKOFF", pacs_module.Backoff(0.001, 0.001))
    return made
