"""Files on the way to a cluster and back: broken off, without space, on a scratch, removed and kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mqi_dagster.errors import UnreachableError
from mqi_dagster.hpc import executor as executor_module
from mqi_dagster.hpc import staging
from mqi_dagster.hpc.errors import PathRejectedError
from mqi_dagster.hpc.naming import JobFolder
from mqi_dagster.hpc.retention import remove_folder, used_bytes
from tests.slurm.beams import NAME, Beam, Bench, assert_done_once, jobs_of, live_jobs
from tests.slurm.faults import misbehaving
from tests.slurm.wire import Gate
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

MIB = 1 << 20
TALL = {"dimension": [60, 60, 400], "unit_mm": [2, 2, 10], "position_mm": [-60, -60, -3965]}
"""A grid whose dose has 11 MiB and costs the test engine little."""
IMPATIENT = {"call_seconds": 3, "connect_seconds": 2, "breaker_seconds": 1}
FROZEN_SECONDS = 4.0


def killed(cluster: Any) -> None:
    """The machine's sshd and every connection die; a new one answers at once."""
    cluster.kill("sshd", sessions=True)
    cluster.start_one("sshd")


def frozen(cluster: Any) -> None:
    """sshd and every connection hang for some seconds: longer than any call waits."""
    cluster.freeze("sshd")
    threading.Timer(FROZEN_SECONDS, cluster.thaw, ("sshd",)).start()


@pytest.fixture(params=[killed, frozen], ids=["killed", "frozen"])
def harm(request: Any, cluster: Any) -> Iterator[Callable[[], None]]:
    """What happens to sshd."""
    done = request.param
    yield lambda: done(cluster)
    wait_for(lambda: cluster.states()["sshd"] != "frozen", "sshd is itself again")


def with_files(beam: Beam, **sizes: int) -> None:
    """Give a beam's job further input of random bytes."""
    manifest = dict(beam.job.manifest)
    for stem, size in sizes.items():
        name = f"Log_csv/plan/{stem}.dcm"
        (beam.job.directory / name).write_bytes(os.urandom(size))
        manifest[name] = hashlib.sha256((beam.job.directory / name).read_bytes()).hexdigest()
    beam.job = replace(beam.job, manifest=manifest)


def noted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[Any]:
    """What every call of a function gives back or raises from now on."""
    seen: list[Any] = []
    original = getattr(module, name)

    def call(*arguments: Any, **named: Any) -> Any:
        try:
            seen.append(original(*arguments, **named))
        except Exception as error:
            seen.append(error)
            raise
        return seen[-1]

    monkeypatch.setattr(module, name, call)
    return seen


# Connections that end in the middle


def test_a_big_upload_goes_on_where_it_broke_off(
    cluster: Any,
    bench: Callable[..., Bench],
    gate: Gate,
    harm: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on = bench(host={**gate.host, **IMPATIENT})
    beam = on.beam()
    with_files(beam, big=17 * MIB, also=16 * MIB)
    puts = noted(monkeypatch, staging, "put_resume")
    gate.after("up", 25 * MIB, harm)
    with on.driven(beam):
        pass
    assert gate.happened.is_set()
    assert_done_once(cluster, on, beam)
    # "also" is whole when "big" breaks off, and is not sent again.
    assert [isinstance(put, UnreachableError) for put in puts] == [False, True, False]
    assert puts[0][1:] == (16 * MIB, 0)
    assert puts[2][1] == 17 * MIB and 4 * MIB < puts[2][2] < 17 * MIB
    sent = on.folder_of(beam) / "input/Log_csv/plan/big.dcm"
    assert sent.read_bytes() == (beam.job.directory / "Log_csv/plan/big.dcm").read_bytes()


def test_a_tar_stream_that_breaks_off_is_sent_again_as_a_whole(
    cluster: Any,
    bench: Callable[..., Bench],
    gate: Gate,
    harm: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on = bench(host={**gate.host, **IMPATIENT})
    beam = on.beam()
    with_files(beam, **{f"slice{number:02d}": MIB // 2 for number in range(24)})
    monkeypatch.setattr(staging, "_BYTES_PER_SECOND", 1e9)
    stages = noted(monkeypatch, executor_module, "stage")
    gate.after("up", 6 * MIB, harm)
    with on.driven(beam):
        pass
    assert gate.happened.is_set()
    assert_done_once(cluster, on, beam)
    assert isinstance(stages[0], UnreachableError) and stages[-1] is True
    inputs = on.folder_of(beam) / "input"
    assert {path.relative_to(inputs).as_posix() for path in inputs.rglob("*") if path.is_file()} == set(
        beam.job.manifest
    )
    for name, digest in beam.job.manifest.items():
        assert hashlib.sha256((inputs / name).read_bytes()).hexdigest() == digest
    assert not list(on.folder_of(beam).parent.glob(".*.part"))


def test_a_download_goes_on_where_it_broke_off(
    cluster: Any,
    bench: Callable[..., Bench],
    gate: Gate,
    harm: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on = bench(host={**gate.host, **IMPATIENT})
    beam = on.beam(phantom=TALL)
    gets = noted(monkeypatch, executor_module, "get_resume")
    fetch = on.executor.fetch

    def fetched(*arguments: Any) -> Any:
        if not gets:
            gate.after("down", 6 * MIB, harm)
        return fetch(*arguments)

    monkeypatch.setattr(on.executor, "fetch", fetched)
    with on.driven(beam):
        pass
    assert gate.happened.is_set()
    assert_done_once(cluster, on, beam)
    (broken,) = [place for place, got in enumerate(gets) if isinstance(got, UnreachableError)]
    # The small one before it is not fetched again, the big one goes on.
    small, big = (beam.fetched[name].stat().st_size for name in beam.job.outputs[:2])
    assert (broken, gets[0], gets[2]) == (1, 0, small)
    assert 4 * MIB < gets[3] < big
    assert not list(beam.job.directory.rglob("*.part"))


# Disks without space


@pytest.fixture
def small_disk(cluster: Any, shared: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of some MiB for the jobs' folders."""
    made: list[Path] = []

    def make(mib: int) -> Path:
        place = shared / f"disk-{uuid.uuid4().hex[:8]}"
        place.mkdir()
        options = f"size={mib}m,mode=0700,uid={cluster.settings.user},gid={cluster.settings.user}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {done.stderr.decode()}")
        made.append(place)
        return place

    yield make
    for place in made:
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()


def fill(disk: Path, left: int) -> Path:
    """Take all of a disk but some bytes."""
    filler = disk / "somebody-elses"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with filler.open("ab") as stream:
        os.posix_fallocate(stream.fileno(), 0, free - left)
    return filler


@pytest.mark.parametrize("left", [0, 12 << 10], ids=["none", "little"])
def test_staging_waits_on_a_full_disk_and_goes_on_when_there_is_room(
    cluster: Any, bench: Callable[..., Bench], small_disk: Callable[[int], Path], left: int
) -> None:
    disk = small_disk(8)
    on = bench(slurm={"root": str(disk / "jobs")})
    beam = on.beam()
    filler = fill(disk, left)
    with on.driven(beam):
        wait_for(lambda: [one for one in beam.spoken.words if "full" in one], "the beam says it")
        assert beam.handle is None
        filler.unlink()
    assert_done_once(cluster, on, beam)
    assert beam.error is None


def test_a_big_file_waits_for_room_in_its_middle_and_goes_on_there(
    cluster: Any,
    bench: Callable[..., Bench],
    small_disk: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = small_disk(32)
    on = bench(slurm={"root": str(disk / "jobs")})
    beam = on.beam()
    with_files(beam, big=20 * MIB)
    puts = noted(monkeypatch, staging, "put_resume")
    filler = fill(disk, 10 * MIB)
    with on.driven(beam):
        wait_for(lambda: [one for one in beam.spoken.words if "full" in one], "the beam says it")
        filler.unlink()
    assert_done_once(cluster, on, beam)
    assert puts[-1][2] > 8 * MIB


def test_a_submission_on_a_full_disk_is_found_again(
    cluster: Any,
    bench: Callable[..., Bench],
    small_disk: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = small_disk(8)
    on = bench(slurm={"root": str(disk / "jobs"), "intervals": {"unknown_submission_seconds": 1}})
    beam = on.beam()
    stage = executor_module.stage

    def staged(*arguments: Any) -> bool:
        made = stage(*arguments)
        if made:
            fill(disk, 0)
        return made

    monkeypatch.setattr(executor_module, "stage", staged)
    with on.driven(beam):
        wait_for(lambda: jobs_of(cluster, beam), "sbatch got through")
        wait_for(lambda: [one for one in beam.spoken.words if "full" in one], "the beam says it")
        (disk / "somebody-elses").unlink()
    assert_done_once(cluster, on, beam)


def test_a_dose_that_does_not_fit_fails_in_sight_and_is_never_taken_for_whole(
    cluster: Any, bench: Callable[..., Bench], small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(8)
    on = bench(slurm={"root": str(disk / "jobs")})
    beam = on.beam(seconds=1.5)
    with on.driven(beam):
        wait_for(lambda: on.traced(), "the engine runs")
        # Half of the dose fits.
        fill(disk, 24 << 10)
    assert beam.status is not None and beam.status.state == "failed"
    assert (beam.status.exit_code, beam.fetched) == (1, {})
    (disk / "somebody-elses").unlink()
    again = on.next_attempt(beam)
    with on.driven(again):
        pass
    assert_done_once(cluster, on, again)


# Removal


def test_only_a_job_folder_of_ours_at_its_place_is_removed(
    cluster: Any, bench: Callable[..., Bench], shared: Path
) -> None:
    on = bench()
    beam = on.beam()
    with on.driven(beam):
        pass
    assert_done_once(cluster, on, beam)
    connection, user = on.executor.connection, cluster.settings.user
    root, key = Path(on.slurm.root), "0123abcd-1"
    outside = shared / f"outside-{uuid.uuid4().hex[:8]}"

    def made(folder: Path, *, marker: str | None = key) -> Path:
        folder.mkdir(parents=True)
        (folder / "dear").write_text("dear")
        if marker is not None:
            (folder / ".mqi-job").write_text(f"{marker}\n")
        for path in (*reversed(folder.relative_to(shared).parents), folder.relative_to(shared)):
            subprocess.run(["chown", "-R", user, str(shared / path)], check=True)
        return folder / "dear"

    # The root is no folder of jobs.
    for bad in ("/", "/work", str(root) + "/..", "relative/path", str(root) + "/-x/./y"):
        with pytest.raises(PathRejectedError):
            remove_folder(connection, JobFolder(bad, ("case", "b02"), key))
    for place in (("..", "b02"), ("case", ".."), ("case/..", "b02"), ("-rf", "b02"), ("", "b02"), ()):
        with pytest.raises(PathRejectedError):
            remove_folder(connection, JobFolder(str(root), place, key))
    home = Path(f"~{user}").expanduser()
    with pytest.raises(PathRejectedError, match="home"):
        remove_folder(connection, JobFolder(str(home), ("case", "b02"), key))
    link = shared / f"home-{uuid.uuid4().hex[:8]}"
    link.symlink_to("/")
    with pytest.raises(PathRejectedError, match="'/'"):
        remove_folder(connection, JobFolder(str(link), ("case", "b02"), key))
    link.unlink()
    if home.is_dir():
        link.symlink_to(home)
        with pytest.raises(PathRejectedError, match="home"):
            remove_folder(connection, JobFolder(str(link), ("case", "b02"), key))
        link.unlink()

    # A link on the way, whatever lies behind it: a job of this key, only its leftovers, nothing.
    dear = made(outside / "b02" / key)
    part = made(outside / "b03" / f".{key}.part", marker=None)
    (outside / "b04").mkdir()
    case = root / f"CASE{uuid.uuid4().hex[:6]}"
    case.symlink_to(outside)
    for beam_folder in ("b02", "b03", "b04"):
        with pytest.raises(PathRejectedError, match="link"):
            remove_folder(connection, JobFolder(str(root), (case.name, beam_folder), key))
    assert dear.is_file() and part.is_file() and (outside / "b04").is_dir()
    case.unlink()
    real = root / f"CASE{uuid.uuid4().hex[:6]}"
    (real / "b02").mkdir(parents=True)
    (real / "b02" / key).symlink_to(outside / "b02" / key)
    with pytest.raises(PathRejectedError, match="link"):
        remove_folder(connection, JobFolder(str(root), (real.name, "b02"), key))
    assert dear.is_file()

    # Without a marker, or with another one.
    for number, marker in enumerate((None, "another-1"), start=5):
        kept = made(real / f"b{number:02d}" / key, marker=marker)
        with pytest.raises(PathRejectedError, match="marker"):
            remove_folder(connection, JobFolder(str(root), (real.name, f"b{number:02d}"), key))
        assert kept.is_file()
    # The rightful one goes, what lies beside it stays.
    gone = made(real / "b07" / key)
    beside = made(real / "b07" / "other-1", marker="other-1")
    remove_folder(connection, JobFolder(str(root), (real.name, "b07"), key))
    assert not gone.parent.exists() and beside.is_file()
    assert on.folder_of(beam).is_dir()


def test_a_removal_that_was_interrupted_is_completed_by_the_next(
    cluster: Any, bench: Callable[..., Bench], shared: Path
) -> None:
    on = bench(slurm={"root": str(shared / f"work-{uuid.uuid4().hex[:6]}")})
    beam = on.beam()
    with_files(beam, **{f"slice{number:03d}": 2048 for number in range(20)})
    with on.driven(beam):
        pass
    assert_done_once(cluster, on, beam)
    assert beam.handle is not None

    def files() -> list[Path]:
        return [path for path in Path(on.slurm.root).rglob("*") if path.is_file()]

    before = len(files())
    # What removes dies with all that has started it when a part is gone.
    body = (
        'case $* in *.trash/*) first && find "${@: -1}" -name "slice*5.dcm" -delete && kill -9 0 ;; esac\n'
        'exec "$real" "$@"'
    )
    with misbehaving(cluster, on, "rm", body) as called, pytest.raises(UnreachableError):
        on.executor.clear(beam.job, beam.handle)
    assert called.is_dir()
    assert 0 < len(files()) < before and not on.folder_of(beam).exists()
    assert on.executor.clear(beam.job, beam.handle) == ""
    assert files() == []
    row = on.ledger.jobs.get(NAME, beam.job.key)
    assert row is not None and row.removed_at is not None


# Where the engine works


@pytest.fixture
def scratch(cluster: Any, shared: Path) -> Path:
    """A folder on the compute node."""
    place = shared / f"scratch-{uuid.uuid4().hex[:6]}"
    place.mkdir()
    subprocess.run(["chown", cluster.settings.user, str(place)], check=True)
    return place


def test_an_engine_works_on_the_nodes_scratch_and_leaves_nothing_there(
    cluster: Any, bench: Callable[..., Bench], scratch: Path
) -> None:
    on = bench(slurm={"scratch": str(scratch)})
    beam = on.beam(seconds=1)
    with on.driven(beam):
        work = wait_for(lambda: list(scratch.glob("*/Log_csv")), "the engine works there")[0]
        assert not work.is_symlink() and not (work / "plan").is_symlink()
        assert beam.job.key in work.parent.name
    assert_done_once(cluster, on, beam)
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("end", ["exit code", "scancel"])
def test_an_engine_that_fails_or_is_cancelled_leaves_nothing_on_the_scratch(
    cluster: Any, bench: Callable[..., Bench], scratch: Path, end: str
) -> None:
    on = bench(slurm={"scratch": str(scratch)})
    beam = on.beam(seconds=1 if end == "exit code" else 30)
    if end == "exit code":
        on.steer(exit_code=3)
    with on.driven(beam):
        wait_for(lambda: list(scratch.glob("*/Log_csv")), "the engine works there")
        wait_for(lambda: on.traced(), "the engine runs")
        if end == "scancel":
            assert cluster.slurm("scancel", beam.handle.job_id if beam.handle else "").returncode == 0
    assert beam.status is not None
    assert beam.status.state == ("failed" if end == "exit code" else "cancelled")
    wait_for(lambda: not live_jobs(cluster), "an empty queue")
    assert list(scratch.iterdir()) == []
    on.steer(seconds=0.2)
    again = on.next_attempt(beam)
    with on.driven(again):
        pass
    assert_done_once(cluster, on, again)
    assert list(scratch.iterdir()) == []


# What stays


def test_a_failed_jobs_folder_stays_until_its_days_are_over(
    cluster: Any, bench: Callable[..., Bench]
) -> None:
    on = bench(slurm={"retention": {"failed_days": 0}})
    failing, waits = on.beam(), on.beam()
    on.steer(exit_code=3)
    with on.driven(failing):
        pass
    assert failing.status is not None and failing.status.state == "failed"
    on.steer()
    with on.driven(waits):
        pass
    assert (on.folder_of(failing) / "starts").is_dir()
    weeks = bench(slurm={"retention": {"failed_days": 14}})
    assert weeks.executor.housekeeping.remove_kept() == 0
    assert (on.folder_of(failing) / "starts").is_dir()
    # What nobody has fetched yet is not a failed job's.
    assert on.executor.housekeeping.remove_kept() == 1
    assert not on.folder_of(failing).exists()
    assert on.folder_of(waits).is_dir()
    assert on.executor.housekeeping.remove_kept() == 0
    assert_done_once(cluster, on, waits)


def test_a_site_that_keeps_all_is_told_when_it_is_too_much(
    cluster: Any, bench: Callable[..., Bench], shared: Path
) -> None:
    root = str(shared / f"work-{uuid.uuid4().hex[:6]}")
    on = bench(slurm={"root": root, "retention": {"keep": "all", "failed_days": 0, "quota_gb": 1e-5}})
    beam = on.beam()
    assert used_bytes(on.executor.connection, root) == 0
    with on.driven(beam):
        pass
    assert_done_once(cluster, on, beam)
    assert beam.handle is not None
    alarm = on.executor.clear(beam.job, beam.handle)
    assert on.folder_of(beam).is_dir()
    assert on.executor.housekeeping.remove_kept() == 0
    assert "quota" in alarm and NAME in alarm
    assert used_bytes(on.executor.connection, root) > 10_000
    roomy = bench(slurm={"root": root, "retention": {"keep": "all"}})
    assert roomy.executor.housekeeping.measure() == ""
