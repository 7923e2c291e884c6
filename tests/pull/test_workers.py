"""Workers ask a real server for jobs: one end to end, and whatever can be killed is killed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.execution.job import JobState
from tests.execution.execution_jobs import gone
from tests.pull.conftest import MakeLab
from tests.pull.lab import Lab, ended, stop
from tests.waiting import wait_for

# A busy machine takes minutes until a server and its workers have started.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_a_job_goes_out_and_its_outputs_come_back(way: tuple[Lab, dict[str, Any]]) -> None:
    lab, options = way
    worker = lab.work("first", **options)
    job = lab.job("alpha")
    handle = lab.executor.submit(job)
    assert lab.executor.submit(job) == handle
    status = lab.finished(job, handle)
    assert (status.state, status.exit_code) == (JobState.SUCCEEDED, 0), lab.report()
    fetched = lab.executor.fetch(job, handle)
    assert fetched["out/deep/copy"].read_bytes() == b"alpha" * 300_000
    assert "PATH" in fetched["out/names"].read_text().split()
    assert lab.executor.tail(job, handle, 0).text == b"begins\nis done\n"
    assert lab.starts("alpha") == ["alpha"]
    wait_for(
        lambda: not list((lab.folder / "first" / "work" / "jobs").glob("*")), "no folder of a job is left"
    )
    assert lab.executor.clear(job, handle) == ""
    assert not list((lab.folder / "site" / "state" / "pull").iterdir())
    stop(worker)
    assert ended(worker) == 0
    wait_for(lambda: lab.site.ledger.slots.all() == [], "its slots are gone")
    if "folder" in options:
        wait_for(lambda: not list(Path(options["folder"]).glob("*/*")), "an empty folder")


def test_a_job_that_fails_is_told_with_its_code_and_log(way: tuple[Lab, dict[str, Any]]) -> None:
    lab, options = way
    lab.work("second", **options)
    job = lab.job("beta", code=3)
    handle = lab.executor.submit(job)
    status = lab.finished(job, handle)
    assert (status.state, status.exit_code, status.reason) == (JobState.FAILED, 3, "ended with exit code 3")
    assert lab.executor.tail(job, handle, 0).text == b"begins\nit has failed\n"
    assert lab.starts("beta") == ["beta"]


def test_the_job_of_a_killed_worker_is_done_by_the_next(way: tuple[Lab, dict[str, Any]]) -> None:
    lab, options = way
    first = lab.work("third", **options)
    job = lab.job("gamma", seconds=600)
    handle = lab.executor.submit(job)
    program = lab.pid("gamma")
    first.kill()
    wait_for(lambda: gone(program), "its program is gone with it")
    lab.work("fourth", **options)
    wait_for(lambda: len(lab.starts("gamma")) == 2, "the next worker begins", report=lab.report)
    lab.let_go("gamma")
    assert lab.finished(job, handle).state is JobState.SUCCEEDED, lab.report()
    assert lab.site.ledger.work.require(handle.job_id).worker == "fourth"


def test_a_cancelled_job_ends_on_the_computer_of_the_worker(way: tuple[Lab, dict[str, Any]]) -> None:
    lab, options = way
    lab.work("fifth", **options)
    job = lab.job("delta", seconds=600)
    handle = lab.executor.submit(job)
    program = lab.pid("delta")
    assert lab.executor.leave(job, handle, cancelled=True) is False
    assert gone(program)
    assert lab.executor.poll(job, handle).state is JobState.CANCELLED
    assert lab.executor.submit(job) == handle
    wait_for(lambda: len(lab.starts("delta")) == 2, "asked for again, it begins anew", report=lab.report)


def test_two_workers_with_two_slots_each_run_every_job_once(lab: Lab) -> None:
    lab.serve()
    jobs = [lab.job(f"j{number}") for number in range(12)]
    handles = [lab.executor.submit(job) for job in jobs]
    for name in ("one", "two"):
        lab.work(name, slots=2)
    states = [lab.finished(job, handle).state for job, handle in zip(jobs, handles, strict=True)]
    assert states == [JobState.SUCCEEDED] * 12
    assert sorted(lab.starts()) == sorted(f"j{number}" for number in range(12))


def test_a_server_that_is_killed_costs_no_job(make_lab: MakeLab) -> None:
    lab = make_lab()
    lab.serve()
    lab.work("one", call_seconds=5)
    job = lab.job("alpha", seconds=600)
    handle = lab.executor.submit(job)
    lab.pid("alpha")
    lab.kill_server()
    wait_for(lambda: "did not get through" in lab.said("one"), "the worker has noticed")
    lab.let_go("alpha")
    wait_for(lambda: "WARNING the server does not answer" in lab.said("one"), "its result waits")
    lab.serve()
    assert lab.finished(job, handle).state is JobState.SUCCEEDED, lab.report()
    assert lab.starts() == ["alpha"]


@pytest.mark.parametrize("drain", ["finish", "release"])
def test_a_worker_that_is_stopped_finishes_its_job_or_gives_it_back(lab: Lab, drain: str) -> None:
    lab.serve()
    worker = lab.work("one", drain=drain, wait_seconds=0.5)
    job = lab.job("alpha", seconds=600)
    handle = lab.executor.submit(job)
    program = lab.pid("alpha")
    stop(worker)
    if drain == "finish":
        lab.let_go("alpha")
    assert ended(worker) == 0
    assert gone(program)
    state = lab.executor.poll(job, handle).state
    assert state is (JobState.SUCCEEDED if drain == "finish" else JobState.WAITING), lab.report()
    assert lab.site.ledger.work.require(handle.job_id).claims == (drain == "finish")


def test_an_engine_that_a_killed_worker_has_left_is_ended_before_it_works_again(lab: Lab) -> None:
    lab.serve()
    script = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"
    path = lab.configure("one")
    inner = [str(path.with_name("copies.py")), str(lab.trace)]
    programs = {"copy": {"command": [sys.executable, "-c", script, *inner]}}
    worker = lab.work("one", programs=programs)
    job = lab.job("alpha", seconds=600)
    lab.executor.submit(job)
    grandchild = lab.pid("alpha")
    worker.kill()
    worker.wait()
    lab.work("one")
    wait_for(lambda: gone(grandchild), "what was left is ended", report=lab.report)
    wait_for(lambda: len(lab.starts()) == 2, "and begun anew", report=lab.report)


def test_a_folder_that_everybody_may_write_to_is_refused(make_lab: MakeLab, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    lab = make_lab({"folder": str(shared)})
    with pytest.raises(ConfigurationError, match="everybody may write to the shared folder: chmod o-w"):
        lab.executor.submit(lab.job("alpha"))
    worker = lab.work("one", server=None, folder=str(shared))
    assert ended(worker) == 2
    assert "everybody may write to the shared folder" in lab.said("one")
    shared.chmod(0o770)
    (shared / "waiting").symlink_to(tmp_path)
    with pytest.raises(ConfigurationError, match="is a link or no folder"):
        lab.executor.submit(lab.job("alpha"))


def test_a_folder_that_somebody_else_has_put_where_everybody_may_is_refused(
    make_lab: MakeLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody = tmp_path / "tmp"
    shared = everybody / "mri_inference_requests"
    shared.mkdir(parents=True, mode=0o755)
    everybody.chmod(0o1777)
    lab = make_lab({"folder": str(shared)})
    if os.geteuid() == 0:
        os.chown(shared, 4711, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(ConfigurationError, match="the shared folder belongs to another account"):
        lab.executor.submit(lab.job("alpha"))


def test_a_link_among_the_shared_files_is_not_followed(make_lab: MakeLab, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o770)
    lab = make_lab({"folder": str(shared), "lease_seconds": 120})
    lab.serve()
    lab.work("one", server=None, folder=str(shared))
    job = lab.job("alpha", seconds=600)
    handle = lab.executor.submit(job)
    lab.pid("alpha")
    (claimed,) = (shared / "claimed").iterdir()
    secret = tmp_path / "secret"
    secret.write_text('{"end": "complete"}')
    (shared / "ended" / claimed.name).symlink_to(secret)
    refused = "a link stands among the files of the shared folder (ended)"
    wait_for(lambda: refused in (lab.folder / "server.log").read_text(), "it is refused", report=lab.report)
    assert lab.executor.poll(job, handle).state is JobState.RUNNING
