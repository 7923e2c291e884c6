"""Something that answers as an Orthanc does, in this process, with faults that a test asks for."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import pydicom

_LEVELS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_SERIES = ("SeriesInstanceUID", "Modality", "SeriesDescription", "SeriesDate", "SeriesTime")
_STUDY = ("StudyInstanceUID", "StudyDate", "StudyDescription")


@dataclass
class Stored:
    """An object."""

    content: bytes
    tags: dict[str, str]
    ids: tuple[str, str, str, str]
    """Of patient, study, series and object, as Orthanc makes them."""


def _identifier(*parts: str) -> str:
    digest = hashlib.sha1("|".join(parts).encode()).hexdigest()
    return "-".join(digest[at : at + 8] for at in range(0, 40, 8))


@dataclass
class StandIn:
    """An Orthanc that is none."""

    port: int = 0
    objects: dict[str, Stored] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """Method and path of every request."""
    fails: dict[str, list[int]] = field(default_factory=dict)
    """Statuses that the next requests of these methods and paths (regular expressions) are answered with."""
    given: dict[str, bytes] = field(default_factory=dict)
    """What is given in place of an object's file."""
    before: Callable[[str], None] = lambda asked: None
    """Called before each answer."""
    filtered: bool = False
    """Whether what is sent is answered with success and not kept."""

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def store(self, *contents: bytes) -> str:
        """Take objects; the identifier of the series of the last one."""
        series = ""
        for content in contents:
            dataset = pydicom.dcmread(BytesIO(content), stop_before_pixels=True)
            tags = {
                element.keyword: str(element.value)
                for element in dataset
                if element.VR != "SQ" and element.value is not None
            }
            uids = [tags[one] for one in _LEVELS]
            ids = tuple(_identifier(*uids[: level + 1]) for level in range(4))
            self.objects.setdefault(ids[3], Stored(content, tags, ids))  # type: ignore[arg-type]
            series = ids[2]
        return series

    def stable(self, series: str) -> None:
        """Say that a series has not changed for a while."""
        change = {"ChangeType": "StableSeries", "ID": series, "Seq": len(self.changes) + 1}
        self.changes.append(change)

    def of(self, level: int, identifier: str) -> list[Stored]:
        """The objects of a patient (0), study or series (2)."""
        return [one for one in self.objects.values() if one.ids[level] == identifier]

    def modalities(self) -> list[str]:
        """Of every object, in order."""
        return sorted(one.tags["Modality"] for one in self.objects.values())

    def answer(self, method: str, path: str, content: bytes) -> tuple[int, bytes]:
        """Status and content."""
        self.asked.append(f"{method} {path}")
        self.before(f"{method} {path}")
        for wanted, statuses in self.fails.items():
            if statuses and re.fullmatch(wanted, f"{method} {path}"):
                return statuses.pop(0), b""
        if (method, path) == ("POST", "/instances"):
            return self._taken(content)
        found = self._found(path.split("?")[0].strip("/").split("/"), path, content)
        if found is None:
            return 404, b""
        return 200, found if isinstance(found, bytes) else json.dumps(found).encode()

    def _taken(self, content: bytes) -> tuple[int, bytes]:
        kept = dict(self.objects)
        self.store(content)
        uid = str(pydicom.dcmread(BytesIO(content), stop_before_pixels=True).SOPInstanceUID)
        (identifier,) = (name for name, one in self.objects.items() if one.tags["SOPInstanceUID"] == uid)
        status = "AlreadyStored" if identifier in kept else "Success"
        if self.filtered:
            self.objects = kept
        return 200, json.dumps({"ID": identifier, "Status": status}).encode()

    def _found(self, parts: list[str], path: str, content: bytes) -> Any:
        match parts:
            case ["system"]:
                return {"Version": "1.11.0"}
            case ["changes"]:
                since = int((re.findall(r"since=(\d+)", path) or ["0"])[0])
                last = len(self.changes)
                newer = [] if "last" in path.split("?")[1] else self.changes[since:]
                return {"Changes": newer, "Done": True, "Last": last}
            case ["tools", "find"]:
                return self._query(json.loads(content)["Query"])
            case ["studies", identifier]:
                return self._study(identifier)
            case ["studies", identifier, "series"]:
                return [self._one_series(one) for one in sorted({s.ids[2] for s in self.of(1, identifier)})]
            case ["series", identifier]:
                return self._one_series(identifier)
            case ["series", identifier, "instances"]:
                return [
                    {
                        "ID": one.ids[3],
                        "MainDicomTags": _some(one, ("SOPInstanceUID", "InstanceNumber")),
                    }
                    for one in self.of(2, identifier)
                ] or None
            case ["instances", identifier, *what] if identifier in self.objects:
                return self._instance(self.objects[identifier], "/".join(what))
        return None

    def _instance(self, one: Stored, what: str) -> Any:
        match what:
            case "file":
                return self.given.get(one.ids[3], one.content)
            case "attachments/dicom/md5":
                return hashlib.md5(one.content).hexdigest().encode()
            case "simplified-tags":
                return one.tags
            case "preview":
                return b"\x89PNG"
        return None

    def _one_series(self, identifier: str) -> dict[str, Any] | None:
        found = self.of(2, identifier)
        if not found:
            return None
        return {
            "ID": identifier,
            "ParentStudy": found[0].ids[1],
            "Instances": [one.ids[3] for one in found],
            "MainDicomTags": _some(found[0], _SERIES),
        }

    def _study(self, identifier: str) -> dict[str, Any] | None:
        found = self.of(1, identifier)
        if not found:
            return None
        return {
            "ID": identifier,
            "MainDicomTags": _some(found[0], _STUDY),
            "PatientMainDicomTags": _some(found[0], ("PatientID", "PatientName")),
        }

    def _query(self, query: dict[str, str]) -> list[Any]:
        ((key, wanted),) = query.items()
        text = wanted.strip("*").lower()
        fits = {
            one.ids[1]
            for one in self.objects.values()
            if (wanted.endswith("-") and one.tags.get(key, "") >= wanted[:-1])
            or (not wanted.endswith("-") and text in one.tags.get(key, "").lower())
        }
        return [self._study(one) for one in sorted(fits)]


def _some(one: Stored, keywords: tuple[str, ...]) -> dict[str, str]:
    return {keyword: one.tags[keyword] for keyword in keywords if keyword in one.tags}


@contextmanager
def pacs_stand_in() -> Iterator[StandIn]:
    """A stand-in at a free port."""
    shown = StandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = shown.answer(self.command, self.path, content)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._any()

        def do_POST(self) -> None:
            self._any()

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    shown.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield shown
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
