"""A site whose courses come from a tree of DICOM files, its real sensors, and hands to move them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from mqi_dagster.definitions import build_definitions
from mqi_dagster.lifecycle.materialisations import COURSE_REPORT
from mqi_dagster.resources.dicom_source import ScanProcess, look
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import read_settings
from tests.chain.chain import MACHINES, merged
from tests.courses.made_objects import Made

ALWAYS = 1e-9
"""Minutes between two looks at the tree."""
LITTLE = {"radiomics": {"enabled": False}, "segmentation": {"enabled": False}}
"""What is made of a course here: no process is started for it."""


class LookHere(ScanProcess):
    """A look at the tree without a process of its own, which `test_dicom_source` is about."""

    fault = ""

    def __init__(self, settings_file: Path) -> None:
        look(read_settings(settings_file))

    def ended(self, seconds: float) -> bool:
        """At once."""
        return True


class CourseSite:
    """One site below a folder, with an instance in memory.

    Args:
        folder: Everything of the site lies below it, and its tree.
        settings: Overrides of the settings, by section.
    """

    def __init__(self, folder: Path, settings: dict[str, Any] | None = None) -> None:
        self.tree = folder / "tree"
        self.tree.mkdir(parents=True)
        base = {
            "site": {"timezone": "UTC"},
            "paths": {"machines": str(MACHINES)},
            "intake": {"stable_seconds": 0},
            "radiotherapy": {"dicom_root": str(self.tree), "scan_minutes": ALWAYS, "workers": 1, **LITTLE},
        }
        self.settings_file = folder / "mqi.yaml"
        self.settings_file.write_text(yaml.safe_dump(merged(base, settings or {})))
        secret = folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text("5a" * 32 + "\n")
        (folder / "inbox").mkdir()
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursors: dict[str, str | None] = {}
        self.said = ""
        """Why the latest tick has asked for nothing."""
        self.reopen()

    def reopen(self) -> None:
        """Open the site anew, as a restarted process does."""
        self.site = Site(self.settings_file)
        self.definitions = build_definitions(self.site)

    def change(self, settings: dict[str, Any]) -> None:
        """Change the settings and open the site anew."""
        content = merged(yaml.safe_load(self.settings_file.read_text()), settings)
        self.settings_file.write_text(yaml.safe_dump(content))
        self.reopen()

    def course(self, number: int, **patient: Any) -> Made:
        """What makes the objects of a course of the tree."""
        return Made(number, **patient).at(self.tree)

    def write(self, *numbers: int) -> None:
        """Write whole courses of three images, a structure set, a plan and a dose each."""
        for number in numbers:
            made = self.course(number)
            for content in made.whole():
                made.write(content)

    def tick(self, name: str = "dicom_arrivals", *, launch: bool = True) -> list[dg.RunRequest]:
        """Evaluate a sensor as the daemon does, until the look at the tree has ended; start what it asks for.

        Args:
            name: The sensor.
            launch: False stops before any run is created, as a crash there does.
        """
        while True:
            data = self.evaluated(name)
            self.said = data.skip_message or ""
            if not self.said.startswith("the tree is being looked at"):
                break
        for added in data.dynamic_partitions_requests or ():
            self.instance.add_dynamic_partitions(added.partitions_def_name, list(added.partition_keys))
        requests = list(data.run_requests or ())
        if launch:
            self.cursors[name] = data.cursor
            for request in requests:
                self.run(self._sensor(name).job_name, request)
        return requests

    def run(self, job: str, request: dg.RunRequest) -> bool:
        """Execute a run that was asked for; whether it succeeded."""
        result = self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            partition_key=request.partition_key,
            tags={**request.tags, "dagster/run_key": str(request.run_key)},
            raise_on_error=False,
        )
        return result.success

    def begin(self, request: dg.RunRequest) -> dg.DagsterRun:
        """A run of a course that was asked for, not executed."""
        tags = {"dagster/run_key": str(request.run_key), "dagster/partition": str(request.partition_key)}
        course = self.definitions.resolve_job_def("course")
        return self.instance.create_run_for_job(course, tags={**request.tags, **tags})

    def runs(self, job: str = "course") -> list[str | None]:
        """Partitions of all runs of a job, the first one first."""
        found = self.instance.get_runs(dg.RunsFilter(job_name=job))
        return [run.tags.get("dagster/partition") for run in reversed(list(found))]

    def keys(self, requests: Collection[dg.RunRequest]) -> list[str]:
        """Their partitions, in order."""
        return sorted(str(request.partition_key) for request in requests)

    def reports(self) -> list[str]:
        """Courses that have a report."""
        return sorted(self.instance.get_materialized_partitions(dg.AssetKey(COURSE_REPORT)))

    def _sensor(self, name: str) -> dg.SensorDefinition:
        return next(one for one in self.definitions.sensors or () if one.name == name)

    def evaluated(self, name: str) -> Any:
        """One tick of a sensor, of whose requests nothing becomes."""
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursors.get(name),
            resources=dict(self.definitions.resources or {}),
            repository_def=self.definitions.get_repository_def(),
            sensor_name=name,
        ) as context:
            if context.instance_ref is None:
                # An instance in memory has none, and without one no partition of a request is looked up.
                without_reference: Any = context
                without_reference._instance_ref = True
            return self._sensor(name).evaluate_tick(context)
