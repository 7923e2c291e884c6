"""The monitor writes down what GPUs do, assigns nothing, and takes a host that is away as it is."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mqi_dagster.errors import UnreachableError
from mqi_dagster.execution.gpus import ComputeProcess, Gpu
from mqi_dagster.hpc.errors import AnswerError
from mqi_dagster.hpc.slurm import NodeGpus
from mqi_dagster.resources import gpu_pool
from tests.chain.chain import Chain

HOST = {"host": "127.0.0.1", "port": 1, "user": "mqi", "key_file": "key", "known_hosts": "known_hosts"}
SLURM = {**HOST, "slurm": {"root": "/srv/mqi/jobs"}}


def look(chain: Chain) -> str:
    """One tick of the monitor; what it says."""
    sensor = next(s for s in chain.definitions.sensors or () if s.name == "gpu_monitor")
    resources = dict(chain.definitions.resources or {})
    with dg.build_sensor_context(
        instance=chain.instance, resources=resources, sensor_name="gpu_monitor"
    ) as context:
        data = sensor.evaluate_tick(context)
    assert not data.run_requests
    return str(data.skip_message)


def site(tmp_path: Path, place: str, host: dict[str, Any] = HOST) -> Chain:
    return Chain(tmp_path / "site", {"hosts": {"there": host}, "execution": {"gpu_monitoring": place}})


def test_what_the_gpus_of_this_machine_do_stands_in_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands in for NVML, which sees nothing where there is no GPU.
    busy = (ComputeProcess(os.getpid(), 5 << 20), ComputeProcess(os.getpid(), 0))
    seen = Gpu(2, "GPU-a", "RTX A5000", 24564, 1302, 37, 61, 1695, 7600, busy)
    monkeypatch.setattr(gpu_pool, "local_gpus", lambda: [seen])
    chain = site(tmp_path, "local")
    assert look(chain) == "1 GPUs of local seen, 1 with a foreign process"
    (usage,) = chain.site.ledger.gpus.all()
    assert (usage.host, usage.index, usage.uuid, usage.foreign_processes) == (
        gpu_pool.this_host(),
        2,
        "GPU-a",
        1,
    )
    assert (usage.used_mb, usage.utilisation_percent, usage.temperature_c, usage.sm_clock_mhz) == (
        1302,
        37,
        61,
        1695,
    )
    assert abs((datetime.now(UTC) - usage.seen_at).total_seconds()) < 60
    assert chain.site.ledger.leases.all() == chain.site.ledger.slots.all() == []


def test_on_a_host_without_slurm_every_process_is_foreign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands in for the SSH command, whose answers have tests of their own.
    seen = Gpu(0, "GPU-a", "A100", 81920, processes=(ComputeProcess(os.getpid(), 5),))
    monkeypatch.setattr(gpu_pool, "gpus_of_host", lambda _connection: [seen])
    chain = site(tmp_path, "there")
    assert look(chain) == "1 GPUs of there seen, 1 with a foreign process"
    assert [(gpu.host, gpu.foreign_processes) for gpu in chain.site.ledger.gpus.all()] == [("there", 1)]


def test_on_a_cluster_slurm_tells_which_gpus_are_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [NodeGpus("n1", "mixed", 2, 1, (1,)), NodeGpus("n2", "idle", 1, 0)]
    monkeypatch.setattr(gpu_pool, "gpus_of", lambda _connection, _slurm: nodes)
    chain = site(tmp_path, "there", SLURM)
    assert look(chain) == "3 GPUs of there seen, 0 with a foreign process"
    assert sorted((gpu.uuid, gpu.name, gpu.allocated) for gpu in chain.site.ledger.gpus.all()) == [
        ("n1:0", "n1 (mixed)", False),
        ("n1:1", "n1 (mixed)", True),
        ("n2:0", "n2 (idle)", False),
    ]


@pytest.mark.parametrize(
    ("error", "fails"), [(UnreachableError("gone"), False), (AnswerError("nvidia-smi says 'x'"), True)]
)
def test_only_an_answer_that_is_not_understood_is_a_failed_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, fails: bool
) -> None:
    def ask(_connection: object) -> list[Gpu]:
        raise error

    monkeypatch.setattr(gpu_pool, "gpus_of_host", ask)
    chain = site(tmp_path, "there")
    if fails:
        with pytest.raises(Exception, match="nvidia-smi says 'x'"):
            look(chain)
    else:
        assert look(chain) == "there is away: gone"
