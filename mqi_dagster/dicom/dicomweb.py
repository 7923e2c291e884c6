"""Any PACS by DICOMweb (PS3.18): QIDO-RS finds, WADO-RS gives, STOW-RS stores."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from mqi_dagster.dicom.elements import text_of
from mqi_dagster.dicom.pacs import PACS, PacsImage, PacsSeries, acquired_at, checked_identifier
from mqi_dagster.dicom.pacs_http import Answer, PacsHttp
from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.errors import HandoverError, InfrastructureError, InputError, UnknownSeriesError
from mqi_dagster.settings.on_request import DicomWeb

_TAGS = {
    "series_uid": "0020000E",
    "study_uid": "0020000D",
    "modality": "00080060",
    "description": "0008103E",
    "series_date": "00080021",
    "study_date": "00080020",
    "series_time": "00080031",
    "images": "00201209",
    "patient_id": "00100020",
    "patient_name": "00100010",
    "study_description": "00081030",
}
_OF_AN_IMAGE = {
    "instance_uid": "00080018",
    "number": "00200013",
    "date": "00080022",
    "time": "00080032",
}
_FOUND_AT_MOST = 500
_PARTS_OF_A_NAME = 3
_JSON = {"Accept": "application/dicom+json"}


class DicomWebPacs:
    """A PACS that speaks DICOMweb; see `Pacs`.

    Args:
        source: Where it is, and who asks.

    Raises:
        ConfigurationError: Its password cannot be read.
    """

    def __init__(self, source: DicomWeb) -> None:
        self._http = PacsHttp(source, "PACS", "on_request.dicomweb")

    def version(self) -> str:
        """That it answers; see `Pacs.version`."""
        self._query("/studies", _TAGS, limit="1")
        return "DICOMweb"

    def _query(self, path: str, tags: Mapping[str, str], **wanted: str) -> list[Mapping[str, Any]]:
        fields = {"includefield": ",".join(tags.values()), **wanted}
        # Not escaped where that need not be: some PACS take escapes for what they stand for nowhere.
        query = urlencode(fields, safe="*,")
        found = self._http.json("GET", f"{path}?{query}", headers=_JSON)
        with self._http.understood():
            return list(found or ())

    def series(self, identifier: str) -> PacsSeries | None:
        """See `Pacs.series`."""
        found = self._query("/series", _TAGS, SeriesInstanceUID=checked_identifier(identifier))
        with self._http.understood():
            if not found:
                return None
            made = _series(found[0])
            for first in self._query(f"{_path(made)}/instances", _OF_AN_IMAGE, limit="1"):
                taken = acquired_at(_text(first, _OF_AN_IMAGE["date"]), _text(first, _OF_AN_IMAGE["time"]))
                made = replace(made, acquired=taken or made.acquired)
        return made

    def find(self, text: str, *, modality: str = "", limit: int = 100) -> list[PacsSeries]:
        """See `Pacs.find`."""
        wanted = {"limit": str(_FOUND_AT_MOST), **({"Modality": modality} if modality else {})}
        found: dict[str, PacsSeries] = {}
        for key in ("PatientName", "PatientID", "StudyDescription") if text else ("",):
            # What would have to be escaped may be anything there, and is compared here.
            match = {key: f"*{re.sub('[^A-Za-z0-9.-]+', '*', text)}*"} if key else {}
            with self._http.understood():
                made = [_series(one) for one in self._query("/series", _TAGS, **wanted, **match)]
            found |= {one.series_uid: one for one in made if _has(one, text)}
        return sorted(found.values(), key=lambda one: one.acquired, reverse=True)[:limit]

    def images(self, series: PacsSeries, *, sums: bool = True) -> list[PacsImage]:
        """See `Pacs.images`."""
        with self._http.understood():
            return [
                PacsImage(
                    f"{series.study_uid}/{series.series_uid}/{uid}",
                    uid,
                    int(_text(one, _OF_AN_IMAGE["number"]) or 0),
                )
                for one in self._query(f"{_path(series)}/instances", _OF_AN_IMAGE)
                if (uid := checked_identifier(_text(one, _OF_AN_IMAGE["instance_uid"])))
            ]

    def file(self, identifier: str) -> bytes:
        """See `Pacs.file`; the identifier is the UIDs of study, series and object, parted by strokes."""
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        answer = self._http.send("GET", _instance(identifier), headers={"Accept": accept})
        if answer.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
            raise InputError("an object is not in the PACS any more", where=PACS)
        parts = list(self._parts(answer))
        if not answer.is_success or len(parts) != 1:
            raise InfrastructureError("it does not give one object where one is asked for", where=PACS)
        return parts[0]

    def _parts(self, answer: Answer) -> Iterator[bytes]:
        """The parts of a multipart answer (RFC 2046)."""
        with self._http.understood():
            fields = answer.headers["content-type"].split("boundary=")[1].split(";")[0].strip(' "')
            mark = b"--" + fields.encode("ascii")
            for part in (b"\r\n" + answer.content).split(b"\r\n" + mark)[1:]:
                if part.startswith(b"--"):
                    return
                yield part.partition(b"\r\n\r\n")[2]

    def preview(self, series: PacsSeries) -> bytes:
        """See `Pacs.preview`."""
        listed = sorted(self.images(series), key=lambda one: one.number)
        if not listed:
            return b""
        path = f"{_instance(listed[len(listed) // 2].identifier)}/rendered"
        answer = self._http.send("GET", path, headers={"Accept": "image/jpeg"})
        return answer.content if answer.is_success else b""

    def store(self, content: bytes) -> str:
        """See `Pacs.store`."""
        mark = f"mqi-{hashlib.sha256(content).hexdigest()[:32]}"
        head = f"--{mark}\r\nContent-Type: application/dicom\r\n\r\n".encode("ascii")
        body = head + content + f"\r\n--{mark}--\r\n".encode("ascii")
        kind = f'multipart/related; type="application/dicom"; boundary={mark}'
        answer = self._http.send("POST", "/studies", content=body, headers={**_JSON, "Content-Type": kind})
        header = read_dicom(
            content, only=("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), of_ours=True
        )
        study, series, uid = (text_of(header, f"{kind}InstanceUID") for kind in ("Study", "Series", "SOP"))
        with self._http.understood():
            stored = [
                one["00081155"]["Value"][0] for one in answer.json().get("00081199", {}).get("Value", ())
            ]
        if not answer.is_success or uid not in stored:
            raise HandoverError(f"the PACS refuses the object with HTTP {answer.status_code}", where=PACS)
        return f"{study}/{series}/{uid}"


def _series(found: Mapping[str, Any]) -> PacsSeries:
    told = {name: _text(found, tag) for name, tag in _TAGS.items()}
    uid, study = checked_identifier(told["series_uid"]), checked_identifier(told["study_uid"])
    return PacsSeries(
        identifier=uid,
        study=study,
        series_uid=uid,
        study_uid=study,
        modality=told["modality"],
        description=told["description"],
        acquired=acquired_at(told["series_date"], told["series_time"]) or told["study_date"],
        images=int(told["images"] or 0),
        patient_id=told["patient_id"],
        patient_name=told["patient_name"],
        study_description=told["study_description"],
    )


def _has(series: PacsSeries, text: str) -> bool:
    words = (series.patient_name, series.patient_id, series.study_description)
    return any(text.lower() in one.lower() for one in words)


def _text(found: Mapping[str, Any], tag: str) -> str:
    values = found.get(tag, {}).get("Value") or [""]
    first = values[0]
    return str(first.get("Alphabetic", "") if isinstance(first, dict) else first)


def _path(series: PacsSeries) -> str:
    return f"/studies/{checked_identifier(series.study_uid)}/series/{checked_identifier(series.series_uid)}"


def _instance(identifier: str) -> str:
    parts = [checked_identifier(one) for one in identifier.split("/")]
    if len(parts) != _PARTS_OF_A_NAME:
        raise UnknownSeriesError("this is no identifier of the PACS", where=PACS)
    return "/studies/{}/series/{}/instances/{}".format(*parts)
