"""Requests as the laboratory's programs make them: they name no model, and may say where it runs."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
import numpy as np
from PIL import Image
from pydicom.uid import SegmentationStorage

from mqi_dagster.dicom.elements import text_of
from mqi_dagster.dicom.pacs import repeated
from mqi_dagster.dicom.reading import decoding, read_dicom
from mqi_dagster.errors import InputError, MqiError, UnknownSeriesError
from mqi_dagster.lifecycle.image_set import asked_models
from mqi_dagster.operations.segmentation_request import RequestStanding, ask, require_pacs
from mqi_dagster.people.rights import Actor
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import LOCAL

VARIABLE = "USE_LOCAL_INFERENCE"
"""Whether models run at the laboratory where nobody says anything else."""


def chosen_host(
    site: Site, *, use_local: bool, force_server: bool, environment: Mapping[str, str] = os.environ
) -> str | None:
    """Where the model of a request runs; None: where the settings say.

    Args:
        site: The installation.
        use_local: Whether the laboratory is asked for.
        force_server: Whether this machine is, which goes before.
        environment: Where `VARIABLE` may stand.

    Raises:
        InputError: The settings name no laboratory.
    """
    if force_server:
        return LOCAL
    if not use_local and environment.get(VARIABLE, "").strip().lower() != "true":
        return None
    if site.settings.on_request.laboratory is None:
        raise InputError("there is no laboratory to ask: on_request.laboratory names its host")
    return site.settings.on_request.laboratory


def chosen_model(site: Site, count: int) -> str:
    """The model that is meant where a request names none.

    Args:
        site: The installation.
        count: Of the series that were named.

    Raises:
        InputError: None that takes so many may be asked for, or several may.
    """
    named = site.settings.on_request.model
    if named is not None:
        return named
    fitting = [
        one.name
        for one in asked_models(site)
        if one.card is not None and not one.reason and len(one.card.inputs) == count
    ]
    if len(fitting) != 1:
        raise InputError(
            f"{len(fitting) or 'no'} models take {count} series: on_request.model names the one that is meant"
        )
    return fitting[0]


def ask_by_series(
    site: Site,
    instance: dg.DagsterInstance,
    actor: Actor,
    main: str,
    identifiers: Sequence[str],
    *,
    host: str | None,
) -> RequestStanding:
    """Ask for the segmentation of some series, the main one of which stands in the address.

    Args:
        site: The installation.
        instance: Dagster's records.
        actor: Who asks.
        main: Identifier of the main series.
        identifiers: Of all, in any order.
        host: Where the model runs; None: where the settings say.

    Raises what `segmentation_request.ask` does.
    """
    if main not in identifiers:
        raise InputError("the series of the address is none of sequence_series_ids")
    others = [one for one in identifiers if one != main]
    # A series that is named twice stays named twice, and is refused.
    doubled = [main] * (len(identifiers) - len(others))
    series = (*doubled, *others)
    return ask(site, instance, actor, series, chosen_model(site, len(series)), host)


def health_of(site: Site) -> dict[str, Any]:
    """The models that may be asked for, and whether the PACS answers."""
    orthanc: dict[str, Any]
    try:
        orthanc = {"connected": True, "version": site.pacs.version()}
    except MqiError as error:
        orthanc = {"connected": False, "error": error.message}
    return {"models": [one.name for one in asked_models(site) if not one.reason], "orthanc": orthanc}


def frames_of(site: Site, identifier: str) -> Iterator[str]:
    """The frames of a DICOM Segmentation in the PACS, each as a PNG in base 64.

    Raises:
        UnknownSeriesError: The PACS has no segmentation of this identifier.
    """
    require_pacs(site)
    try:
        content = repeated(lambda: site.pacs.file(identifier))
    except UnknownSeriesError:
        raise
    except InputError:
        raise UnknownSeriesError("the PACS has no such segmentation") from None
    # Whose images it shows is not asked here: nothing but a mask is given.
    with decoding():
        dataset = read_dicom(content)
        if text_of(dataset, "SOPClassUID") != SegmentationStorage:
            raise UnknownSeriesError("the PACS has no such segmentation")
        frames = dataset.pixel_array
    for frame in frames if frames.ndim == 3 else frames[np.newaxis]:
        buffer = io.BytesIO()
        Image.fromarray(np.where(frame > 0, 255, 0).astype(np.uint8)).save(buffer, "png", optimize=False)
        yield base64.b64encode(buffer.getvalue()).decode()
