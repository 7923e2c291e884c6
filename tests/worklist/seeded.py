"""A site whose records are written row by row, as many as wanted, without running anything."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster._core.events import DagsterEvent, StepMaterializationData
from dagster._core.events.log import EventLogEntry
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._core.utils import make_new_run_id
from dagster._daemon.types import DaemonHeartbeat
from dagster._serdes import serialize_value

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.execution.code_location import socket_path
from mqi_dagster.execution.locks import hold
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.outcomes import RunOutcome, RunVerdict
from mqi_dagster.ledger.tables import ARRIVAL
from mqi_dagster.lifecycle import case_facts
from mqi_dagster.lifecycle.uptime import WATCH_LOCK
from mqi_dagster.partitions import beam_key
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist import Worklist

MACHINES = Path(__file__).parents[2] / "mqi_dagster" / "config" / "machines"
BEGAN = datetime(2026, 3, 4, 8, 0, tzinfo=UTC)
"""The first moment of every seeded site."""
PRINT = "f" * 16
_REPOSITORY = RemoteRepositoryOrigin(
    GrpcServerCodeLocationOrigin(host="localhost", socket="/none"), "__repository__"
)


_SOURCE = {"handed_over": {"rt_dose": "digest of rt_dose"}}
"""What a hand-over says it has handed over."""


class Seeded:
    """A site below a folder.

    Args:
        folder: Everything of the site lies below it.
        instance: Dagster's records; set later where None, once the settings have made its folder.
        settings: Sections of the settings.
    """

    def __init__(
        self, folder: Path, instance: dg.DagsterInstance | None, settings: Mapping[str, Any] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "inbox").mkdir(exist_ok=True)
        base = {
            "site": {"timezone": "Asia/Seoul"},
            "paths": {"machines": str(MACHINES)},
            # The room on the disk of the tests is nobody's alarm.
            "alarms": {"disk_free_gb": 0},
        }
        (folder / "mqi.yaml").write_text(yaml.safe_dump({**base, **(settings or {})}))
        secret = folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text("5a" * 32 + "\n")
        self.instance: Any = instance
        self.site = Site(folder / "mqi.yaml")
        self.now = BEGAN

    def ledger(self) -> Ledger:
        """The ledger, at the seeded time."""
        made = self.site.ledger
        made.database.clock = lambda: self.now
        return made

    def worklist(self, **options: Any) -> Worklist:
        """A reader of the site, of all that was ever concluded."""
        return Worklist(
            self.instance,
            self.site,
            PIPELINES,
            self.site.open_ledger_for_reading(),
            **{"history": None, **options},
        )

    # One row each

    def arrive(
        self, case: str, *, ready: bool = True, reason: str = "", priority: int = 0, asked: bool = True
    ) -> None:
        """What the inbox shows of a case; ``asked``: its intake was asked for."""
        ledger = self.ledger()
        ledger.arrivals.record(f"place-{case}", case, PRINT, ready, reason, None)
        if priority:
            ledger.arrivals.set_priority(case, priority)
        if ready and asked:
            ledger.arrivals.mark_requested(case, PRINT)

    def arrivals(self, cases: Iterable[str], *, asked: bool = True) -> None:
        """Many ready cases at once."""
        rows = [
            {
                "case": case,
                "arrival": f"place-{case}",
                "fingerprint": PRINT,
                "ready": True,
                "reason": "",
                "priority": 0,
                "first_seen": self.now,
                "changed_at": self.now,
                "requested_fingerprint": PRINT if asked else None,
                "requested_at": self.now if asked else None,
            }
            for case in cases
        ]
        with self.ledger().database.write() as connection:
            connection.execute(ARRIVAL.insert(), rows)

    def partitions(self, kind: str, keys: Iterable[str]) -> None:
        """Add partition keys."""
        self.instance.add_dynamic_partitions(kind, list(keys))

    def run(
        self,
        job: str,
        partition: str,
        status: str,
        *,
        tags: Mapping[str, str] | None = None,
        seconds: float = 60.0,
        steps: list[str] | None = None,
    ) -> str:
        """A run that was asked for now, started a second later and, where it has ended, took so long.

        Returns:
            Its id.
        """
        (run_id,) = self.runs([(job, partition, status, dict(tags or {}))], seconds=seconds, steps=steps)
        return run_id

    def judged(self, run_id: str, partition: str, verdict: str, cause: str, code: str = "") -> None:
        """What the services have written down of a run that ended badly."""
        again = verdict == "retry"
        self.ledger().outcomes.record(
            RunOutcome(
                run_id=run_id,
                job="beam",
                partition=partition,
                verdict=RunVerdict(verdict),
                code=code,
                cause=cause,
                ended_at=self.now,
                first_at=self.now,
                tries=1,
                next_try_at=self.now + timedelta(seconds=90) if again else None,
            )
        )

    def runs(
        self,
        rows: list[tuple[str, str, str, dict[str, str]]],
        *,
        seconds: float = 60.0,
        steps: list[str] | None = None,
    ) -> list[str]:
        """Many runs at once: job, partition, status, tags."""
        storage = self.instance.run_storage
        assert isinstance(storage, SqlRunStorage)
        values, labels, ids = [], [], []
        for job, partition, status, own in rows:
            run_id = make_new_run_id()
            tags = {"dagster/partition": partition, **own}
            run = dg.DagsterRun(
                job_name=job,
                run_id=run_id,
                status=dg.DagsterRunStatus(status),
                tags=tags,
                step_keys_to_execute=steps,
                remote_job_origin=RemoteJobOrigin(_REPOSITORY, job),
            )
            begun = self.now + timedelta(seconds=1)
            ended = begun + timedelta(seconds=seconds)
            over = status in ("SUCCESS", "FAILURE", "CANCELED")
            values.append(
                {
                    "run_id": run_id,
                    "pipeline_name": job,
                    "status": status,
                    "run_body": serialize_value(run),
                    "partition": partition,
                    "create_timestamp": self.now.replace(tzinfo=None),
                    "update_timestamp": (ended if over else self.now).replace(tzinfo=None),
                    "start_time": None if status in ("QUEUED", "NOT_STARTED") else begun.timestamp(),
                    "end_time": ended.timestamp() if over else None,
                }
            )
            labels += [{"run_id": run_id, "key": key, "value": value} for key, value in tags.items()]
            ids.append(run_id)
        with storage.connect() as connection:
            connection.execute(RunsTable.insert(), values)
            connection.execute(RunTagsTable.insert(), labels)
        return ids

    def end(self, run_id: str, status: str, seconds: float = 60.0) -> None:
        """Change the status of a run, at the seeded time."""
        storage = self.instance.run_storage
        assert isinstance(storage, SqlRunStorage)
        with storage.connect() as connection:
            connection.execute(
                RunsTable.update()
                .where(RunsTable.c.run_id == run_id)
                .values(
                    status=status,
                    update_timestamp=datetime.now(UTC).replace(tzinfo=None),
                    start_time=(self.now + timedelta(seconds=1)).timestamp(),
                    end_time=(self.now + timedelta(seconds=1 + seconds)).timestamp(),
                )
            )

    def made(self, asset: str, partitions: Iterable[str], metadata: Mapping[str, Any] | None = None) -> None:
        """Materialisations in the index of the event log; what is handed over is the dose."""
        storage = self.instance.event_log_storage
        assert isinstance(storage, SqlEventLogStorage)
        rows = [
            {
                "run_id": "",
                "event": serialize_value(self._materialised(asset, partition, metadata or {})),
                "dagster_event_type": "ASSET_MATERIALIZATION",
                "timestamp": self.now.replace(tzinfo=None),
                "step_key": asset,
                "asset_key": json.dumps([asset]),
                "partition": partition,
            }
            for partition in partitions
        ]
        with storage.index_connection() as connection:
            connection.execute(SqlEventLogStorageTable.insert(), rows)

    def _materialised(self, asset: str, partition: str, metadata: Mapping[str, Any]) -> EventLogEntry:
        values = {"digest": f"digest of {asset}", **_SOURCE.get(asset, {}), **metadata}
        made = dg.AssetMaterialization(asset, partition=partition, metadata=values)
        event = DagsterEvent(
            dg.DagsterEventType.ASSET_MATERIALIZATION.value,
            "beam",
            event_specific_data=StepMaterializationData(made),
        )
        return EventLogEntry(None, "info", "", "", self.now.timestamp(), dagster_event=event)

    def daemon_alive(self) -> None:
        """A heartbeat of Dagster's daemon at the seeded time."""
        self.instance.run_storage.add_daemon_heartbeat(
            DaemonHeartbeat(self.now.timestamp(), "SENSOR", make_new_run_id(), [])
        )

    @contextmanager
    def served(self) -> Iterator[None]:
        """As far as anybody can see, the site's watch and code location live."""
        lock = hold(self.site.settings.paths.state / WATCH_LOCK)
        assert lock is not None
        path = socket_path(self.site.settings)
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
                server.listen()
                yield
        finally:
            path.unlink(missing_ok=True)
            os.close(lock)

    def taken_in(
        self, cases: Iterable[str], beams: int = 3, machine: str = "G1", plan: str = ""
    ) -> list[str]:
        """Cases whose inventories say what those of the real intake say; the keys of their beams."""
        cases = list(cases)
        rows = [
            {
                case_facts.BEAM: number,
                case_facts.NAME: f"Field {number}",
                case_facts.LOWEST: 80.0,
                case_facts.HIGHEST: 150.0 + number,
                case_facts.GANTRY: "90",
                case_facts.COMPLETE: True,
            }
            for number in range(1, beams + 1)
        ]
        self.arrivals(cases)
        self.partitions("case", cases)
        self.runs([("intake", case, "SUCCESS", {}) for case in cases])
        metadata = {
            case_facts.MACHINE: machine,
            case_facts.PLAN_LABEL: plan,
            case_facts.PARTIAL: False,
            case_facts.MISSING: "none",
            case_facts.BEAM_TABLE: dg.MetadataValue.table([dg.TableRecord(row) for row in rows]),
        }
        self.made("case_manifest", cases, metadata)
        keys = [beam_key(case, number) for case in cases for number in range(1, beams + 1)]
        self.partitions("beam", keys)
        return keys

    def concluded(self, cases: Iterable[str], **inventory: Any) -> None:
        """Cases that are concluded with all of their beams."""
        cases = list(cases)
        keys = self.taken_in(cases, **inventory)
        self.runs([("beam", key, "SUCCESS", {"mqi/gpu": "simulation"}) for key in keys])
        for asset in ("rt_dose", "handed_over"):
            self.made(asset, keys)
        self.runs([("conclusion", case, "SUCCESS", {}) for case in cases])
        self.made("case_handed_over", cases)

    # A whole site

    def waiting(self, beams: int, *, queued: int = 200, working: int = 8, per_case: int = 3) -> None:
        """Cases that were taken in, whose beams wait: some in Dagster's queue, some in work, most as rows."""
        cases = [f"P{number:09d}.fx0001" for number in range(-(-beams // per_case))]
        keys = [beam_key(case, number) for case in cases for number in range(1, per_case + 1)][:beams]
        self.arrivals(cases)
        self.partitions("case", cases)
        self.runs([("intake", case, "SUCCESS", {}) for case in cases])
        self.made("case_manifest", cases)
        self.partitions("beam", keys)
        tags = {"mqi/gpu": "simulation"}
        runs = self.runs([("beam", key, "STARTED", tags) for key in keys[:working]])
        self.runs([("beam", key, "QUEUED", tags) for key in keys[working : working + queued]])
        for number, (key, run_id) in enumerate(zip(keys, runs, strict=False)):
            self.ledger().progress.record(key, run_id, "simulating", 1 + number, 10, 10.0 * number)
        self.daemon_alive()
