"""Courses by the services: from files in a tree, or in a real Orthanc, to concluded courses and tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.courses.made_objects import Made
from tests.dicom.orthanc_server import running_orthanc
from tests.services.stack import Stack
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_courses_of_a_tree_and_of_an_orthanc_conclude_by_themselves(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        source = orthanc.source
        section = {
            "dicom_root": str(tree),
            "scan_minutes": 0.02,
            "workers": 1,
            "orthanc": {
                "url": source.url,
                "user": source.user,
                "password_file": str(source.password_file),
            },
        }
        services = Stack(tmp_path / "stack", {"radiotherapy": section})
        with services.running():
            first = Made(1).at(tree)
            for content in first.whole():
                first.write(content)
            orthanc.store(*Made(2).whole())

            def concluded() -> set[str]:
                return set(services.materialised("course_report"))

            wait_for(lambda: len(concluded()) == 2, "both courses conclude", 300, report=services.report)
            wait_for(lambda: services.runs("cohort"), "the tables are asked for", 120, report=services.report)
            # More of one of them comes: that one alone is worked on again.
            orthanc.store(Made(2).plan(2, dose_gy=10.0))
            wait_for(
                lambda: sorted(services.materialised("course_report").values()) == [1, 2],
                "the changed course concludes again",
                300,
                report=services.report,
            )
