"""What assets and sensors are handed: shown and described by Dagster's page, and each replaced alone."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dagster._core.remote_representation.external_data import RepositorySnap, ResourceSnap

from mqi_dagster.definitions import build_definitions
from mqi_dagster.errors import ConfigurationError
from mqi_dagster.handover.access import PRIVATE
from mqi_dagster.handover.folder import FolderTarget
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.notify.message import Message
from mqi_dagster.partitions import beam_key
from mqi_dagster.resources.site import Site
from mqi_dagster.store.store import Store
from tests.chain.chain import ONE_BEAM, Chain, deliver, quick_engine
from tests.chain.ended_runs import evaluate
from tests.engines.in_process import FakeExecutor

COMPOSED = "mqi_dagster.resources.composed"


@dataclass
class Given:
    """A resource that gives what the test has made."""

    value: Any

    def open(self) -> Any:
        return self.value


class Listener:
    """A channel that keeps what it is told."""

    name = "listener"

    def __init__(self) -> None:
        self.heard: list[str] = []

    def send(self, message: Message) -> None:
        self.heard.append(message.kind)


def shown(site: Site) -> dict[str, ResourceSnap]:
    """The resources as Dagster's page reads them."""
    repository = build_definitions(site).get_repository_def()
    return {found.name: found for found in RepositorySnap.from_def(repository).resources or []}


def dose_files(chain: Chain, case: str) -> dict[str, str]:
    """SHA-256 of the beam's published files by name, without the TPS file, which names its work folder."""
    files = chain.published(beam_key(case, 2))
    return {name: sha256 for name, sha256 in files.items() if not name.startswith("tps_file/")}


def test_dagsters_page_describes_what_is_composed_from_the_site(tmp_path: Path) -> None:
    # Without settings: nothing is opened to be shown.
    found = shown(Site(tmp_path / "mqi.yaml"))
    assert {name: one.resource_type for name, one in found.items() if name != "site"} == {
        "executor": f"{COMPOSED}.ExecutorResource",
        "gpu_pool": f"{COMPOSED}.GpuPoolResource",
        "store": f"{COMPOSED}.StoreResource",
        "parsed_inputs": f"{COMPOSED}.ParsedInputsResource",
        "target": f"{COMPOSED}.TargetResource",
        "notifier": f"{COMPOSED}.NotifierResource",
    }
    for name, one in found.items():
        assert len(one.resource_snapshot.description or "") > 50, name
        alone = name in ("site", "parsed_inputs")
        assert list(one.nested_resources) == ([] if alone else ["site"])


def test_the_page_tells_who_uses_which_resource(tmp_path: Path) -> None:
    found = shown(Site(tmp_path / "mqi.yaml"))
    assets = {name: {key.to_user_string() for key in one.asset_keys_using} for name, one in found.items()}
    segmentations = {"auto_segmentation", "custom_segmentation"}
    assert assets["executor"] == {"tps_file", "raw_dose"}
    assert assets["gpu_pool"] == {"tps_file", "raw_dose", *segmentations}
    assert assets["target"] == {"handed_over", "case_handed_over"}
    assert assets["store"] == {
        *("case_manifest", "interpreted_csvs", "tps_file", "raw_dose", "rt_dose"),
        *("handed_over", "case_handed_over"),
        *("course_inventory", "structures", "dvh", "radiomics", "course_report", "cohort_tables"),
        *segmentations,
    }
    assert found["notifier"].sensors_using == ["notifications"]
    assert sorted(found["gpu_pool"].sensors_using) == ["gpu_monitor", "reaper", "run_outcomes"]


def test_a_beam_goes_through_on_another_executor_without_any_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = deliver(tmp_path / "in", plan=ONE_BEAM).folder
    process = Chain(tmp_path / "process", given=given, on_processes=True)
    case, taken_in = process.run_intake()
    assert taken_in.success and process.run_beams(case, [2])[0].success
    assert process.engine_starts() == 1

    def none(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", none)
    fake = FakeExecutor()
    inside = Chain(tmp_path / "inside", given=given, resources={"executor": fake})
    assert inside.run_intake()[1].success and inside.run_beams(case, [2])[0].success
    assert len(fake.starts) == 1
    assert dose_files(inside, case) == dose_files(process, case) != {}, "bit for bit"
    assert inside.digest("raw_dose", beam_key(case, 2)) == process.digest("raw_dose", beam_key(case, 2))


class Unanswering(FakeExecutor):
    """An executor on which a command of the engine fails."""

    def answer(self, argv: Sequence[str]) -> str:
        raise ConfigurationError(f"no answer to {' '.join(argv)}")


def test_the_engine_of_a_cluster_is_asked_its_version_by_the_command_of_that_cluster(tmp_path: Path) -> None:
    profile = quick_engine()
    profile["profiles"]["test"]["version_command"] = ["engine-here", "--version"]
    slurm = {"root": "/srv/jobs", "engine_version_command": ["/opt/engine", "-v"]}
    host = {"host": "login.example", "user": "mqi", "key_file": "key", "known_hosts": "hosts", "slurm": slurm}
    settings = {"engine": profile, "hosts": {"hpc": host}, "execution": {"simulation": "hpc"}}
    given = deliver(tmp_path / "in", plan=ONE_BEAM).folder
    chain = Chain(tmp_path / "site", settings, given=given, resources={"executor": Unanswering()})
    case, taken_in = chain.run_intake()
    (run,) = chain.run_beams(case, [2])
    assert taken_in.success and "no answer to /opt/engine -v" in run.error


def test_store_target_and_notifier_are_replaced_alone(tmp_path: Path) -> None:
    store, target, listener = Store(tmp_path / "store"), tmp_path / "target", Listener()
    resources = {
        "store": Given(store),
        "target": Given(FolderTarget(target, PRIVATE)),
        "notifier": Given([listener]),
    }
    chain = Chain(
        tmp_path / "site", given=deliver(tmp_path / "in", plan=ONE_BEAM).folder, resources=resources
    )
    case, taken_in = chain.run_intake()
    assert taken_in.success and chain.run_beams(case, [2])[0].success and chain.conclude(case).success
    assert (target / case / "_COMPLETE").is_file() and not chain.handover.exists()
    assert (store.root / "cases" / case / "b02" / "rt_dose").is_dir() and not chain.assets_in_store()
    evaluate(chain, "notifications")
    chain.site.ledger.alarms.raise_(AlarmKind.DISK_FULL, "data", "the disk is full")
    evaluate(chain, "notifications")
    assert listener.heard == ["disk_full"]
    assert chain.digest("rt_dose", beam_key(case, 2)) is not None
