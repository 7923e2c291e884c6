"""A segmentation is asked for while the services run: by several at once, and it is one run of theirs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.segmentation.on_request_site import images
from tests.segmentation.pacs_stand_in import pacs_stand_in
from tests.services.stack import MQI, Stack
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
JOB = "segmentation_on_request"


def asking(services: Stack, *words: str) -> subprocess.Popen[str]:
    """A command of `mqi segmentation` that has begun."""
    arguments = [str(MQI), "segmentation", *words, "--json", "--site", str(services.site)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=dict(os.environ))


def answer(asked: subprocess.Popen[str]) -> Any:
    """What it has printed."""
    told, _ = asked.communicate(timeout=300)
    assert asked.returncode == 0, told
    return json.loads(told)


def test_a_request_launches_a_run_of_the_services_however_many_ask(tmp_path: Path) -> None:
    with pacs_stand_in() as pacs:
        services = Stack(tmp_path / "stack", {"on_request": {"orthanc": {"url": pacs.url}}})
        series = pacs.store(*images())
        with services.running():
            several = [asking(services, "ask", series, "--model", "rules_ct") for _ in range(3)]
            found = [answer(one) for one in several]
            (key,) = {one["key"] for one in found}

            def completed() -> bool:
                return bool(answer(asking(services, "show", key))["state"] == "completed")

            wait_for(completed, "the request completes", 300, report=services.report)
            assert len(services.runs(JOB)) == 1
            assert services.materialised("segmentation_stored") == {key: 1}
            assert [one.tags["Modality"] for one in pacs.objects.values()].count("SEG") == 1
            # Asked for once more it is there.
            assert answer(asking(services, "ask", series, "--model", "rules_ct"))["state"] == "completed"
            # A late image, of which the PACS tells: it is made anew by itself, and stored as another object.
            pacs.store(*late())
            pacs.stable(series)
            wait_for(
                lambda: services.materialised("segmentation_stored") == {key: 2},
                "the late image makes it anew",
                300,
                report=services.report,
            )
            assert len(services.runs(JOB)) == 2


def late() -> list[bytes]:
    """One more plane of the series."""
    last = images(ImagePositionPatient=[-118.5, -88.5, 72.0], SOPInstanceUID="1.2.826.0.1.3680043.99.1")
    return last[-1:]
