"""Segmentation on request: the PACS, and which series are segmented by themselves."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from mqi_dagster.settings.radiotherapy import OrthancSource
from mqi_dagster.settings.section import Count, Seconds, Section
from mqi_dagster.settings.sections import LOCAL, HostName

Port = Annotated[int, Field(ge=1, le=65535)]
AeTitle = Annotated[str, Field(pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$")]

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class DicomWeb(OrthancSource):
    """A PACS that speaks DICOMweb (QIDO-RS, WADO-RS, STOW-RS)."""


class StorageCommitment(Section):
    """The DICOM service by which a PACS promises to keep what it was given."""

    host: str = Field(pattern=r"^[A-Za-z0-9.:\[\]-]+$", description="Of the PACS's DICOM port.")
    port: Port = Field(104, description="Its DICOM port.")
    called_aet: AeTitle = Field(description="AE title of the PACS.")
    calling_aet: AeTitle = Field("MQI", description="AE title of this site, as the PACS knows it.")
    listen_host: str = Field("127.0.0.1", description="Address at which the PACS's report is waited for.")
    listen_port: Port = Field(11112, description="And its port.")
    timeout_seconds: Seconds = Field(60.0, description="For so long the report is waited for.")


class ByItself(Section):
    """New series of a kind, each segmented without a request."""

    model: ModelName = Field(description="A model with one input.")
    modality: str = Field(pattern=r"^[A-Z]{2,16}$", description="Of the series.")
    description: str = Field(
        ".*", description="Regular expression of the whole Series Description, letter case aside."
    )

    @field_validator("description")
    @classmethod
    def _expression(cls, text: str) -> str:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return text


class OnRequest(Section):
    """Segmentation of image series in a PACS, when somebody asks for it. Models run on the host that stands
    here, in the way that `radiotherapy.segmentation` says."""

    orthanc: OrthancSource | None = Field(None, description="An Orthanc, by its REST API.")
    dicomweb: DicomWeb | None = Field(None, description="Any PACS, by DICOMweb.")
    commitment: StorageCommitment | None = Field(None, description="Asked after each result was stored.")
    models: tuple[str, ...] | None = Field(
        None, description="Models that may be asked for; null: all that can be used (`mqi model list`)."
    )
    by_itself: tuple[ByItself, ...] = Field((), description="Series that are segmented without a request.")
    host: HostName = Field(LOCAL, description="Where models run: `local`, or a host of `hosts`.")
    laboratory: HostName | None = Field(
        None,
        description="Where models run of who asks for `use_local`, or where `USE_LOCAL_INFERENCE` is true.",
    )
    model: ModelName | None = Field(
        None,
        description="That requests by `/api/mri` are for, which name none; null: the only one that takes"
        " as many series.",
    )
    wait_seconds: Seconds = Field(
        300.0, description="For so long a request by `/api/mri` waits for its result."
    )
    workers: Count = Field(2, description="Image sets at once, where there are slots for them.")
    structured_report: bool = Field(
        False, description="Whether a DICOM report with the volumes is stored beside each segmentation."
    )
    poll_seconds: Count = Field(10, description="How often the changes of the PACS are looked at.")

    @model_validator(mode="after")
    def _one_pacs(self) -> Self:
        if self.orthanc is not None and self.dicomweb is not None:
            raise ValueError("orthanc and dicomweb: one of them")
        if self.by_itself and self.orthanc is None:
            raise ValueError("by_itself follows the changes of an Orthanc: set orthanc")
        return self

    @property
    def has_pacs(self) -> bool:
        """Whether there is anything to ask for."""
        return self.orthanc is not None or self.dicomweb is not None
