"""An Orthanc from 1.10 on as the PACS of segmentation on request, by its REST API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

from mqi_dagster.dicom.orthanc import Orthanc
from mqi_dagster.dicom.pacs import PACS, PacsImage, PacsSeries, acquired_at, checked_identifier
from mqi_dagster.dicom.pacs_http import AT_ONCE
from mqi_dagster.errors import HandoverError, InputError
from mqi_dagster.settings.radiotherapy import OrthancSource

_FOUND_AT_MOST = 500
_NEWEST_DAYS = (7, 90)
"""So far back the newest studies are looked for, before all are."""


class OrthancPacs:
    """An Orthanc; see `Pacs`.

    Args:
        source: Where it is, and who asks.

    Raises:
        ConfigurationError: Its password cannot be read.
    """

    def __init__(self, source: OrthancSource) -> None:
        self.orthanc = Orthanc(source, "on_request.orthanc")
        self._http = self.orthanc.http

    def version(self) -> str:
        """Its version; see `Pacs.version`."""
        return f"Orthanc {self.orthanc.version()}"

    def series(self, identifier: str) -> PacsSeries | None:
        """See `Pacs.series`."""
        found = self._http.json("GET", f"/series/{checked_identifier(identifier)}")
        if found is None:
            return None
        with self._http.understood():
            study = self._http.json("GET", f"/studies/{found['ParentStudy']}")
            made = self._series(found, study)
            tags = self._http.json("GET", f"/instances/{found['Instances'][0]}/simplified-tags")
            taken = acquired_at(tags.get("AcquisitionDate") or "", tags.get("AcquisitionTime") or "")
        return replace(made, acquired=taken or made.acquired)

    def find(self, text: str, *, modality: str = "", limit: int = 100) -> list[PacsSeries]:
        """See `Pacs.find`."""
        series: list[PacsSeries] = []
        with self._http.understood():
            for study in self._studies(text, limit):
                for one in self._http.json("GET", f"/studies/{study['ID']}/series") or ():
                    made = self._series(one, study)
                    if modality in ("", made.modality):
                        series.append(made)
                if len(series) >= limit:
                    break
        return series[:limit]

    def _studies(self, text: str, limit: int) -> list[Mapping[str, Any]]:
        """Studies that are found, the newest first; each once."""
        asked: list[dict[str, str]] = [{"StudyDate": f"{_days_ago(days)}-"} for days in _NEWEST_DAYS]
        asked.append({"PatientID": "*"})
        if text:
            # Patient IDs are found by the plain letters in them alone.
            plain = re.sub(r"\s*[^ -~]+\s*", "*", text)
            asked = [
                {"PatientName": f"*{text}*"},
                {"PatientID": f"*{plain}*"},
                {"StudyDescription": f"*{text}*"},
            ]
        studies: dict[str, Mapping[str, Any]] = {}
        for query in asked:
            wanted = {"Level": "Study", "Query": query, "Expand": True, "Limit": _FOUND_AT_MOST}
            found = self._http.json("POST", "/tools/find", json=wanted)
            studies |= {str(one["ID"]): one for one in found}
            if not text and len(studies) >= limit:
                break

        def newest(study: Mapping[str, Any]) -> str:
            return str(study["MainDicomTags"].get("StudyDate", ""))

        return sorted(studies.values(), key=newest, reverse=True)

    @staticmethod
    def _series(found: Mapping[str, Any], study: Mapping[str, Any]) -> PacsSeries:
        tags, of_study, patient = (
            found["MainDicomTags"],
            study["MainDicomTags"],
            study["PatientMainDicomTags"],
        )
        begun = acquired_at(tags.get("SeriesDate", ""), tags.get("SeriesTime", ""))
        return PacsSeries(
            identifier=str(found["ID"]),
            study=str(found["ParentStudy"]),
            series_uid=str(tags["SeriesInstanceUID"]),
            study_uid=str(of_study["StudyInstanceUID"]),
            modality=str(tags.get("Modality", "")),
            description=str(tags.get("SeriesDescription", "")),
            acquired=begun or str(of_study.get("StudyDate", "")),
            images=len(found["Instances"]),
            patient_id=str(patient.get("PatientID", "")),
            patient_name=str(patient.get("PatientName", "")),
            study_description=str(of_study.get("StudyDescription", "")),
        )

    def images(self, series: PacsSeries, *, sums: bool = True) -> list[PacsImage]:
        """See `Pacs.images`."""
        found = self._http.json("GET", f"/series/{checked_identifier(series.identifier)}/instances")
        with self._http.understood():
            listed = [
                PacsImage(
                    identifier=checked_identifier(one["ID"]),
                    instance_uid=str(one["MainDicomTags"]["SOPInstanceUID"]),
                    number=int(one["MainDicomTags"].get("InstanceNumber") or 0),
                )
                for one in found or ()
            ]
        if not sums:
            return listed
        with ThreadPoolExecutor(AT_ONCE) as pool:
            told = list(pool.map(lambda one: self.orthanc.md5(one.identifier), listed))
        return [replace(one, md5=md5 or "") for one, md5 in zip(listed, told, strict=True)]

    def file(self, identifier: str) -> bytes:
        """See `Pacs.file`."""
        content = self.orthanc.file(checked_identifier(identifier))
        if content is None:
            raise InputError("an object is not in the PACS any more", where=PACS)
        return content

    def preview(self, series: PacsSeries) -> bytes:
        """See `Pacs.preview`."""
        listed = sorted(self.images(series, sums=False), key=lambda one: one.number)
        if not listed:
            return b""
        answer = self._http.send("GET", f"/instances/{listed[len(listed) // 2].identifier}/preview")
        return answer.content if answer.is_success else b""

    def store(self, content: bytes) -> str:
        """See `Pacs.store`."""
        answer = self._http.send("POST", "/instances", content=content)
        if answer.status_code != HTTPStatus.OK:
            raise HandoverError(f"Orthanc refuses the object with HTTP {answer.status_code}", where=PACS)
        with self._http.understood():
            return checked_identifier(str(answer.json()["ID"]))


def _days_ago(days: int) -> str:
    return f"{datetime.now(UTC) - timedelta(days=days):%Y%m%d}"
