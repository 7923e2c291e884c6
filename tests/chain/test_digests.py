"""What a result depends on, and what it does not: the same inputs are computed once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mqi_dagster.compute import simulated_beam
from mqi_dagster.engine_contract.tps import parse_tps
from mqi_dagster.ledger.slots import Slot, SlotKind
from mqi_dagster.lifecycle.beam import load_beam
from mqi_dagster.lifecycle.digests import tps_file_digest
from mqi_dagster.resources import gpu_pool
from mqi_dagster.settings import Settings
from tests.chain.chain import MACHINES, Chain, deliver


def prepared(tmp_path: Path, **settings: object) -> tuple[Chain, str]:
    chain = Chain(tmp_path / "site", dict(settings), given=deliver(tmp_path / "in").folder)
    case, outcome = chain.run_intake()
    assert outcome.success
    return chain, f"{case}__b02"


def tps_files(chain: Chain) -> list[Path]:
    found = chain.data.glob("cases/*/b02/tps_file/*/moqui_tps.in")
    return [path for path in found if not path.parent.is_symlink()]


def simulation_digests(chain: Chain, key: str) -> tuple[str | None, str | None]:
    return chain.digest("tps_file", key), chain.digest("raw_dose", key)


def test_gpu_host_and_slot_stand_in_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for index, host in ((0, "alpha"), (1, "beta")):

        def slot_of(settings: Settings, known: object, index: int = index) -> list[Slot]:
            return [Slot(SlotKind.GPU, index, uuid=f"GPU-{index}{index}", memory_mb=1000)]

        monkeypatch.setattr(gpu_pool, "local_slots", slot_of)
        monkeypatch.setattr(gpu_pool, "this_host", lambda host=host: host)
        # The TPS file itself may name another GPU than the first that the engine sees.
        real = simulated_beam.prepare_view
        monkeypatch.setattr(
            simulated_beam,
            "prepare_view",
            lambda *a, real=real, index=index, **k: real(*a, **{**k, "gpu_index": index}),
        )
        chain, key = prepared(tmp_path / host)
        assert chain.run_beams(key[:-5], [2])[0].success
        monkeypatch.setattr(simulated_beam, "prepare_view", real)
        assert chain.metadata("tps_file", key)["slot"] == f"{host}/gpu{index}"
        (tps,) = (
            p for p in chain.data.glob("cases/*/b02/tps_file/*/moqui_tps.in") if not p.parent.is_symlink()
        )
        assert re.search(r"^GPUID (\d)$", tps.read_text(), re.MULTILINE)[1] == str(index)  # type: ignore[index]
        found.append(simulation_digests(chain, key))
    assert None not in found[0]
    assert found[0] == found[1]


def test_the_digest_of_a_tps_file_ignores_gpu_and_paths_and_nothing_else(tmp_path: Path) -> None:
    chain, key = prepared(tmp_path)
    assert chain.run_beams(key[:-5], [2])[0].success
    (path,) = tps_files(chain)
    text = path.read_text()
    beam = load_beam(chain.instance, chain.site.store, chain.site.machines, key)
    csvs = chain.digest("interpreted_csvs", key)
    assert csvs is not None

    def digest(content: str) -> str:
        tps = parse_tps(content)
        return tps_file_digest(
            beam, csvs, chain.site.settings.engine, "test engine 1", None, tps.for_digest()
        )

    assert digest(text) == chain.digest("tps_file", key)
    assert digest(re.sub(r"GPUID 0", "GPUID 3", text)) == digest(text)
    assert digest(re.sub(r"OutputDir .*", "OutputDir /elsewhere/Dose", text)) == digest(text)
    assert digest(re.sub(r"RandomSeed .*", "RandomSeed 4", text)) != digest(text)
    assert digest(re.sub(r"PhantomDimX 12", "PhantomDimX 14", text)) != digest(text)


def test_the_same_inputs_are_never_computed_twice(tmp_path: Path) -> None:
    chain, key = prepared(tmp_path)
    case = key[:-5]
    for _ in range(2):
        assert chain.run_beams(case, [2])[0].success
    assert chain.engine_starts() == 1
    assert chain.metadata("raw_dose", key)["computed in this run"] is False
    # Nor by a restarted service with an event log of its own.
    restarted = Chain(tmp_path / "site", given=chain.given)
    assert restarted.run_intake()[1].success
    assert restarted.run_beams(case, [2])[0].success
    assert restarted.engine_starts() == 1


def test_a_changed_calibration_gives_new_results_beside_the_old_ones(tmp_path: Path) -> None:
    machines = tmp_path / "machines"
    machines.mkdir()
    content = yaml.safe_load((MACHINES / "generic.yaml").read_text())
    (machines / "generic.yaml").write_text(yaml.safe_dump(content))
    chain, key = prepared(tmp_path, paths={"machines": str(machines)})
    case = key[:-5]
    assert chain.run_beams(case, [2])[0].success
    assets = ("interpreted_csvs", "tps_file", "raw_dose", "rt_dose")
    before = {asset: chain.digest(asset, key) for asset in assets}
    files, mu = chain.published(key), chain.metadata("interpreted_csvs", key)["delivered MU"]

    content["record"]["mu_per_count"] = 1.02e-5
    (machines / "generic.yaml").write_text(yaml.safe_dump(content))
    chain.reopen()
    assert chain.run("intake", case).success
    (beam,) = chain.run_beams(case, [2])

    assert beam.success, beam.error
    after = {asset: chain.digest(asset, key) for asset in assets}
    assert all(after[asset] != before[asset] for asset in assets)
    assert chain.engine_starts() == 2
    assert chain.metadata("interpreted_csvs", key)["delivered MU"] == pytest.approx(1.02 * mu, abs=1.1e-3)
    now = chain.published(key)
    assert {name: now.get(name) for name in files} == files


def test_settings_that_do_not_change_the_dose_change_no_digest(tmp_path: Path) -> None:
    chain, key = prepared(tmp_path)
    case = key[:-5]
    assert chain.run_beams(case, [2])[0].success
    chain.change(
        {
            "engine": {"timeout_seconds": 123, "uncertainty_maximum_percent": 12},
            "execution": {"slots": 2, "attempts": 2},
            "interpretation": {"mu_ratio_minimum": 0.8},
            "site": {"name": "another name"},
        }
    )
    assert chain.run_beams(case, [2])[0].success
    assert chain.engine_starts() == 1
