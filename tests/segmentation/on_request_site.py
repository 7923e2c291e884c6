"""A site that segments on request, its real definitions, and services that run in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import yaml
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

from mqi_dagster.definitions import build_definitions
from mqi_dagster.errors import ConfigurationError
from mqi_dagster.lifecycle.lineage import latest_digest
from mqi_dagster.operations.graphql import GraphQL
from mqi_dagster.operations.segmentation_request import RequestStanding, ask, standing
from mqi_dagster.people.rights import Actor, Right
from mqi_dagster.resources.site import Site
from mqi_dagster.store.published import Published
from tests.assets.radiotherapy.course_site import COLUMNS, PLANES, ROWS, STEP_MM, body_hu
from tests.chain.chain import MACHINES, Outcome, merged, outcome_of
from tests.courses.made_objects import Made

PATIENT = Made(7, patient_id="IDENTIFYING-0815", name="Doe^Jane")
DOCTOR = Actor("doctor", frozenset({Right.LOOK, Right.REQUEST, Right.ACT}), "pages")
JOB = "segmentation_on_request"
SERVICES = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("mqi"), "__repository__"), JOB)
"""Where a run comes from that the services have launched."""
ASSETS = ("image_set", "segmentation", "segmentation_stored")


def images(
    series: int = 10, *, made: Made = PATIENT, modality: str = "CT", taken: str = "101500", **changes: Any
) -> list[bytes]:
    """The images of a series: a body with a rod of bone in it."""
    return [
        made.image(
            plane,
            series=series,
            modality=modality,
            **{
                "ImagePositionPatient": [-118.5, -88.5, STEP_MM * plane],
                "PixelSpacing": [STEP_MM, STEP_MM],
                "Rows": ROWS,
                "Columns": COLUMNS,
                "RescaleSlope": 1,
                "RescaleIntercept": -1024,
                "SeriesDescription": "Thorax",
                "StudyDescription": "Planning",
                "AcquisitionDate": "20240105",
                "AcquisitionTime": taken,
                "PixelPaddingValue": None,
                "PixelData": (hu + 1024).astype("<u2").tobytes(),
                **changes,
            },
        )
        for plane, hu in zip(range(PLANES), body_hu(), strict=True)
    ]


class OnRequestSite:
    """One site below a folder, with an instance in memory.

    Args:
        folder: Everything of the site lies below it.
        pacs: Address of its PACS.
        settings: Overrides of the settings, by section.
        instance: Dagster's; one in memory where None.
    """

    def __init__(
        self,
        folder: Path,
        pacs: str,
        settings: dict[str, Any] | None = None,
        instance: dg.DagsterInstance | None = None,
    ) -> None:
        base = {
            "site": {"timezone": "Asia/Seoul"},
            "paths": {"machines": str(MACHINES)},
            "execution": {
                "attempts": 1,
                "lease_poll_seconds": 0.05,
                "heartbeat_seconds": 1,
                "stale_seconds": 120,
            },
            "on_request": {"orthanc": {"url": pacs}},
            "radiotherapy": {"custom_models": {"root": str(folder / "models")}},
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        (folder / "mqi.yaml").write_text(yaml.safe_dump(merged(base, settings or {})))
        secret = folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text("5a" * 32 + "\n")
        (folder / "inbox").mkdir(exist_ok=True)
        self.instance = instance if instance is not None else dg.DagsterInstance.ephemeral()
        self.services = InProcess(self)
        self.cursor: str | None = None
        self.reopen()

    def reopen(self) -> None:
        """Open the site anew, as a restarted process does."""
        self.site = Site(self.folder / "mqi.yaml")
        self.definitions = build_definitions(self.site)

    def change(self, settings: dict[str, Any]) -> None:
        """Change the settings and open the site anew."""
        content = yaml.safe_load((self.folder / "mqi.yaml").read_text())
        (self.folder / "mqi.yaml").write_text(yaml.safe_dump(merged(content, settings)))
        self.reopen()

    def ask(self, *series: str, model: str = "rules_ct", actor: Actor = DOCTOR) -> RequestStanding:
        """Ask for a segmentation."""
        return ask(self.site, self.instance, actor, series, model)

    def standing(self, key: str) -> RequestStanding:
        """Where a request stands."""
        return standing(self.site, self.instance, key)

    def run(self, key: str, tags: Mapping[str, str] | None = None) -> Outcome:
        """One run of an image set."""
        result = self.definitions.resolve_job_def(JOB).execute_in_process(
            instance=self.instance, partition_key=key, tags=dict(tags or {}), raise_on_error=False
        )
        return outcome_of(result)

    def tick(self, *, launch: bool = True) -> list[str]:
        """Evaluate the sensor as the daemon does; partitions of the runs that it asks for.

        Args:
            launch: False stops before any run is created, as a crash there does.
        """
        sensor = next(one for one in self.definitions.sensors or () if one.name == "image_sets")
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            resources=dict(self.definitions.resources or {}),
            repository_def=self.definitions.get_repository_def(),
            sensor_name="image_sets",
        ) as context:
            if context.instance_ref is None:
                # An instance in memory has none, and without one no partition of a request is looked up.
                without_reference: Any = context
                without_reference._instance_ref = True
            data = sensor.evaluate_tick(context)
        self.said = data.skip_message or ""
        for added in data.dynamic_partitions_requests or ():
            self.instance.add_dynamic_partitions(added.partitions_def_name, list(added.partition_keys))
        requests = list(data.run_requests or ())
        if launch:
            self.cursor = data.cursor
            for request in requests:
                self.run(
                    str(request.partition_key), {**request.tags, "dagster/run_key": str(request.run_key)}
                )
        return [str(request.partition_key) for request in requests]

    def runs(self) -> list[dg.DagsterRun]:
        """Of image sets, the first one first."""
        return list(reversed(self.instance.get_runs(dg.RunsFilter(job_name=JOB))))

    def published(self, asset: str, key: str) -> Published:
        """What an asset has published last."""
        digest = latest_digest(self.instance, asset, key)
        assert digest is not None
        return self.site.store.resolve(key, None, asset, digest)

    @property
    def starts(self) -> int:
        """How many programs were started for models."""
        file = self.folder / "state" / "engine_starts"
        return len(file.read_text().splitlines()) if file.is_file() else 0


class InProcess(GraphQL):
    """Services that execute what they are asked for at once, where they run at all."""

    def __init__(self, of: OnRequestSite) -> None:
        self._of = of
        self.away = False
        self.only_queued = False
        self.outcomes: list[Outcome] = []

    def launch(self, job: str, partition: str, tags: Mapping[str, str]) -> str:
        self._require()
        assert job == JOB
        if self.only_queued:
            found = self._of.definitions.resolve_job_def(job)
            run_tags = {**tags, "dagster/partition": partition}
            return self._of.instance.create_run_for_job(
                found, tags=run_tags, status=dg.DagsterRunStatus.QUEUED, remote_job_origin=SERVICES
            ).run_id
        outcome = self._of.run(partition, tags)
        self.outcomes.append(outcome)
        return outcome.run_id

    def reexecute_from_failure(self, run_id: str) -> str:
        raise AssertionError("runs of this process are repeated by a backfill")

    def backfill(self, assets: Sequence[str], partitions: Sequence[str], title: str) -> str:
        self._require()
        assert tuple(assets) == ASSETS
        self.outcomes += [self._of.run(partition) for partition in partitions]
        return "backfill"

    def backfills(self) -> dict[str, list[str]]:
        return {}

    def _require(self) -> None:
        if self.away:
            raise ConfigurationError("nobody answers")


def bone(labels: np.ndarray[Any, Any]) -> int:
    """Voxels of the rod of bone, as the rules label it."""
    return int((labels == 4).sum())
