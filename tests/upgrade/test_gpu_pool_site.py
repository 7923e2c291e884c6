"""A site of earlier code with a pool of GPUs opens, migrates and goes on, with a beam in flight on two."""

from __future__ import annotations

import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mqi_dagster.definitions import build_definitions
from mqi_dagster.execution.gpus import local_gpus
from mqi_dagster.lifecycle.lineage import resolve
from mqi_dagster.operations.instance import open_instance, pool_limit
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import read_settings
from tests.ledger.ledger_rows import waiting

HERE = Path(__file__).parent
ARCHIVE = HERE / "gpu_pool" / "site.tar.xz"
BASE = Path("/var/tmp/mqi-upgrade-gpu")
"""Where the archive was made: its manifests name their inputs there."""

pytestmark = pytest.mark.skipif(
    bool(local_gpus()), reason="a declaration must not contradict the GPUs that are here"
)


def extracted(target: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(target, filter="data")
    (target / "site" / "secret").chmod(0o600)
    return target / "site"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(extracted(tmp_path_factory.mktemp("upgrade")) / "mqi.yaml")


def test_leases_switches_looks_and_limits_are_kept(site: Site) -> None:
    ledger = site.ledger
    (lease,) = ledger.leases.all()
    assert [(slot.index, slot.uuid) for slot in lease.slots] == [(0, "GPU-00"), (1, "GPU-11")]
    assert lease.job_id is not None
    assert [(slot.uuid, slot.switched_off_reason) for slot in ledger.slots.all() if not slot.usable] == [
        ("GPU-22", "fan broken"),
        ("GPU-33", "fan broken"),
    ]
    assert [(gpu.uuid, gpu.used_mb, gpu.temperature_c) for gpu in ledger.gpus.all()] == [("GPU-00", 9000, 71)]
    assert waiting(ledger) == [], "whoever waited then is long gone"
    assert {row.priority for row in ledger.arrivals.all()} == {3}
    assert ledger.slots.pool_limit("gpu") == 2
    assert pool_limit(site.settings, ledger) == 2


@pytest.fixture
def where_it_was_made() -> Iterator[Path]:
    """The site at its place, with a quick engine."""
    BASE.mkdir(mode=0o755)
    try:
        folder = extracted(BASE)
        content = yaml.safe_load((folder / "mqi.yaml").read_text())
        command = [sys.executable, str(HERE.parent / "engines" / "quick.py"), "{tps}"]
        content["engine"]["profiles"]["declared"]["command"] = command
        (folder / "mqi.yaml").write_text(yaml.safe_dump(content))
        yield folder
    finally:
        shutil.rmtree(BASE)


@pytest.mark.slow
def test_the_beam_in_flight_is_simulated_and_handed_over(where_it_was_made: Path) -> None:
    site = Site(where_it_was_made / "mqi.yaml")
    (in_flight,) = (lease.partition for lease in site.ledger.leases.all())
    with open_instance(read_settings(site.settings_file)) as instance:
        result = (
            build_definitions(site)
            .resolve_job_def("beam")
            .execute_in_process(instance=instance, partition_key=in_flight, raise_on_error=False)
        )
        assert result.success
        resolve(instance, site.store, "handed_over", in_flight)
    assert site.ledger.leases.all() == []
    assert [(one.number, one.outcome) for one in site.ledger.attempts.history(in_flight)] == [
        (1, "succeeded")
    ]
