"""Requests of segmentation whose run was lost are asked for again; changes of the PACS are followed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from mqi_dagster.dicom.orthanc_pacs import OrthancPacs
from mqi_dagster.errors import InfrastructureError, MqiError
from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.lifecycle.boundary import safe_text
from mqi_dagster.lifecycle.image_set import (
    ImageSetSource,
    fingerprint_of,
    image_sets_of,
    present_series,
    read_source,
    usable_model,
    write_source,
)
from mqi_dagster.lifecycle.jobs import PARTITION_TAG, image_set_tags, segmentation_job
from mqi_dagster.lifecycle.pipeline import Pipeline
from mqi_dagster.lifecycle.run_requests import (
    REQUESTS_PER_TICK,
    Room,
    arrival_key,
    settle_requested,
    within_a_tick,
)
from mqi_dagster.lifecycle.runs import UNFINISHED
from mqi_dagster.partitions import IMAGE_SET
from mqi_dagster.resources.site import Site

SENSOR = "image_sets"
LAUNCH_SECONDS = 120.0
"""For so long whoever has taken it upon oneself to launch a run is not given up."""
_JOB = segmentation_job.name
_WATCHED = timedelta(hours=1)
"""After a request, for late images, where a PACS does not tell of changes."""


class _Tick:
    """One evaluation of the sensor."""

    def __init__(self, context: dg.SensorEvaluationContext, site: Site) -> None:
        self._context, self._site, self._pacs = context, site, site.pacs
        self.cursor = context.cursor

    def follow(self) -> str:
        """Write down what there is to be segmented; why the PACS cannot be asked now, empty where it can."""
        try:
            for identifier in within_a_tick(self._changed()):
                self._look(identifier)
        except InfrastructureError as error:
            return error.message
        return ""

    def _changed(self) -> Iterator[str]:
        """Series of the PACS that may be others than they were."""
        if not isinstance(self._pacs, OrthancPacs):
            since = datetime.now(UTC) - _WATCHED
            for row in self._site.ledger.arrivals.all(IMAGE_SET.name):
                if row.changed_at >= since:
                    yield from read_source(self._site, row.case).series[:1]
            return
        orthanc = self._pacs.orthanc
        newest = orthanc.newest_change()
        # Of the first look nothing is new, nor of one after its list was removed.
        last = min(newest, int(self.cursor)) if self.cursor else newest
        self.cursor = str(last)
        while last < newest:
            page = orthanc.changes(last)
            for change in page.Changes:
                if change.ChangeType == "StableSeries":
                    yield change.ID
                self.cursor = str(change.Seq)
            if page.Done or page.Last <= last:
                return
            last = page.Last

    def _look(self, identifier: str) -> None:
        """Write down the image sets that a series is part of, and the one that it makes by itself."""
        wanted = dict(image_sets_of(self._site, [identifier]))
        sources = [*wanted.values(), *self._by_itself(identifier)]
        for source in sources:
            try:
                self._note(source)
            except InfrastructureError:
                raise
            except MqiError as error:
                self._context.log.warning("a series is not segmented by %s: %s", source.model, error)
            except Exception as error:  # noqa: BLE001 - one series must not keep all others waiting
                self._context.log.error("a series cannot be looked at: %s", safe_text(error))

    def _by_itself(self, identifier: str) -> Iterator[ImageSetSource]:
        rules = self._site.settings.on_request.by_itself
        series = self._pacs.series(identifier) if rules else None
        for rule in rules if series is not None else ():
            assert series is not None
            fits = re.fullmatch(rule.description, series.description.strip(), re.IGNORECASE)
            if series.modality == rule.modality and fits:
                yield ImageSetSource(model=rule.model, series=(identifier,))

    def _note(self, source: ImageSetSource) -> None:
        site, arrivals = self._site, self._site.ledger.arrivals
        card = usable_model(site, source.model).card
        present = present_series(site, self._pacs, card, source.series)
        fingerprint = fingerprint_of(site, self._pacs, present)
        row = arrivals.get(present.key)
        if row is None:
            write_source(site, present.key, source)
        if row is None or row.fingerprint != fingerprint:
            arrivals.record(present.arrival, present.key, fingerprint, True, "", None, kind=IMAGE_SET.name)


def image_sets(interval: int, pipelines: Collection[Pipeline]) -> dg.SensorDefinition:
    """The sensor that repairs requests, and follows the changes of an Orthanc.

    Args:
        interval: Seconds.
        pipelines: Those of the site, which share the queue.
    """

    @dg.sensor(
        name=SENSOR,
        job=segmentation_job.definition,
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks for the run of a request of segmentation where it was lost, or could not begin; has"
        " new series of a kind segmented by themselves, and image sets once more that got late images.",
    )
    def sensor(context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site]) -> dg.SensorResult:
        if not site.settings.on_request.has_pacs:
            why = "on_request.orthanc or on_request.dicomweb names no PACS"
            return dg.SensorResult(skip_reason=dg.SkipReason(why))
        # Before anything is looked at: what was asked for is told from what has changed since.
        busy = _busy(context.instance)
        settle_requested(context.instance, site.ledger.arrivals, _JOB, _open(site, busy))
        tick = _Tick(context, site)
        why = tick.follow()
        requests = list(_requests(context.instance, site, pipelines, busy))
        keys = [str(request.partition_key) for request in requests]
        return dg.SensorResult(
            run_requests=requests,
            dynamic_partitions_requests=[IMAGE_SET.definition.build_add_request(keys)] if keys else [],
            skip_reason=None if requests else dg.SkipReason(why or "every request has its run"),
            cursor=tick.cursor,
        )

    return sensor


def _busy(instance: dg.DagsterInstance) -> set[str]:
    """Image sets of which a run is queued or in work."""
    runs = instance.get_runs(dg.RunsFilter(job_name=_JOB, statuses=UNFINISHED))
    return {run.tags.get(PARTITION_TAG, "") for run in runs}


def _open(site: Site, busy: Collection[str]) -> list[Arrival]:
    return site.ledger.arrivals.open(REQUESTS_PER_TICK + len(busy), IMAGE_SET.name)


def _requests(
    instance: dg.DagsterInstance, site: Site, pipelines: Collection[Pipeline], busy: Collection[str]
) -> Iterator[dg.RunRequest]:
    """The runs that nobody else is about to launch."""
    room, until = Room(instance, pipelines, _JOB), datetime.now(UTC) + timedelta(seconds=LAUNCH_SECONDS)
    for row in _open(site, busy):
        # What is in work reads the series of its start: it goes on with the present ones afterwards.
        if row.case in busy or not room.left(row.priority):
            continue
        if site.ledger.arrivals.take(row.arrival, row.case, row.fingerprint, row.kind, until):
            room.take(1, row.priority)
            run_key, _ = arrival_key(instance, _JOB, row)
            tags = image_set_tags(row.case, "", row.priority)
            yield dg.RunRequest(run_key=run_key, partition_key=row.case, tags=tags)
