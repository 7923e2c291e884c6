"""Segmentation on request: series of the PACS are asked for, and what became of that.

A request is a row of the ledger and a run of Dagster at once, found again by the key of its image set: the
same series and model asked for twice are the same request, and where the images are the same as well, the
same run. Its state is told from the run and the event log, and is kept nowhere else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import dagster as dg
from pydantic import BaseModel, ConfigDict

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.assets.segmentation.pipeline import SEGMENTATION
from mqi_dagster.assets.segmentation.segmentation import SECONDS
from mqi_dagster.dagster_internals import SENSOR_NAME_TAG
from mqi_dagster.dicom.pacs import PacsSeries
from mqi_dagster.errors import ConfigurationError, InputError, StoreError, UnreachableError, shown
from mqi_dagster.imaging.segmentation_files import SEGMENTATIONS, read_segmentations
from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.ledger.audit import Action, AuditRow
from mqi_dagster.lifecycle.case_reading import run_facts
from mqi_dagster.lifecycle.case_status import RunFacts
from mqi_dagster.lifecycle.image_set import (
    RECEIPT,
    REPORT_FILE,
    SEGMENTATION_FILE,
    ImageSetSource,
    fingerprint_of,
    present_series,
    read_source,
    read_stored,
    usable_model,
    write_source,
)
from mqi_dagster.lifecycle.jobs import PARTITION_TAG, RUN_KEY_TAG, image_set_tags, segmentation_job
from mqi_dagster.lifecycle.lineage import resolve
from mqi_dagster.lifecycle.materialisations import SEGMENTED, STORED, EventLog
from mqi_dagster.lifecycle.pipeline import Inventory
from mqi_dagster.lifecycle.run_requests import Room, arrival_key
from mqi_dagster.lifecycle.runs import UNFINISHED, RunRow, RunState
from mqi_dagster.lifecycle.stages import CaseState, Stage
from mqi_dagster.lifecycle.unit_status import unit_status
from mqi_dagster.operations.audited import audited
from mqi_dagster.operations.retry import repeat, services_of
from mqi_dagster.partitions import IMAGE_SET, model_of
from mqi_dagster.people.rights import Actor, Right
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors.image_sets import LAUNCH_SECONDS, SENSOR

BY_ITSELF = "system"
"""Who has asked for what is segmented without a request."""
_AT_ONCE = 200
_JOB = segmentation_job.name


class RequestState(StrEnum):
    """How far a request is."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


_ENDED = {RequestState.COMPLETED, RequestState.FAILED}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FoundRegion(_Part):
    """A region of the model."""

    name: str
    voxels: int
    """0 where it was not found."""
    volume_mm3: float


class RequestResult(_Part):
    """What a completed request has made."""

    regions: tuple[FoundRegion, ...]
    segmentation: str | None
    """Identifier of the DICOM Segmentation in the PACS; None where nothing was found."""
    report: str | None
    """Of the structured report; None where there is none."""
    commitment: str
    """Whether the PACS has promised to keep them, in words."""
    model_seconds: float
    """That the model took."""
    elapsed_seconds: float
    """From the start of the run to its end."""


class RequestStanding(_Part):
    """Where a request stands. Its identifiers are the PACS's, which go to who may ask, and into no log."""

    key: str
    """Of its image set: by it the request is found again."""
    model: str
    state: RequestState
    stage: Stage
    """Where in its way it is."""
    percent: float
    reason: str
    """Why it waits, or has failed; empty where neither is so."""
    next_step: str | None
    """What a person can do about its failure."""
    series: tuple[str, ...]
    """Identifiers in the PACS, the main one first; empty where they are not known here any more."""
    host: str
    """Where its model runs: `local`, or a host of `hosts`."""
    requested_at: datetime
    requested_by: str
    """Login, or ``system`` for what is segmented by itself."""
    started_at: datetime | None
    """Of its latest run; None before."""
    completed_at: datetime | None
    run_id: str | None
    result: RequestResult | None
    """None before it is completed, and where its results were removed since."""


def find_series(
    site: Site, actor: Actor, text: str = "", *, modality: str = "", limit: int = 100
) -> list[PacsSeries]:
    """Series of the PACS that may be asked for, the newest first.

    Who may not see identity gets none, and cannot look for a text: it would tell of names.

    Args:
        site: The installation.
        actor: Who looks; each look at identity is in the audit.
        text: Part of a patient's name or ID, or of a study's description; empty: whatever there is.
        modality: Only series of this one; empty: of any.
        limit: Most of them.

    Raises:
        NotAllowedError: The actor does not have the right ``request``, or for a text ``identity``.
        MqiError: There is no PACS, or it is away; see `Pacs`.
    """
    actor.require(Right.REQUEST)
    if not (text or actor.may(Right.IDENTITY)):
        found = site.pacs.find("", modality=modality, limit=limit)
        return [replace(one, patient_id="", patient_name="") for one in found]
    with audited(site, actor, Right.IDENTITY, Action.IDENTITY_READ, "PACS"):
        return site.pacs.find(text, modality=modality, limit=limit)


def ask(
    site: Site,
    instance: dg.DagsterInstance,
    actor: Actor,
    identifiers: Sequence[str],
    model: str,
    host: str | None = None,
) -> RequestStanding:
    """Ask for the segmentation of some series of the PACS, and have it begin at once.

    Asked for once more it is the same request. What has failed or was cancelled is tried again, and where
    the PACS has other images than then, they are segmented. Where the services do not run, or their queue is
    full, the request waits for them.

    Args:
        site: The installation.
        instance: Dagster's records.
        actor: Who asks.
        identifiers: Of the series, as the PACS calls them, in any order; the first one is the main one.
        model: Name of the model.
        host: Where it runs: `local`, or a host of `hosts`; None: where the settings say.

    Raises:
        NotAllowedError: The actor does not have the right ``request``.
        UnknownSeriesError: The PACS does not have one of the series.
        InputError: There is no such model to ask for, or the series are not what it takes.
        ConfigurationError: There is no PACS, or it lets this site not in.
        InfrastructureError: The PACS is away, or answers in a way that is none of a PACS's.
    """
    present, fingerprint = None, ""
    if actor.may(Right.REQUEST):
        require_pacs(site)
        present = present_series(site, site.pacs, usable_model(site, model).card, identifiers)
        fingerprint = fingerprint_of(site, site.pacs, present)
    subject = present.key if present is not None else shown(model)
    with audited(site, actor, Right.REQUEST, Action.SEGMENTATION_REQUESTED, subject) as told:
        assert present is not None
        write_source(site, present.key, ImageSetSource(model=model, series=tuple(identifiers), host=host))
        arrivals, until = site.ledger.arrivals, datetime.now(UTC) + timedelta(seconds=LAUNCH_SECONDS)
        if arrivals.take(present.arrival, present.key, fingerprint, IMAGE_SET.name, until):
            try:
                _start(site, instance, present.key, told)
            finally:
                arrivals.release(present.key)
    return standing(site, instance, present.key)


def require_pacs(site: Site) -> None:
    """Check that there is a PACS to ask.

    Raises:
        InputError: The settings name none.
    """
    if not site.settings.on_request.has_pacs:
        raise InputError("there is no PACS: on_request.orthanc or on_request.dicomweb names one")


def _start(site: Site, instance: dg.DagsterInstance, key: str, told: dict[str, str]) -> None:
    """Have a request begin, or begin anew, by whoever has taken that upon oneself."""
    arrivals = site.ledger.arrivals
    row, latest = arrivals.get(key), run_facts(instance, site.ledger, key)
    assert row is not None
    instance.add_dynamic_partitions(IMAGE_SET.name, [key])
    run_key, exists = arrival_key(instance, _JOB, row)
    services = services_of(site)
    try:
        if exists and latest.state in (RunState.FAILED, RunState.CANCELLED):
            repeat(instance, site, services, [key], PIPELINES, told)
        elif not exists:
            if latest.run is not None and latest.run.unfinished:
                # It reads the series of its start: the sensor has the present ones segmented afterwards.
                return
            if not Room(instance, PIPELINES, _JOB).take(1, row.priority):
                return
            # As if the sensor had asked for it, which then launches no second one.
            asked = {RUN_KEY_TAG: run_key, SENSOR_NAME_TAG: SENSOR}
            told[key] = services.launch(_JOB, key, {**image_set_tags(key, "", row.priority), **asked})
    except (ConfigurationError, UnreachableError):
        # The services do not run: the sensor asks for it once they do.
        return
    except InputError:
        # Somebody else has just had it tried again.
        return
    arrivals.mark_requested(key, row.fingerprint)


def standing(site: Site, instance: dg.DagsterInstance, key: str) -> RequestStanding:
    """Where a request stands.

    Args:
        site: The installation.
        instance: Dagster's records.
        key: Of its image set.

    Raises:
        InputError: There is no such request.
    """
    row = site.ledger.arrivals.get(key) if IMAGE_SET.has(key) else None
    if row is None:
        raise InputError(f"there is no request {shown(key)}; `mqi segmentation list` names those that are")
    return _standing(site, instance, row, _asked(site, [key]).get(key))


def requests(
    site: Site, instance: dg.DagsterInstance, states: Collection[RequestState] = ()
) -> Iterator[RequestStanding]:
    """Requests, the newest first, as far as somebody reads on.

    Args:
        site: The installation.
        instance: Dagster's records.
        states: Only those in one of these states; all where empty.
    """
    rows = site.ledger.arrivals.all(IMAGE_SET.name)
    if states and not set(states) & _ENDED:
        # Of thousands that have ended few can be told without their runs.
        open_ones = _unfinished(site, instance)
        rows = [row for row in rows if row.is_open or row.case in open_ones]
    rows.sort(key=lambda row: (row.requested_at or row.changed_at, row.case), reverse=True)
    for begin in range(0, len(rows), _AT_ONCE):
        some = rows[begin : begin + _AT_ONCE]
        asked = _asked(site, [row.case for row in some])
        for row in some:
            found = _standing(site, instance, row, asked.get(row.case))
            if not states or found.state in states:
                yield found


def _unfinished(site: Site, instance: dg.DagsterInstance) -> set[str]:
    """Image sets of which a run is queued or in work, or is tried again."""
    runs = instance.get_runs(dg.RunsFilter(job_name=_JOB, statuses=UNFINISHED))
    again = (outcome.partition for outcome in site.ledger.outcomes.open_retries())
    return {*(run.tags.get(PARTITION_TAG, "") for run in runs), *filter(IMAGE_SET.has, again)}


def _asked(site: Site, keys: Collection[str]) -> dict[str, AuditRow]:
    return site.ledger.audit.newest_of(Action.SEGMENTATION_REQUESTED, keys)


def _standing(
    site: Site, instance: dg.DagsterInstance, row: Arrival, asked: AuditRow | None
) -> RequestStanding:
    key, events = row.case, EventLog(instance)
    # The run first: one that has ended by then has left in the event log what it has made.
    latest = run_facts(instance, site.ledger, key)
    status = unit_status(
        SEGMENTATION.units.jobs,
        row,
        latest,
        lambda: SEGMENTATION.concluded(events, key, (), row, Inventory),
        SEGMENTATION.command,
    )
    state = _state(status.state, latest)
    source = _source(site, key)
    run = latest.run if latest.run is not None and state is not RequestState.PENDING else None
    return RequestStanding(
        key=key,
        model=model_of(IMAGE_SET.key(key)),
        state=state,
        stage=status.stage,
        percent=status.percent,
        reason=status.reason,
        next_step=status.next_step,
        series=() if source is None else source.series,
        host=(source and source.host) or site.settings.on_request.host,
        requested_at=row.first_seen if asked is None else asked.at,
        requested_by=BY_ITSELF if asked is None else asked.actor,
        started_at=None if run is None else run.started,
        completed_at=None if run is None else run.ended,
        run_id=None if latest.run is None else latest.run.run_id,
        result=_result(site, instance, key, run) if state is RequestState.COMPLETED else None,
    )


def _state(state: CaseState, latest: RunFacts) -> RequestState:
    if state is CaseState.COMPLETE:
        return RequestState.COMPLETED
    if state is CaseState.FAILED:
        return RequestState.FAILED
    return RequestState.PROCESSING if latest.state is RunState.WORKING else RequestState.PENDING


def _source(site: Site, key: str) -> ImageSetSource | None:
    try:
        return read_source(site, key)
    except InputError:
        return None


def _result(site: Site, instance: dg.DagsterInstance, key: str, run: RunRow | None) -> RequestResult | None:
    try:
        stored = read_stored(resolve(instance, site.store, STORED, key, only=(RECEIPT,)))
        segmented = resolve(instance, site.store, SEGMENTED, key, only=(SEGMENTATIONS,))
        (record,) = read_segmentations(segmented.folder).segmentations
    except StoreError:
        # Retention has removed it.
        return None
    took = run.ended - run.started if run is not None and run.ended and run.started else timedelta()
    return RequestResult(
        regions=tuple(
            FoundRegion(name=one.name, voxels=one.voxels, volume_mm3=round(one.volume_cm3 * 1000, 3))
            for one in record.regions
        ),
        segmentation=stored.stored.get(SEGMENTATION_FILE),
        report=stored.stored.get(REPORT_FILE),
        commitment=stored.commitment,
        model_seconds=float(segmented.meta[SECONDS]),
        elapsed_seconds=round(took.total_seconds(), 3),
    )
