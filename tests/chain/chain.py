"""The whole chain in one process: a site, its real definitions, an instance, and hands for its sensors."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from mqi_dagster.definitions import build_definitions
from mqi_dagster.lifecycle.arrived import given_folder
from mqi_dagster.machine import read_machines
from mqi_dagster.partitions import beam_key
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import LOCAL
from mqi_dagster.synthetic.defects import parse_defect
from mqi_dagster.synthetic.delivery import SimulatedCase, simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest, Layout
from tests.engines.in_process import FakeExecutor

ENGINES = Path(__file__).parents[1] / "engines"
MACHINES = Path(__file__).parents[2] / "mqi_dagster" / "config" / "machines"
PLAN = BuiltInPlan(beams=2, layers=2, spots=9, layer_seconds=0.05, energies_mev=(120.0, 150.0))
ONE_BEAM = BuiltInPlan(beams=1, layers=2, spots=9, layer_seconds=0.05, energies_mev=(120.0,))
PHANTOM = {"dimension": [12, 12, 40], "unit_mm": [10, 10, 10], "position_mm": [-60, -60, -365]}
"""Coarse; the plane of 2 cm mode is one voxel around z = 0."""
MC_PHANTOM = {"dimension": [40, 40, 70], "unit_mm": [4, 4, 4], "position_mm": [-80, -80, -242]}
Results = dict[int, tuple[dict[str, str | None], dict[str, str]]]
"""Digests by asset and published files by name, of every beam."""
SENSORS = ("case_arrivals", "beams_to_simulate", "cases_to_conclude")


def quick_engine(*arguments: str) -> dict[str, Any]:
    """Settings of the declared test engine ``quick.py``."""
    return _engine("quick.py", *arguments)


def faulty_engine(mode: Path) -> dict[str, Any]:
    """Settings of the declared test engine ``faulty.py``, which does what the mode file says."""
    return _engine("faulty.py", str(mode))


def _engine(script: str, *arguments: str) -> dict[str, Any]:
    profile = {
        "command": [sys.executable, str(ENGINES / script), "{tps}", *arguments],
        "version": "test engine 1",
        "reads_beam_model": True,
    }
    return {
        "profile": "test",
        "profiles": {"test": profile},
        "histories": 100000,
        "phantom": PHANTOM,
        "timeout_seconds": 60,
    }


def mcsquare_engine(histories: float = 20000) -> dict[str, Any]:
    """Settings of the embedded engine, coarse and with few histories."""
    return {"histories": histories, "phantom": MC_PHANTOM, "uncertainty_maximum_percent": 80.0}


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``, section by section."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


@dataclass(frozen=True)
class Outcome:
    """How one run ended."""

    success: bool
    error: str
    """Description of the first step failure; empty where there is none."""
    code: str
    """Type of that error."""
    run_id: str
    checks: dict[str, bool]


class Chain:
    """One site below a folder, with its instance.

    Args:
        folder: Everything of the site lies below it.
        settings: Overrides of the settings, by section.
        given: A case folder named by a person; the inbox where None.
        instance: Dagster's; one in memory where None.
        secret: The site's secret; one derived from nothing but ``folder``'s name where None.
        on_processes: Start the declared test engine as a process also where nothing of it is wanted but its
            dose; it is computed in this process otherwise.
        resources: What stands in for resources of the definitions.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any] | None = None,
        *,
        given: Path | None = None,
        instance: dg.DagsterInstance | None = None,
        secret: str = "5a" * 32,
        on_processes: bool = False,
        resources: Mapping[str, object] | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        base: dict[str, Any] = {
            "site": {"timezone": "Asia/Seoul"},
            "paths": {"machines": str(MACHINES)},
            "intake": {"stable_seconds": 0},
            "engine": quick_engine(),
            "execution": {
                "attempts": 1,
                "lease_poll_seconds": 0.05,
                "heartbeat_seconds": 1,
                "stale_seconds": 120,
            },
        }
        content = merged(base, settings or {})
        if settings and "engine" in settings:
            content["engine"] = settings["engine"]
        self.settings_file = folder / "mqi.yaml"
        self.settings_file.write_text(yaml.safe_dump(content))
        secret_file = folder / "secret"
        if not secret_file.exists():
            secret_file.touch(mode=0o600)
            secret_file.write_text(secret + "\n")
        self.inbox = folder / "inbox"
        self.inbox.mkdir(exist_ok=True)
        self.instance = instance if instance is not None else dg.DagsterInstance.ephemeral()
        self.given = given
        self._on_processes = on_processes
        self._resources = resources or {}
        self.cursors: dict[str, str | None] = dict.fromkeys(SENSORS)
        self.runs: list[tuple[str, str, Outcome]] = []
        """Every run that was started: job, partition, outcome."""
        self.reopen()

    def reopen(self) -> None:
        """Open the site anew, as a restarted process does."""
        self.site = Site(self.settings_file, given=self.given)
        content = yaml.safe_load(self.settings_file.read_text())
        # Every other engine, and one with arguments, is what the test is about.
        plain = content["engine"].get("profiles") == quick_engine()["profiles"]
        on_cluster = content["execution"].get("simulation", LOCAL) != LOCAL
        fake = FakeExecutor(self._starts_file)
        stand_in = {} if self._on_processes or on_cluster or not plain else {"executor": fake}
        self.definitions = build_definitions(self.site, {**stand_in, **self._resources})

    def change(self, settings: dict[str, Any]) -> None:
        """Change the settings and open the site anew."""
        content = merged(yaml.safe_load(self.settings_file.read_text()), settings)
        self.settings_file.write_text(yaml.safe_dump(content))
        self.reopen()

    # Deliveries

    def deliver(
        self, *defects: str, plan: BuiltInPlan | Path = PLAN, machine: str = "GENERIC", **request: Any
    ) -> SimulatedCase:
        """Simulate a delivery into the inbox."""
        return deliver(self.inbox, *defects, plan=plan, machine=machine, **request)

    # Runs, as a person starts them

    def run(self, job: str, key: str, tags: dict[str, str] | None = None) -> Outcome:
        """One run of a job for one partition."""
        kind = "beam" if job == "beam" else "case"
        if not self.instance.has_dynamic_partition(kind, key):
            self.instance.add_dynamic_partitions(kind, [key])
        result = self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance, partition_key=key, tags=tags, raise_on_error=False
        )
        outcome = outcome_of(result)
        self.runs.append((job, key, outcome))
        return outcome

    def run_asset(self, asset: str, key: str) -> Outcome:
        """One asset alone, without its checks, as from the page of the asset."""
        wanted = [s for s in self.definitions.assets or () if dg.AssetKey(asset) in s.keys]
        result = dg.materialize(
            [wanted[0]],
            instance=self.instance,
            partition_key=key,
            resources=dict(self.definitions.resources or {}),
            raise_on_error=False,
        )
        return outcome_of(result)

    def cases(self) -> list[str]:
        """Keys of the cases of the given folder."""
        assert self.site.given is not None
        return [found.case for found in given_folder(self.site, self.site.given)]

    def run_intake(self) -> tuple[str, Outcome]:
        """Take the one case of the given folder in."""
        (case,) = self.cases()
        return case, self.run("intake", case)

    def run_beams(self, case: str, order: Sequence[int]) -> list[Outcome]:
        """Simulate the beams of a case one after the other."""
        return [self.run("beam", beam_key(case, number)) for number in order]

    def conclude(self, case: str) -> Outcome:
        """Conclude a case."""
        return self.run("conclusion", case)

    # Runs, as the sensors start them

    def tick(
        self, name: str, *, launch: bool = True, tags: dict[str, str] | None = None
    ) -> list[dg.RunRequest]:
        """Evaluate one sensor as the daemon does; start what it requests, each run key once.

        Args:
            name: The sensor.
            launch: False stops before any run is created and the cursor is kept, as a crash there does.
            tags: Further tags of the runs.
        """
        sensor = next(s for s in self.definitions.sensors or () if s.name == name)
        repository = self.definitions.get_repository_def()
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursors[name],
            resources=dict(self.definitions.resources or {}),
            repository_def=repository,
            sensor_name=name,
        ) as context:
            if context.instance_ref is None:
                # An instance in memory has none, and without one no partition of a request is looked up.
                without_reference: Any = context
                without_reference._instance_ref = True
            data = sensor.evaluate_tick(context)
        for request in data.dynamic_partitions_requests or ():
            if isinstance(request, dg.DeleteDynamicPartitionsRequest):
                for key in request.partition_keys:
                    self.instance.delete_dynamic_partition(request.partitions_def_name, key)
                continue
            self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        requests = list(data.run_requests or ())
        if not launch:
            return requests
        self.cursors[name] = data.cursor
        job = sensor.job_name
        for request in requests:
            wanted = dg.RunsFilter(tags={"dagster/run_key": str(request.run_key)})
            if self.instance.get_runs_count(wanted) == 0:
                self.run(
                    job,
                    str(request.partition_key),
                    {**request.tags, **(tags or {}), "dagster/run_key": str(request.run_key)},
                )
        return requests

    def tick_sensors(self, rounds: int = 1) -> None:
        """Evaluate every sensor, in the order of the chain."""
        for _ in range(rounds):
            for name in SENSORS:
                self.tick(name)

    def runs_of(self, job: str) -> list[str]:
        """Partitions of the runs of a job, in the order they were started."""
        return [key for name, key, _ in self.runs if name == job]

    # What there is

    @property
    def data(self) -> Path:
        """The store."""
        return self.site.settings.paths.data

    @property
    def handover(self) -> Path:
        """The hand-over target."""
        return self.site.settings.handover.folder

    def engine_starts(self) -> int:
        """How many engines were ever started, as a process or in one of ours."""
        path = self._starts_file
        return len(path.read_text().splitlines()) if path.exists() else 0

    @property
    def _starts_file(self) -> Path:
        """Where `LocalExecutor`, and what stands in for it, note every engine that they start."""
        return self.site.settings.paths.state / "engine_starts"

    def digest(self, asset: str, key: str) -> str | None:
        """Digest of the latest materialisation."""
        return self.metadata(asset, key).get("digest")

    def metadata(self, asset: str, key: str) -> dict[str, Any]:
        """Plain metadata of the latest materialisation; empty where there is none."""
        records = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[key]), limit=1
        ).records
        if not records or records[0].asset_materialization is None:
            return {}
        return {
            name: [dict(record.data) for record in value.records]
            if isinstance(value, dg.TableMetadataValue)
            else value.value
            for name, value in records[0].asset_materialization.metadata.items()
        }

    def published(self, key: str) -> dict[str, str]:
        """SHA-256 of every published file of a beam, by asset, digest and name."""
        case, _, beam = key.partition("__")
        root = self.data / "cases" / case / beam
        return {
            path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*"))
            if path.is_file() and not any(part.is_symlink() for part in (path, *path.parents))
        }

    def results(self, case: str, beams: Sequence[int]) -> Results:
        """Digests and published files of beams, by number."""
        found = {}
        for number in beams:
            key = beam_key(case, number)
            assets = ("interpreted_csvs", "tps_file", "raw_dose", "rt_dose")
            found[number] = ({asset: self.digest(asset, key) for asset in assets}, self.published(key))
        return found

    def handed_over_files(self) -> list[str]:
        """Every file at the hand-over target."""
        if not self.handover.exists():
            return []
        return sorted(
            p.relative_to(self.handover).as_posix() for p in self.handover.rglob("*") if p.is_file()
        )

    def leftovers(self) -> list[str]:
        """What a run should have cleared away: staging and work folders."""
        roots = (self.data / ".staging", self.site.work)
        return [path.name for root in roots if root.exists() for path in root.iterdir()]

    def assets_in_store(self) -> list[str]:
        """``<beam>/<asset>`` of everything published, for any case."""
        cases = self.data / "cases"
        return sorted({f"{p.parent.parent.name}/{p.parent.name}" for p in cases.glob("*/*/*/[0-9a-f]*")})

    def summary(self, case: str) -> dict[str, Any]:
        """The case's summary at the target."""
        return dict(json.loads((self.handover / case / "summary.json").read_text()))


def deliver(
    target: Path, *defects: str, plan: BuiltInPlan | Path = PLAN, machine: str = "GENERIC", **request: Any
) -> SimulatedCase:
    """Simulate a delivery into a folder."""
    wanted = DeliveryRequest(
        plan=plan,
        layout=request.pop("layout", Layout.SIMPLE),
        case_name=request.pop("case_name", None),
        defects=tuple(parse_defect(text) for text in defects),
        **{"idle_rows_before": (3, 6), "idle_rows_after": (2, 5), **request},
    )
    return simulate_delivery(wanted, read_machines(MACHINES).named(machine), target)


def deliver_other_records(folder: Path, *beams: int, plan: BuiltInPlan, aside: Path) -> None:
    """Deliver some beams of a case anew, the spots of the second layer 0.5 mm off.

    Args:
        folder: Of the case.
        beams: BeamNumbers.
        plan: That of the case.
        aside: Where the new records are made.
    """
    defects = [f"shifted-spots:beam={beam},layer=2,x=0.5,y=0" for beam in beams]
    other = deliver(aside, *defects, plan=plan)
    for path in other.folder.rglob("*"):
        there = folder / path.relative_to(other.folder)
        if path.is_file() and there.read_bytes() != path.read_bytes():
            shutil.copyfile(path, there)


def outcome_of(result: dg.ExecuteInProcessResult) -> Outcome:
    """What a person sees of a finished run."""
    error, code = "", ""
    for event in result.all_events:
        if event.is_step_failure and not error:
            data = event.step_failure_data
            failure = data.user_failure_data
            if failure is not None:
                error = failure.description or ""
                value = failure.metadata.get("error")
                code = str(value.value) if value is not None else ""
            elif data.error is not None:
                error = data.error.message
    checks = {
        f"{e.asset_key.to_user_string()}.{e.check_name}": bool(e.passed)
        for e in result.get_asset_check_evaluations()
    }
    return Outcome(result.success, error, code, result.run_id, checks)
