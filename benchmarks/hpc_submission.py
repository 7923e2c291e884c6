"""Submission: the platform's script, which submits once however often it is asked, against bare `sbatch`."""

from __future__ import annotations

import shlex

from benchmarks.hpc_figures import Figure, show
from benchmarks.hpc_site import Site
from mqi_dagster.hpc.naming import JobFolder, job_name
from mqi_dagster.hpc.shell import require, run
from mqi_dagster.hpc.slurm import JOB_SCRIPT, options_of, submit
from mqi_dagster.hpc.staging import stage

_JOB = b"#!/bin/sh\ntrue\n"
_TIMEOUT_SECONDS = 3600


def measure_submission(site: Site, count: int) -> None:
    """Measure and print; the jobs are held, so that nothing runs meanwhile."""
    ours = Figure("ours, stage apart")
    again = Figure("ours, asked again (finds the job)")
    staging = Figure("beside it: staging of the job's 3 small files")
    bare = Figure("bare sbatch --parsable, the same open connection")
    anew = Figure("bare sbatch --parsable, a new connection each")
    name = job_name("P0123456789.fx0001__b03")
    options = [*options_of(site.slurm, _TIMEOUT_SECONDS), "--hold"]

    def argv(folder: JobFolder) -> list[str]:
        place = [f"--chdir={folder.path}", f"--output={folder.path}/slurm-%j.out"]
        told = [f"--job-name={name}", f"--comment={folder.key}", *place, *options]
        return ["sbatch", "--parsable", *told, f"{folder.path}/{JOB_SCRIPT}"]

    def platform(folder: JobFolder) -> None:
        ids.append(submit(site.connection, folder, name, (), options))

    def on_the_same(folder: JobFolder) -> None:
        ids.append(require(run(site.connection, argv(folder)), "sbatch").text.strip())

    def connecting(folder: JobFolder) -> None:
        with site.new_client() as client:
            _, out, err = client.exec_command(shlex.join(argv(folder)))
            ids.append(out.read().decode().strip())
            assert out.channel.recv_exit_status() == 0, err.read()

    files = {JOB_SCRIPT: _JOB, "input/moqui_tps.in": b"GPUID 0\n" * 100, "input/plan.dcm": b"\0" * 9000}
    ids: list[str] = []
    for number in range(count):
        folder = site.folder("b03", number)
        staging.time(stage, site.connection, folder, files)
        ours.time(platform, folder)
        again.time(platform, folder)
        if ids[-1] != ids[-2]:
            raise RuntimeError("asked again, it submitted a second job")
        bare.time(on_the_same, folder)
        anew.time(connecting, folder)
    if len(set(ids)) != 3 * count:
        raise RuntimeError(f"{len(set(ids))} jobs in place of {3 * count}")
    show(f"submission of {count} jobs", [ours, again, bare, anew, staging], compared_with=bare)
