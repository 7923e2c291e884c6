"""`mqi gpu`: who has which GPU, what takes part, and the limit of the pool."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.errors import InputError
from mqi_dagster.execution.gpus import local_gpus
from mqi_dagster.ledger.gpus import GpuUsage
from mqi_dagster.ledger.leases import Lease, Need
from mqi_dagster.ledger.slots import SlotKind
from mqi_dagster.operations.instance import open_instance, pool_limit, pool_limit_of
from mqi_dagster.operations.site_folder import initialise
from mqi_dagster.resources.gpu_pool import this_host
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import read_settings

pytestmark = pytest.mark.skipif(
    bool(local_gpus()), reason="a declaration must not contradict the GPUs that are here"
)

HERE = this_host()
GPUS = [{"index": index, "uuid": f"GPU-{index}{index}", "memory_mb": 24000} for index in range(4)]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site with four declared GPUs, of which a beam takes two."""
    folder = tmp_path / "site"
    initialise(folder, {"site.timezone": "UTC"})
    content = yaml.safe_load((folder / "mqi.yaml").read_text())
    profile = {"command": ["moqui", "{tps}"], "version": "1", "needs_gpu": True, "gpus_per_beam": 2}
    content["engine"] = {"profile": "two", "profiles": {"two": profile}}
    content["execution"] = {"gpus": GPUS}
    (folder / "mqi.yaml").write_text(yaml.safe_dump(content))
    initialise(folder, {})
    return folder


def gpu(site: Path, *words: str) -> str:
    result = CliRunner().invoke(app, ["gpu", *words, "--site", str(site)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def rows(site: Path) -> list[dict[str, Any]]:
    return list(json.loads(gpu(site, "list", "--json")))


def limit(site: Path) -> int | None:
    with open_instance(read_settings(site / "mqi.yaml")) as instance:
        return pool_limit_of(instance)


def test_the_list_shows_owner_use_and_service(site: Path) -> None:
    ledger = Site(site / "mqi.yaml").ledger
    assert [(row["slot"], row["state"]) for row in rows(site)] == [
        (f"{HERE}/gpu{index}", "free") for index in range(4)
    ]
    need = Need(SlotKind.GPU, HERE, 2)
    found = ledger.leases.acquire("P1.fx0001__b02", "run1", need, stale_after=timedelta(seconds=60))
    assert isinstance(found, Lease)
    seen = GpuUsage(HERE, 1, "GPU-11", "A5000", 24000, 1900, 97, 71, 1695, 7600, 0, datetime.now(UTC))
    ledger.gpus.record(HERE, [seen])
    gpu(site, "off", f"{HERE}/3", "--reason", "fan broken")
    listed = {row["index"]: row for row in rows(site)}
    assert [listed[index]["beam"] for index in range(4)] == ["P1.fx0001__b02"] * 2 + [None] * 2
    assert {key: listed[1][key] for key in ("used_mb", "utilisation_percent", "temperature_c")} == {
        "used_mb": 1900,
        "utilisation_percent": 97,
        "temperature_c": 71,
    }
    assert (listed[3]["state"], listed[3]["in_pool"]) == ("off: fan broken", False)
    table = gpu(site, "list")
    assert "P1.fx0001__b02" in table and "fan broken" in table and "A5000" in table


def test_the_limit_follows_what_is_switched_off_and_never_the_other_way(site: Path) -> None:
    assert limit(site) == 2 + 2, "four GPUs are two simulations, and two runs may wait"
    gpu(site, "off", f"{HERE}/GPU-22", "--reason", "noisy")
    assert limit(site) == 1 + 2
    gpu(site, "off", f"{HERE}/gpu3", "--reason", "noisy")
    assert limit(site) == 1 + 2
    initialise(site, {})
    assert limit(site) == 1 + 2, "`mqi init` agrees"
    gpu(site, "on", f"{HERE}/2")
    gpu(site, "on", f"{HERE}/3")
    assert limit(site) == 2 + 2


def test_with_every_gpu_off_one_run_still_says_why_it_waits(site: Path) -> None:
    content = yaml.safe_load((site / "mqi.yaml").read_text())
    content["execution"]["pool_buffer"] = 0
    (site / "mqi.yaml").write_text(yaml.safe_dump(content))
    for index in range(4):
        gpu(site, "off", f"{HERE}/{index}", "--reason", "power cut")
    assert limit(site) == 1


def test_a_persons_limit_is_kept_by_init_and_cannot_exceed_slots_and_buffer(site: Path) -> None:
    assert "at most 1 runs" in gpu(site, "set-limit", "1")
    initialise(site, {})
    assert limit(site) == 1
    with pytest.raises(InputError, match="5 runs are more than 2 simulations and a buffer of 2"):
        gpu(site, "set-limit", "5")
    assert limit(site) == 1, "what was refused has changed nothing"
    gpu(site, "off", f"{HERE}/0", "--reason", "noisy")
    assert limit(site) == 1
    gpu(site, "set-limit", "auto")
    assert limit(site) == 3
    settings = read_settings(site / "mqi.yaml")
    assert pool_limit(settings) == 4, "the tag limit in dagster.yaml is the most that the pool's can become"


@pytest.mark.parametrize("name", ["elsewhere/0", f"{HERE}/9", "0", f"{HERE}/"])
def test_a_slot_that_is_not_there_is_named(site: Path, name: str) -> None:
    with pytest.raises(InputError, match="is no slot of the pool"):
        gpu(site, "off", name, "--reason", "?")


def test_a_reason_of_two_lines_is_refused(site: Path) -> None:
    result = CliRunner().invoke(
        app, ["gpu", "off", f"{HERE}/0", "--reason", "a\nb", "--site", str(site)], catch_exceptions=False
    )
    assert result.exit_code == 2
