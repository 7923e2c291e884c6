"""`mqi course run` whose courses meet faults: what is to become of each stands in a file beside the settings.

Run as a program it is `mqi` with such courses.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Event

from mqi_dagster.assets.radiotherapy import organise
from mqi_dagster.cli import main
from mqi_dagster.courses.inventory import CourseInventory
from mqi_dagster.errors import InputError
from mqi_dagster.imaging.course_facts import CourseFacts
from mqi_dagster.operations import course_run, course_worker

FAULTS = "faults.json"


def run_course(settings_file: str, course: str, assets: list[str]) -> str | None:
    """As the real one, in a process in which the course's fault happens while its files are read."""
    faults = Path(settings_file).with_name(FAULTS)
    fault = json.loads(faults.read_text()).get(course) if faults.exists() else None
    if fault is not None:
        met, real = Path(settings_file).with_name(f"{course}.met"), organise.read_once

        def read_once(
            root: Path, inventory: CourseInventory, course: str
        ) -> tuple[dict[str, str], CourseFacts]:
            first = not met.exists()
            with met.open("a", encoding="ascii") as stream:
                stream.write(f"{os.getpid()}\n")
            if fault == "damaged":
                raise InputError("a file of the course is damaged")
            if fault == "killed once" and first:
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "no memory once" and first:
                raise MemoryError
            if fault == "hangs":
                Event().wait()
            return real(root, inventory, course)

        organise.read_once = read_once
    return course_worker.run_course(settings_file, course, assets)


def use(out: Path, faults: Mapping[str, str]) -> None:
    """Have courses of a folder of results meet faults."""
    (out / FAULTS).write_text(json.dumps(faults))


if __name__ == "__main__":
    from tests.cli import course_faults

    course_run.run_course = course_faults.run_course
    sys.exit(main())
