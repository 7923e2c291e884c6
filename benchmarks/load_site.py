"""The site of `load.py`: real services over records that thousands of waiting beams have left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pydicom
import yaml

from mqi_dagster.definitions import build_definitions
from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.lifecycle.beam import MANIFEST_FILE, read_manifest
from mqi_dagster.lifecycle.lineage import DIGEST
from mqi_dagster.machine import read_machines
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.partitions import case_key
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import read_settings
from mqi_dagster.store.digests import digest_of
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest, Layout

ROOT = Path(__file__).resolve().parents[1]
MQI = Path(sys.executable).with_name("mqi")
ENGINE = ROOT / "tests" / "engines" / "quick.py"
MACHINES = ROOT / "mqi_dagster" / "config" / "machines"
PHANTOM = {"dimension": [12, 12, 40], "unit_mm": [10, 10, 10], "position_mm": [-60, -60, -365]}


class LoadSite:
    """One site below a folder.

    Args:
        folder: Everything of it lies below.
        database: Its section of the settings; None for SQLite.
        engine_seconds: How long one simulation takes.
        interval: Seconds between two looks of a sensor.
    """

    def __init__(
        self, folder: Path, database: dict[str, Any] | None, engine_seconds: float, interval: int
    ) -> None:
        self.root = folder / "site"
        self.file = self.root / "mqi.yaml"
        self._mqi("init", str(self.root), "--timezone", "UTC")
        content = yaml.safe_load(self.file.read_text())
        command = [sys.executable, str(ENGINE), "{tps}", "--seconds", f"{engine_seconds:g}"]
        profile = {"command": command, "version": "quick 1", "reads_beam_model": True}
        sections = {
            "intake": {"stable_seconds": 0, "scan_interval_seconds": interval},
            "engine": {
                "profile": "quick",
                "profiles": {"quick": profile},
                "histories": 100000,
                "phantom": PHANTOM,
            },
            "execution": {"slots": 1, "pool_buffer": 1, "max_runs": 4},
            "database": database or {},
        }
        for name, section in sections.items():
            content[name] = {**(content.get(name) or {}), **section}
        self.file.write_text(yaml.safe_dump(content))
        self.site = Site(self.file)

    def _mqi(self, *arguments: str) -> None:
        environment = {**os.environ, "PATH": f"{MQI.parent}:{os.environ['PATH']}"}
        subprocess.run([MQI, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """Dagster's records, beside the services."""
        with open_instance(read_settings(self.file)) as opened:
            yield opened

    def start(self) -> None:
        """Start the services and wait until they answer."""
        self._mqi("dev", "--site", str(self.root), "--detach", "--port", "0")

    def stop(self) -> None:
        """End them."""
        self._mqi("stop", "--site", str(self.root))

    @property
    def services(self) -> dict[str, Any]:
        """Host, port and processes of the services."""
        return dict(json.loads((self.root / "state" / "services.json").read_text()))

    # Cases

    def deliver(self, seed: int, beams: int) -> str:
        """Drop a synthetic case into the inbox; its key."""
        plan = BuiltInPlan(beams=beams, layers=1, spots=4, layer_seconds=0.02)
        request = DeliveryRequest(
            plan=plan, seed=seed, layout=Layout.SIMPLE, idle_rows_before=(3, 6), idle_rows_after=(2, 5)
        )
        made = simulate_delivery(request, read_machines(MACHINES).named("GENERIC"), self.site.inbox)
        uid = str(pydicom.dcmread(made.plan_path, stop_before_pixels=True).SOPInstanceUID)
        return case_key(self.site.pseudonyms.plan(uid), 1)

    def announce_urgent(self, case: str, priority: int) -> None:
        """Say that a case which is still to come is urgent."""
        self.site.ledger.arrivals.record("announced", case, "none yet", False, "announced", None, priority)

    def seed(self, cases: int, beams: int) -> None:
        """Let so many cases stand as taken in and checked, none of whose beams was asked for yet.

        One is taken in by the real intake; the others are copies of it under keys of their own, and so are
        their records in the ledger, the store and Dagster's event log.
        """
        with self.instance() as instance:
            original = self.deliver(0, beams)
            self.site.ledger.arrivals.record("of the original", original, "seeded", True, "", None)
            instance.add_dynamic_partitions("case", [original])
            job = build_definitions(self.site).resolve_job_def("intake")
            assert job.execute_in_process(instance=instance, partition_key=original).success
            self.site.ledger.arrivals.mark_requested(original, "seeded")
            manifest = read_manifest(instance, self.site.store, original)
            for number in range(1, cases):
                self._copy(instance, manifest, f"P{number:09d}.fx0001")

    def _copy(self, instance: dg.DagsterInstance, manifest: CaseManifest, case: str) -> None:
        copy = manifest.model_copy(update={"case": case})
        digest = digest_of(of=case)
        store = self.site.store
        with store.stage(case, None, "case_manifest") as staging:
            (staging / MANIFEST_FILE).write_text(copy.model_dump_json(), encoding="utf-8")
            store.publish(staging, case, None, "case_manifest", digest, meta={})
        self.site.ledger.arrivals.record(f"of {case}", case, "seeded", True, "", None)
        self.site.ledger.arrivals.mark_requested(case, "seeded")
        instance.add_dynamic_partitions("case", [case])
        instance.run_storage.add_run(
            dg.DagsterRun(
                job_name="intake",
                run_id=str(uuid.uuid4()),
                status=dg.DagsterRunStatus.SUCCESS,
                tags={"dagster/partition": case},
            )
        )
        key = dg.AssetKey("case_manifest")
        instance.report_runless_asset_event(
            dg.AssetMaterialization(key, partition=case, metadata={DIGEST: digest})
        )
        (made,) = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=[case]), limit=1
        ).records
        target = _target(made)
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=key,
                check_name="integrity",
                passed=True,
                metadata={},
                target_materialization_data=target,
                partition=case,
            )
        )


def _target(record: dg.EventLogRecord) -> Any:
    from dagster._core.definitions.asset_checks.asset_check_evaluation import (
        AssetCheckEvaluationTargetMaterializationData,
    )

    return AssetCheckEvaluationTargetMaterializationData(
        run_id=record.run_id, storage_id=record.storage_id, timestamp=record.timestamp
    )
