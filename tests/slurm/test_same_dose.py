"""The embedded engine gives the same dose on the cluster as on this machine, bit for bit."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "chain"))

from beams import INTERVALS
from chain import PLAN, Chain, mcsquare_engine
from slurm_cluster import running_cluster

from mqi_dagster.engine.embedded.install import Installation
from mqi_dagster.partitions import beam_key

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ENGINE = Path(sys.executable).with_name("mqi-engine")
ASSETS = ("interpreted_csvs", "tps_file", "raw_dose", "rt_dose")


@pytest.fixture
def on_cluster(tmp_path: Path, mcsquare: Installation) -> Iterator[dict[str, Any]]:
    """Sections that simulate on a cluster without accounting; as root, who alone can read this Python."""
    with running_cluster(accounting="none", root_login=True) as cluster:
        connection = cluster.connection()
        # Beside the cluster's own folder, and short.
        root = connection.root.with_name(f"{connection.root.name}-jobs")
        yield {
            "execution": {"simulation": "hpc"},
            "hosts": {
                "hpc": {
                    "host": connection.host,
                    "port": connection.port,
                    "user": "root",
                    "key_file": str(connection.key_file),
                    "known_hosts": str(connection.known_hosts),
                    "slurm": {
                        "root": str(root),
                        "intervals": INTERVALS,
                        "cpus": 2,
                        "engine_command": [str(ENGINE), "{tps}"],
                        "engine_version_command": [str(ENGINE), "--version"],
                        "environment": {"MQI_ENGINE_CACHE": str(mcsquare.folder.parent)},
                    },
                }
            },
        }
        left = list(root.glob("*/*/*"))
        shutil.rmtree(root)
    assert left == [], "a folder of a job is left on the cluster"


def test_the_dose_is_that_of_a_local_run(tmp_path: Path, on_cluster: dict[str, Any]) -> None:
    made = {}
    for name, sections in (("local", {}), ("cluster", on_cluster)):
        chain = Chain(tmp_path / name, {"engine": mcsquare_engine(), **sections})
        chain.deliver(plan=PLAN)
        chain.tick_sensors(2)
        assert [outcome.error for _, _, outcome in chain.runs] == [""] * 4, name
        (case,) = chain.runs_of("intake")
        digests = {
            (number, asset): chain.digest(asset, beam_key(case, number))
            for number in (2, 3)
            for asset in ASSETS
        }
        files = {
            key: sha
            for number in (2, 3)
            for key, sha in chain.published(beam_key(case, number)).items()
            # The TPS file names the folder that the engine works in.
            if "raw_dose/" in key or "rt_dose/" in key
        }
        made[name] = digests, {key: sha for key, sha in files.items() if key.endswith((".raw", ".dcm"))}
    assert made["local"] == made["cluster"]
    assert len(made["local"][1]) == 8
