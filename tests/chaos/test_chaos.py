"""Everything dies, again and again, and every case is concluded once with the right doses."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.chaos_board import watching
from tests.chaos.chaos_checks import violations
from tests.chaos.chaos_run import Chaos
from tests.chaos.chaos_site import ChaosSite
from tests.cluster.slurm_cluster import running_cluster
from tests.postgres.postgres_server import Server, running_postgres
from tests.services.stack import Stack
from tests.slurm.beams import make_shared
from tests.slurm.site_on_slurm import sections, steer

SEED = int(os.environ.get("CHAOS_SEED", "1"))
MINUTES = float(os.environ.get("CHAOS_MINUTES", "3"))
DRAIN_MINUTES = float(os.environ.get("CHAOS_DRAIN_MINUTES", "4"))
ENGINE_SECONDS = 4.0
SLOTS = 2

pytestmark = [pytest.mark.slow, pytest.mark.chaos, pytest.mark.timeout(60 * (MINUTES + DRAIN_MINUTES + 15))]


@pytest.fixture
def postgres() -> Iterator[Server]:
    """A server of this test's own."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster of two nodes with four simulated GPUs each, with accounting."""
    with running_cluster(message_timeout=4, min_job_age=60, kill_wait=2, slurmd_timeout=20) as started:
        yield started


@pytest.fixture
def shared(cluster: Any) -> Iterator[Path]:
    """A folder of the jobs' account."""
    base = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="mqw"))
    base.chmod(0o755)
    yield make_shared(base / "shared", cluster.settings.user)
    shutil.rmtree(base)


@pytest.fixture
def sites(postgres: Server, cluster: Any, shared: Path, tmp_path: Path) -> Iterator[list[ChaosSite]]:
    """One site that simulates here and one on the cluster, by one engine, all records on PostgreSQL."""
    made = []
    for name in ("local", "slurm"):
        given = sections(cluster.connection(), shared, name, slots=SLOTS)
        given["execution"] |= {
            "attempts": 20,
            "slots": SLOTS,
            "max_runs": 4,
            "stale_seconds": 8,
            "heartbeat_seconds": 1,
        }
        if name == "local":
            given["execution"] |= {"simulation": "local", "gpu_monitoring": "local"}
        postgres.new_database(name)
        given["database"] = {**postgres.section, "name": name}
        steer(shared, name, seconds=ENGINE_SECONDS)
        made.append(ChaosSite(name, Stack(tmp_path / name, given), str(shared / f"{name}.trace")))
    for site in made:
        site.begin("dev", "--detach", "--port", "0")
    yield made
    for site in made:
        site.stack.stop()


def test_every_case_is_concluded_once_however_much_dies(
    sites: list[ChaosSite],
    postgres: Server,
    cluster: Any,
    shared: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    chaos = Chaos(sites, postgres, cluster, SEED)
    chaos.wait_until_standing()
    try:
        with watching(sites, tmp_path / "boards") as watches:
            ended = chaos.disturb(MINUTES)
            chaos.tell_counts(ended)
            chaos.drain(DRAIN_MINUTES)
        for watch in watches:
            watch.tell(chaos.log.say)
        for site in sites:
            # The undisturbed run is for its doses, and in nobody's way.
            steer(shared, site.name, seconds=0)
        found = violations(chaos, shared, tmp_path / "undisturbed")
    except AssertionError:
        print(chaos.stuck())
        raise
    finally:
        record_property("what happened", "\n".join(chaos.log.lines))
    found += [one for watch in watches for one in watch.wrong]
    assert found == [], "\n".join([f"seed {SEED}", *found])
    for watch in watches:
        assert watch.broken is None and watch.board.ended == 0
        # How many frames and how much of a core is told above, and measured by `python -m benchmarks.top`.
        assert watch.compared > 0 and watch.board.frames > 0
        assert watch.board.untold == 0
