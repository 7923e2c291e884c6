"""A site of earlier code that simulates on a cluster opens, migrates and goes on, with a beam in flight."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mqi_dagster.lifecycle.lineage import latest_has_passed, resolve
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import read_settings

HERE = Path(__file__).parent
ARCHIVE = HERE / "slurm" / "site.tar.xz"
BASE = Path("/var/tmp/mqi-upgrade")
"""Where the archive was made: its manifests name their inputs there."""
IN_FLIGHT = "PGDG2HA7DO.fx0001__b02"
CONCLUDED = "PUCH6L4LHM.fx0001__b02"


def extracted(target: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(target, filter="data")
    (target / "site" / "secret").chmod(0o600)
    return target / "site"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extracted(tmp_path_factory.mktemp("upgrade"))


def test_the_concluded_beam_is_found_and_whole(folder: Path) -> None:
    site = Site(folder / "mqi.yaml")
    with open_instance(read_settings(folder / "mqi.yaml")) as instance:
        assert set(instance.get_dynamic_partitions("beam")) == {IN_FLIGHT, CONCLUDED}
        for asset in ("interpreted_csvs", "tps_file", "raw_dose", "rt_dose", "handed_over"):
            resolve(instance, site.store, asset, CONCLUDED)
        assert latest_has_passed(instance, "rt_dose", "readback", CONCLUDED)


def test_the_ledger_knows_both_jobs_and_who_holds_the_slot(folder: Path) -> None:
    ledger = Site(folder / "mqi.yaml").ledger
    jobs = {job.partition: (job.job_id, job.state.value, job.removed_at is None) for job in ledger.jobs.all()}
    assert jobs == {CONCLUDED: ("1", "succeeded", False), IN_FLIGHT: ("2", "running", True)}
    (lease,) = ledger.leases.all()
    assert (lease.partition, lease.host, lease.executor, lease.job_id) == (IN_FLIGHT, "hpc", "hpc", "2")
    assert [(one.number, one.outcome) for one in ledger.attempts.history(IN_FLIGHT)] == [(1, None)]


def test_the_command_lists_the_job_whose_folder_is_still_there(folder: Path) -> None:
    mqi = Path(sys.executable).parent / "mqi"
    answer = subprocess.run(
        [mqi, "cluster", "jobs", "--site", folder, "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    (job,) = json.loads(answer.stdout)
    assert (job["beam"], job["job"], job["state"]) == (IN_FLIGHT, "2", "running")


@pytest.fixture
def on_a_cluster() -> Iterator[tuple[Any, Path]]:
    """The site where it was made, with a cluster that knows nothing of its job."""
    from tests.cluster.slurm_cluster import running_cluster
    from tests.slurm.beams import make_shared

    if os.geteuid() != 0:
        pytest.skip("a real cluster needs root")
    with running_cluster() as cluster:
        BASE.mkdir(mode=0o755)
        try:
            site = extracted(BASE)
            shared = make_shared(BASE / "shared", cluster.settings.user)
            shutil.copytree(BASE / "work", shared / "work")
            for path in (shared / "work", *(shared / "work").rglob("*")):
                shutil.chown(path, cluster.settings.user)
            connection = cluster.connection()
            content = yaml.safe_load((site / "mqi.yaml").read_text())
            content["hosts"]["hpc"] |= {
                "port": connection.port,
                "key_file": str(connection.key_file),
                "known_hosts": str(connection.known_hosts),
            }
            (site / "mqi.yaml").write_text(yaml.safe_dump(content))
            yield cluster, site
        finally:
            shutil.rmtree(BASE)


@pytest.mark.slow
def test_the_beam_in_flight_goes_on_and_is_handed_over(on_a_cluster: tuple[Any, Path]) -> None:
    from mqi_dagster.definitions import build_definitions
    from tests.waiting import wait_for

    cluster, folder = on_a_cluster
    site = Site(folder / "mqi.yaml")
    definitions = build_definitions(site)
    with open_instance(read_settings(folder / "mqi.yaml")) as instance:
        result = definitions.resolve_job_def("beam").execute_in_process(
            instance=instance, partition_key=IN_FLIGHT, raise_on_error=False
        )
        assert result.success
        resolve(instance, site.store, "handed_over", IN_FLIGHT)
    (job,) = site.ledger.jobs.all(partition=IN_FLIGHT)
    assert (job.state.value, job.retired) == ("succeeded", ("2",))
    assert site.ledger.leases.all() == []
    assert [(one.number, one.outcome) for one in site.ledger.attempts.history(IN_FLIGHT)] == [
        (1, "succeeded")
    ]
    done = f"{job.job_id}|COMPLETED|{job.key}"
    argv = ("sacct", "-a", "-X", "-n", "-P", "-o", "JobIDRaw,State,Comment")
    # The accounting is late by some seconds.
    wait_for(lambda: done in cluster.slurm(*argv).stdout.splitlines(), "accounting")
