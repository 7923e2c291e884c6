"""Making a job's folder: all or nothing, verified where it arrives, and only once."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mqi_dagster.errors import UnreachableError
from mqi_dagster.hpc import staging
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.errors import IntegrityError, RemoteCommandError
from mqi_dagster.hpc.naming import JobFolder
from mqi_dagster.hpc.shell import Answer
from mqi_dagster.hpc.staging import Source
from tests.hpc.hpc_cases import KEY
from tests.hpc.login_node import LoginNode

Stage = Callable[..., bool]
FILES: dict[str, Source] = {"job.sh": b"#!/bin/bash\n", "input/tps": b"a\nb\n", "input/Log_csv/1.csv": b""}


@pytest.fixture
def stage(node: LoginNode, folder: JobFolder, nowhere: Connection, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Stages files on the node."""
    monkeypatch.setattr(staging, "run_script", node.run_script)
    # Big files go over SFTP, which is a copy here.
    monkeypatch.setattr(
        staging, "put_resume", lambda _, source, target: Path(target).write_bytes(source.read_bytes())
    )
    monkeypatch.setattr(
        staging, "remote_size", lambda _, path: Path(path).stat().st_size if Path(path).exists() else None
    )

    def staged(files: dict[str, Source] = FILES, **options: int) -> bool:
        return staging.stage(nowhere, folder, files, **options)

    return staged


def spoil(
    node: LoginNode, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, bytes]], object]
) -> None:
    """Let the tar streams arrive with a changed content."""

    def run_script(connection: object, name: str, *arguments: str, **options: object) -> Answer:
        if "all" not in arguments:
            return node.run_script(connection, name, *arguments)
        stream = io.BytesIO()
        options["feed"](stream)  # type: ignore[operator]
        stream.seek(0)
        with tarfile.open(fileobj=stream) as archive:
            files = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
        change(files)
        changed = io.BytesIO()
        with tarfile.open(fileobj=changed, mode="w") as archive:
            for path, content in files.items():
                entry = tarfile.TarInfo(path)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return node.run_script(connection, name, *arguments, feed=changed.getvalue())

    monkeypatch.setattr(staging, "run_script", run_script)


def content(folder: JobFolder) -> dict[str, bytes]:
    """What lies in the job's folder, without what the scripts add."""
    root = Path(folder.path)
    added = ("MANIFEST.sha256", ".mqi-job")
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name not in added
    }


def place(folder: JobFolder) -> list[str]:
    """What stands beside the job's folder."""
    return sorted(path.name for path in Path(folder.path).parent.iterdir() if path.name != f".{KEY}.lock")


def test_all_files_arrive_and_belong_to_the_account_alone(stage: Stage, folder: JobFolder) -> None:
    assert stage() is True
    assert content(folder) == FILES
    assert place(folder) == [KEY]
    made = Path(folder.path)
    assert (made / ".mqi-job").read_text() == f"{KEY}\n"
    assert {path.stat().st_mode & 0o077 for path in (made, *made.rglob("*"))} == {0}


def test_the_second_time_nothing_is_sent(
    stage: Stage, node: LoginNode, folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stage() is True
    asked: list[tuple[str, ...]] = []

    def run_script(connection: object, name: str, *arguments: str, **options: object) -> Answer:
        asked.append(arguments)
        return node.run_script(connection, name, *arguments)

    monkeypatch.setattr(staging, "run_script", run_script)
    assert stage() is False
    assert [arguments[-1] for arguments in asked] == ["look"]


def test_another_content_of_a_folder_that_was_never_submitted_takes_its_place(
    stage: Stage, folder: JobFolder
) -> None:
    assert stage({"job.sh": b"old", "left": b"over"}) is True
    assert stage() is True
    assert content(folder) == FILES


@pytest.mark.parametrize("mark", ["job.id", ".submitting"])
def test_a_folder_that_was_submitted_is_kept_as_it_is(stage: Stage, folder: JobFolder, mark: str) -> None:
    assert stage({"job.sh": b"first"}) is True
    (Path(folder.path) / mark).touch()
    assert stage() is False
    assert content(folder)["job.sh"] == b"first"


@pytest.mark.parametrize(
    "change",
    [
        lambda files: files.update({"input/tps": b"a\nB\n"}),
        lambda files: files.pop("input/tps"),
        lambda files: files.update({"input/more": b"x"}),
        lambda files: files.update({"MANIFEST.sha256": b""}),
        lambda files: files.pop("MANIFEST.sha256"),
    ],
    ids=["changed", "missing", "more", "empty manifest", "no manifest"],
)
def test_what_is_not_what_was_sent_never_appears(
    stage: Stage,
    node: LoginNode,
    folder: JobFolder,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, bytes]], object],
) -> None:
    with monkeypatch.context() as spoiled:
        spoil(node, spoiled, change)
        with pytest.raises(IntegrityError):
            stage()
    assert place(folder) == [], "what was damaged is gone"
    assert stage() is True
    assert content(folder) == FILES


def test_a_stream_that_breaks_off_leaves_nothing_visible_and_the_next_one_goes_on(
    stage: Stage, node: LoginNode, folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = node.run_script

    def cut(connection: object, name: str, *arguments: str, **options: object) -> Answer:
        if "all" not in arguments:
            return whole(connection, name, *arguments)
        stream = io.BytesIO()
        options["feed"](stream)  # type: ignore[operator]
        return whole(connection, name, *arguments, feed=stream.getvalue()[:1300])

    with monkeypatch.context() as broken:
        broken.setattr(staging, "run_script", cut)
        with pytest.raises((IntegrityError, RemoteCommandError)):
            stage()
    assert KEY not in place(folder)
    assert stage() is True
    assert content(folder) == FILES


def test_big_files_go_by_themselves_and_are_verified_with_the_others(
    stage: Stage, folder: JobFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = tmp_path / "ct.dcm"
    big.write_bytes(b"x" * 1000)
    files: dict[str, Source] = {**FILES, "input/plan/ct.dcm": big}
    with monkeypatch.context() as damaged:
        damaged.setattr(
            staging, "put_resume", lambda _, source, target: Path(target).write_bytes(b"y" * 1000)
        )
        with pytest.raises(IntegrityError):
            stage(files, big_bytes=500)
    assert place(folder) == []
    assert stage(files, big_bytes=500) is True
    assert content(folder) == {**FILES, "input/plan/ct.dcm": b"x" * 1000}
    assert stage(files, big_bytes=500) is False


@pytest.mark.parametrize("big_bytes", [3, 500])
def test_who_finds_that_another_worker_was_faster_sends_nothing_more(
    stage: Stage,
    node: LoginNode,
    folder: JobFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    big_bytes: int,
) -> None:
    big = tmp_path / "ct.dcm"
    big.write_bytes(b"x" * 100)
    files: dict[str, Source] = {**FILES, "input/ct.dcm": big}
    asked: list[str] = []

    def run_script(connection: object, name: str, *arguments: str, **options: object) -> Answer:
        asked.append(arguments[-1])
        if arguments[-1] != "look":
            with monkeypatch.context() as other:
                other.setattr(staging, "run_script", node.run_script)
                assert stage(files) is True
            (Path(folder.path) / "job.id").touch()
        return node.run_script(connection, name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(staging, "run_script", run_script)
    assert stage(files, big_bytes=big_bytes) is False
    assert asked == ["look", "unpack" if big_bytes == 3 else "all"]


def test_a_transfer_that_still_goes_on_is_waited_for(stage: Stage, node: LoginNode) -> None:
    node.install("flock", "#!/bin/sh\nexit 1\n")
    with pytest.raises(UnreachableError):
        stage()


def test_a_root_that_cannot_be_written_is_said(stage: Stage, node: LoginNode, root: Path) -> None:
    root.rmdir()
    root.write_text("a file")
    with pytest.raises(RemoteCommandError, match="the job's folder cannot be made"):
        stage()


NAMES = [
    "back\\slash",
    "line\nbreak",
    "\\n",
    "two  blanks",
    " blank first",
    "*star",
    "-dash",
    "$(id)",
    "'quote\"",
    "홍길동.csv",
    "#",
    "tab\there",
]


def test_names_of_any_characters_agree_with_sha256sum(stage: Stage, folder: JobFolder) -> None:
    files: dict[str, Source] = {name: name.encode() for name in NAMES}
    files |= {f"input/{name}/{name}": b"below" for name in NAMES}
    assert stage(files) is True
    assert content(folder) == files


def test_a_name_that_sha256sum_cannot_read_back_is_refused_as_a_whole(
    stage: Stage, folder: JobFolder
) -> None:
    # Versions of sha256sum disagree on a carriage return at the end of a name.
    files: dict[str, Source] = {"return\r": b"one"}
    try:
        assert stage(files) is True
    except IntegrityError:
        assert place(folder) == []
    else:
        assert content(folder) == files
