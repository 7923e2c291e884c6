"""What may stand in a remote path, a job's name or its comment: all else is refused, nothing is escaped."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from mqi_dagster.hpc.errors import PathRejectedError
from mqi_dagster.settings import REMOTE_PATH

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_ROOT = re.compile(REMOTE_PATH)
_NUMBER = re.compile(r"[0-9]{1,10}")
JOB_NAME_PREFIX = "moqui_"


def checked_name(name: str, what: str) -> str:
    """A name that is safe as a part of a path, as a job's name and as its comment.

    Raises:
        PathRejectedError: It is not.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise PathRejectedError(f"{what} holds more than letters, digits, '_', '.' and '-'")
    return name


def checked_job_id(job_id: str) -> str:
    """The id of a job.

    Raises:
        PathRejectedError: It is no number.
    """
    if not _NUMBER.fullmatch(job_id):
        raise PathRejectedError("the id of a job is no number")
    return job_id


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Where a job's folder is on a cluster: ``<root>/<case>/<beam>/<key>``, every part checked."""

    root: str
    parents: tuple[str, ...]
    key: str

    def __post_init__(self) -> None:
        if not _ROOT.fullmatch(self.root):
            raise PathRejectedError("the root on the cluster is no absolute path of plain names")
        if not self.parents:
            raise PathRejectedError("a job's folder lies directly below the root")
        for part in self.parents:
            checked_name(part, "a folder above a job's")
        checked_name(self.key, "a job's key")

    @property
    def below(self) -> str:
        """The folder that holds the job's, relative to the root."""
        return "/".join(self.parents)

    @property
    def text(self) -> str:
        """The folder as text; a path of a thousand jobs takes longer to make than to ask after them."""
        return f"{self.root}/{self.below}/{self.key}"

    @property
    def path(self) -> PurePosixPath:
        """The folder."""
        return PurePosixPath(self.text)

    @property
    def part(self) -> PurePosixPath:
        """The folder while it is being made."""
        return PurePosixPath(self.root, *self.parents, f".{self.key}.part")

    def start(self, job_id: str, start: int) -> PurePosixPath:
        """What one start of the job has written."""
        return self.path / "starts" / f"{checked_job_id(job_id)}-{start:d}"


def job_name(beam: str) -> str:
    """Name of a beam's job in the queue."""
    return JOB_NAME_PREFIX + checked_name(beam, "a beam's key")
