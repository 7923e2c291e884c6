"""Looking at the source of courses in a process of its own: Orthanc's changes first, then the tree.

``python -m mqi_dagster.resources.dicom_source <settings file>``: a tree of millions of files takes longer
than anybody may wait who asks for it. The process dies with the one that started it, and whoever starts the
next one goes on where it stood. What it has found stands in a record beside the index.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mqi_dagster.courses.dicom_index import DicomIndex, ScanProgress
from mqi_dagster.dicom.orthanc import Orthanc, follow
from mqi_dagster.errors import MqiError
from mqi_dagster.files import private_folder, write_whole
from mqi_dagster.processes.worker_counts import effective_workers, processors
from mqi_dagster.settings import Settings, read_settings
from mqi_dagster.tied import tied_command

INDEX_FILE = "dicom_index.db"
RECORD_FILE = "dicom_scan.json"
FOLLOWED_FILE = "orthanc.json"
_SHOWN_EVERY_S = 2.0
_UNEXPECTED = "it ended in an unforeseen way"


class SourceTrouble(BaseModel):
    """Why a source could not be looked at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    """Without paths."""
    since: datetime
    """UTC."""


class ScanRecord(BaseModel):
    """What the latest look at the source has found: one file, written whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    began_at: datetime
    """UTC."""
    ended_at: datetime | None = None
    """UTC; None while it is at work, or where it was killed."""
    stage: str = ""
    done: int = 0
    total: int = 0
    eta_s: float | None = None
    files: int = 0
    opened: int = 0
    removed: int = 0
    copied: int = 0
    """Objects that came from Orthanc."""
    only_here: int = 0
    """Copies of objects that Orthanc has deleted since."""
    tree: SourceTrouble | None = None
    """Of the tree; None where it was read."""
    orthanc: SourceTrouble | None = None

    @property
    def words(self) -> str:
        """How far it is, for people."""
        if not self.stage:
            return "it begins"
        rest = "" if self.eta_s is None else f", about {self.eta_s:.0f} s left"
        return f"{self.stage}: {self.done:,}/{self.total:,}{rest}"


def read_record(state: Path) -> ScanRecord | None:
    """What the latest look has found; None where there was none.

    Args:
        state: ``paths.state``.
    """
    try:
        return ScanRecord.model_validate_json((state / RECORD_FILE).read_bytes())
    except (OSError, ValidationError):
        # It is written anew by the next look, and nothing depends on an old one.
        return None


class ScanProcess:
    """One look at the source, at work.

    Args:
        settings_file: Of the site.
    """

    def __init__(self, settings_file: Path) -> None:
        argv = (sys.executable, "-m", __name__, str(settings_file.resolve()))
        # Whatever it might print could hold a path.
        self._process = subprocess.Popen(
            tied_command(sys.executable, *argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def ended(self, seconds: float) -> bool:
        """Whether it has ended, waiting for at most so long."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def fault(self) -> str:
        """Why an ended one has no result; empty where it has one."""
        code = self._process.returncode
        if not code:
            return ""
        return f"the process that looks at it was killed (signal {-code})" if code < 0 else _UNEXPECTED


def main(settings_file: Path) -> None:
    """Look at the source once, and write down what was found."""
    look(read_settings(settings_file))


def look(settings: Settings) -> ScanRecord:
    """Follow Orthanc's changes, bring the index up to date, and write down what was found.

    Args:
        settings: Of a site that names a tree.
    """
    state = settings.paths.state
    private_folder(state)
    before, began = read_record(state), datetime.now(UTC)
    record = ScanRecord(
        began_at=began,
        tree=None if before is None else before.tree,
        orthanc=None if before is None else before.orthanc,
    )
    write_record(record, state)
    record = _of_orthanc(settings, record)
    record = _of_tree(settings, record)
    record = record.model_copy(update={"ended_at": datetime.now(UTC), "stage": "", "eta_s": None})
    write_record(record, state)
    return record


def write_record(record: ScanRecord, state: Path) -> None:
    """Write a record whole."""
    write_whole(state / RECORD_FILE, record.model_dump_json(indent=1).encode())


def write_fault(fault: str, began_at: datetime, state: Path) -> None:
    """Write down why a look has no result; what is known of Orthanc stays.

    Args:
        fault: Of `ScanProcess`.
        began_at: When the look began; UTC.
        state: ``paths.state``.
    """
    before = read_record(state) or ScanRecord(began_at=began_at)
    tree = _trouble(fault, before.tree)
    write_record(ScanRecord(began_at=began_at, tree=tree, orthanc=before.orthanc), state)


def _of_orthanc(settings: Settings, record: ScanRecord) -> ScanRecord:
    source, root = settings.radiotherapy.orthanc, settings.radiotherapy.dicom_root
    if source is None or root is None:
        return record.model_copy(update={"orthanc": None})
    # So that the tree is looked at as often as the settings say, however much there is to copy.
    until = time.monotonic() + settings.radiotherapy.scan_minutes * 60
    try:
        found = follow(
            Orthanc(source),
            root,
            settings.paths.state / FOLLOWED_FILE,
            goes_on=lambda: time.monotonic() < until,
        )
    except MqiError as error:
        return record.model_copy(update={"orthanc": _trouble(str(error), record.orthanc)})
    except OSError as error:
        text = f"its copies cannot be read: {error.strerror or type(error).__name__}"
        return record.model_copy(update={"orthanc": _trouble(text, record.orthanc)})
    told = None
    if found.failed:
        told = _trouble(f"{found.failed} of its objects cannot be copied ({found.why})", record.orthanc)
    return record.model_copy(update={"copied": found.copied, "only_here": found.only_here, "orthanc": told})


def _of_tree(settings: Settings, record: ScanRecord) -> ScanRecord:
    root, state = settings.radiotherapy.dicom_root, settings.paths.state
    if root is None:
        return record
    shown_at = time.monotonic()

    def show(progress: ScanProgress) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at < _SHOWN_EVERY_S:
            return
        shown_at = time.monotonic()
        far = {"stage": progress.stage.value, "done": progress.done, "total": progress.total}
        write_record(record.model_copy(update={**far, "eta_s": progress.eta_s}), state)

    workers = settings.radiotherapy.workers
    count = effective_workers(None if workers == "auto" else workers, processors())
    # Our own folders may lie within the tree.
    own = [state, settings.paths.data, settings.paths.dagster_home]
    try:
        with closing(DicomIndex(state / INDEX_FILE, root)) as index:
            found = index.scan(workers=count, without=own, progress=show)
    except MqiError as error:
        return record.model_copy(update={"tree": _trouble(str(error), record.tree)})
    return record.model_copy(
        update={"files": found.files, "opened": found.opened, "removed": found.removed, "tree": None}
    )


def _trouble(text: str, before: SourceTrouble | None) -> SourceTrouble:
    return SourceTrouble(text=text, since=datetime.now(UTC) if before is None else before.since)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
