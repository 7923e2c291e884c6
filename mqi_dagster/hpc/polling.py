"""One poll of all jobs of a cluster in one round trip: the queue, the accounting, what jobs left behind."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from mqi_dagster.execution.scrub import Scrubber
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.errors import PathRejectedError, RemoteCommandError, SchedulerUnavailableError
from mqi_dagster.hpc.naming import JobFolder, checked_job_id
from mqi_dagster.hpc.shell import require, run_script
from mqi_dagster.hpc.states import LIVE

_SEPARATOR = "\x1f"
_QUEUE_HEAD = f"JOBID{_SEPARATOR}"
_NO_PATHS = Scrubber()


@dataclass(frozen=True, slots=True)
class QueueRecord:
    """A job as squeue shows it."""

    state: str
    reason: str
    name: str
    comment: str
    submitted: str
    node: str


@dataclass(frozen=True, slots=True)
class HistoryRecord:
    """A job as sacct shows it."""

    state: str
    exit_code: str
    """``<code>:<signal>``"""
    name: str
    comment: str
    submitted: str
    node: str


@dataclass(frozen=True, slots=True)
class Output:
    """One output as its job has noted it."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Result:
    """A job's own account of its end."""

    job_id: str
    start: int
    exit_code: int
    signal: str
    outputs: Mapping[int, Output]
    """By the number of the wanted output, from 1; one that was not there is missing."""
    text: str
    """As it was written."""

    @property
    def done(self) -> bool:
        """Whether the engine has come to its end by itself, and says that it succeeded."""
        return self.exit_code == 0 and not self.signal


@dataclass(frozen=True, slots=True)
class PollResult:
    """What one poll has seen."""

    queue: Mapping[str, QueueRecord]
    """By job id: every job of the account that squeue still shows."""
    history: Mapping[str, HistoryRecord]
    """By job id: those asked after that the queue holds no more as live, as far as somebody knows them."""
    results: Mapping[tuple[str, str], Result]
    """By folder and job id, since an id may be given out again: the newest start's account."""
    owners: Mapping[str, str]
    """By folder: the job that owns it."""


def parse_result(text: str) -> Result | None:
    """A job's own account, None where the text is none (a damaged file proves nothing)."""
    try:
        content = json.loads(text)
        outputs = {
            int(entry["number"]): Output(str(entry["sha256"]), int(entry["size"]))
            for entry in content["outputs"]
        }
        return Result(
            job_id=str(content["job"]),
            start=int(content["start"]),
            exit_code=int(content["exit_code"]),
            signal=str(content["signal"]),
            outputs=outputs,
            text=text.strip(),
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def poll_jobs(connection: Connection, jobs: Iterable[tuple[str, JobFolder]]) -> PollResult:
    """Ask after jobs.

    Args:
        connection: To the cluster.
        jobs: The id of each, and its folder; two may have the same id.

    Raises:
        UnreachableError: The cluster cannot be reached, or its queue does not answer: nothing is known then.
    """
    wanted = "".join(f"{checked_job_id(job_id)} {folder.text}\n" for job_id, folder in jobs)
    answer = run_script(connection, "poll", " ".join(LIVE), feed=wanted.encode())
    try:
        sections = _sections(require(answer, "the poll of the jobs failed").text)
    except RemoteCommandError as error:
        # A login node in trouble says as little about a job as a silent controller.
        raise SchedulerUnavailableError(error.message) from None
    code, queue = sections.get("queue", (1, ""))
    if code != 0:
        said = _NO_PATHS.text(sections.get("complaint", (0, ""))[1].strip())
        raise SchedulerUnavailableError(f"squeue does not answer: {said or f'exit code {code}'}")
    if not queue.startswith(_QUEUE_HEAD):
        raise SchedulerUnavailableError("squeue does not answer: what it says is no list of jobs")
    past = {fields[0]: HistoryRecord(*fields[1:7]) for fields in _rows(sections.get("history", (0, ""))[1])}
    details = [_detail(line) for line in sections.get("details", (0, ""))[1].splitlines() if line]
    results, owners = _files(sections.get("results", (0, ""))[1])
    return PollResult(
        queue={fields[0]: QueueRecord(*fields[1:7]) for fields in _rows(queue)},
        history=past | {job_id: record for job_id, record in details if job_id},
        results=results,
        owners=owners,
    )


def _sections(text: str) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    name, code, lines = "", 0, list[str]()
    for line in [*text.splitlines(), "@end 0"]:
        head, _, number = line.partition(" ")
        if head.startswith("@") and _SEPARATOR not in line and number.isdigit():
            if name:
                found[name] = (code, "\n".join(lines))
            name, code, lines = head[1:], int(number), []
        else:
            lines.append(line)
    return found


def _rows(text: str) -> list[list[str]]:
    rows = [line.split(_SEPARATOR) for line in text.splitlines()]
    return [row for row in rows if len(row) == 7 and row[0].isdigit()]


def _detail(line: str) -> tuple[str, HistoryRecord]:
    """A job as scontrol shows it in one line of ``Key=value``, where there is no accounting."""
    values = dict(word.partition("=")[::2] for word in line.split())
    keys = ("JobState", "ExitCode", "JobName", "Comment", "SubmitTime", "NodeList")
    return values.get("JobId", ""), HistoryRecord(*(values.get(key, "") for key in keys))


def _files(text: str) -> tuple[dict[tuple[str, str], Result], dict[str, str]]:
    """The accounts and marks in the output of ``head -v``."""
    results: dict[tuple[str, str], Result] = {}
    owners: dict[str, str] = {}
    folder = name = ""
    for line in text.splitlines():
        if line.startswith("==> ") and line.endswith(" <=="):
            folder, _, name = line[4:-4].rpartition("/")
        elif name and line.strip():
            if name == "owner":
                # A damaged mark names no job.
                with suppress(PathRejectedError):
                    owners[folder] = checked_job_id(line.strip())
            elif (result := parse_result(line)) is not None:
                # FOLDER/starts/ID-START
                whose = folder.rsplit("/", 2)[0], result.job_id
                known = results.get(whose)
                if known is None or known.start < result.start:
                    results[whose] = result
    return results, owners
