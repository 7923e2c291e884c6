"""The files of jobs that workers ask for: one folder a job, and in it one for each lease.

<job>/inputs.tar
<job>/<token>/log, <job>/<token>/<number>     an output that is whole
<job>/<token>/<number>.part                   one that still comes
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

from mqi_dagster.errors import InfrastructureError
from mqi_dagster.execution.job import Job
from mqi_dagster.execution.work import LONGEST_LOG, MadeOutput
from mqi_dagster.files import private_folder, sha256_file, sync_file, whole_file


class Spool:
    """The files of the jobs of a site.

    Args:
        root: Their folder; made where it is missing.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def pack(self, job_id: str, job: Job) -> None:
        """Keep the inputs of a job, in place of what is there of it; see `local.verify_inputs` first.

        Raises:
            InfrastructureError: The disk does not take them.
        """
        with _disk():
            self.discard(job_id)
            private_folder(self._root / job_id)
            with whole_file(self.inputs(job_id)) as stream, tarfile.open(fileobj=stream, mode="w") as packed:
                for name in sorted(job.manifest):
                    entry = tarfile.TarInfo(name)
                    entry.size, entry.mode = (job.directory / name).stat().st_size, 0o600
                    with (job.directory / name).open("rb") as source:
                        packed.addfile(entry, source)

    def inputs(self, job_id: str) -> Path:
        """The inputs of a job, as a tar file."""
        return self._root / job_id / "inputs.tar"

    def output(self, job_id: str, token: int, number: int) -> Path:
        """An output, once it is whole."""
        return self._root / job_id / str(token) / str(number)

    def add_piece(
        self, job_id: str, token: int, number: int, offset: int, piece: bytes, whole: MadeOutput
    ) -> int:
        """Add a piece of an output where it goes on.

        Args:
            job_id: The job.
            token: Of the lease.
            number: Of the output, from 1.
            offset: Where the piece begins.
            piece: Its bytes; one that begins elsewhere than here is not taken.
            whole: What the output is once all of it is here.

        Returns:
            What is here of it; 0 again where all of it was here, and was another one.

        Raises:
            InfrastructureError: The disk does not take it.
        """
        target = self.output(job_id, token, number)
        with _disk():
            if target.is_file():
                return whole.size if sha256_file(target) == whole.sha256 else 0
            with _locked(target.with_name(f"{number}.part")) as stream:
                here = stream.seek(0, os.SEEK_END)
                if offset != here or here + len(piece) > whole.size:
                    return here
                stream.write(piece)
                stream.flush()
                here += len(piece)
                if here < whole.size:
                    return here
                part = target.with_name(f"{number}.part")
                if sha256_file(part) != whole.sha256:
                    stream.truncate(0)
                    return 0
                sync_file(part)
                part.rename(target)
                return here

    def add_log(self, job_id: str, token: int, offset: int, text: bytes) -> int:
        """Add to the log of a lease where it goes on; what is here of it then.

        Raises:
            InfrastructureError: The disk does not take it.
        """
        with _disk(), _locked(self._log(job_id, token)) as stream:
            here = stream.seek(0, os.SEEK_END)
            if offset == here and here + len(text) <= LONGEST_LOG:
                stream.write(text)
                here += len(text)
            return here

    def read_log(self, job_id: str, token: int, offset: int, longest: int) -> bytes:
        """The log of a lease from an offset on; empty where there is nothing more."""
        log = self._log(job_id, token)
        with _disk():
            if not log.is_file():
                return b""
            with log.open("rb") as stream:
                stream.seek(offset)
                return stream.read(longest)

    def discard(self, job_id: str) -> None:
        """Remove what is here of a job."""
        shutil.rmtree(self._root / job_id, ignore_errors=True)

    def _log(self, job_id: str, token: int) -> Path:
        return self._root / job_id / str(token) / "log"


@contextmanager
def _locked(path: Path) -> Iterator[BufferedRandom]:
    """A file to add to, which nobody else adds to meanwhile."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InfrastructureError(f"the files of a job cannot be kept: {error.strerror}") from None
