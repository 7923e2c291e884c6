"""Jobs that workers ask for: one row a job, changed only by whoever names the state that it was in.

The token of a job rises with every lease, so that a worker that comes back late changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from mqi_dagster.errors import InfrastructureError
from mqi_dagster.ledger.database import Database
from mqi_dagster.ledger.leases import Lease, LeasedSlot
from mqi_dagster.ledger.slots import SlotKind
from mqi_dagster.ledger.tables import WORK_JOB, WORKER

OPEN = WAITING, RUNNING = "waiting", "running"
CANCELLED, LOST = "cancelled", "lost"
_HEARD_EVERY = timedelta(seconds=5)
"""A worker that goes on as it was is written down no more often."""
NOBODY: dict[str, None] = dict.fromkeys(("lease", "claim", "account", "worker", "slot", "heartbeat_at"))
"""The columns of a lease, empty."""
_FRESH: dict[str, Any] = {
    **NOBODY,
    **dict.fromkeys(("exit_code", "result", "ended_at", "cancel_requested_at", "removed_at")),
    "state": WAITING,
    "claims": 0,
    "phase": "",
    "reason": "",
}


@dataclass(frozen=True, slots=True)
class WorkJob:
    """One job."""

    id: str
    host: str
    """Of the settings, whose workers are given it."""
    key: str
    partition: str
    request: str
    """What a worker is told, as JSON."""
    state: str
    """A value of `execution.job.JobState`."""
    token: int
    claims: int
    """Workers that have begun it since it was submitted, and have not given it back unharmed."""
    lease: str | None
    """SHA-256 of the secret that its worker shows."""
    claim: str | None
    account: str | None
    worker: str | None
    slot: str | None
    """The worker's device, as ``gpu0``."""
    heartbeat_at: datetime | None
    phase: str
    exit_code: int | None
    reason: str
    result: str | None
    """What its worker has sent, as JSON."""
    created_at: datetime
    changed_at: datetime
    ended_at: datetime | None
    cancel_requested_at: datetime | None
    removed_at: datetime | None
    """When what it had left here went."""

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state not in OPEN


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker as it was last heard of."""

    name: str
    account: str
    capabilities: str
    """As JSON."""
    seen_at: datetime


def _job(row: Row[Any]) -> WorkJob:
    return WorkJob(**row._mapping)


def devices_of(worker: str) -> str:
    """The host of a worker's slots in the pool: no host of the settings, and no machine, is called so."""
    return f"worker:{worker}"


class WorkJobs:
    """The jobs that workers ask for."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(self, identity: str, host: str, key: str, partition: str, request: str) -> WorkJob:
        """Write a job down. One that is known stays as it is, unless it was lost, cancelled or removed."""
        this = WORK_JOB.c.id == identity
        with self._database.write() as connection:
            row = connection.execute(select(WORK_JOB).where(this)).one_or_none()
            now = self._database.clock()
            told = {"partition": partition, "request": request, "created_at": now, "changed_at": now}
            if row is None:
                values = {**_FRESH, **told, "id": identity, "host": host, "key": key, "token": 0}
                connection.execute(insert(WORK_JOB).values(values))
            elif row.state in (LOST, CANCELLED) or row.removed_at is not None:
                connection.execute(update(WORK_JOB).where(this).values({**_FRESH, **told}))
            return _job(connection.execute(select(WORK_JOB).where(this)).one())

    def change(self, seen: WorkJob, **values: Any) -> WorkJob | None:
        """Change a job that is still as it was seen: of that token, in that state; None where it is not."""
        now = self._database.clock()
        if values.get("state", seen.state) != seen.state:
            values |= {"changed_at": now, "ended_at": None if values["state"] in OPEN else now}
        same = (WORK_JOB.c.id == seen.id, WORK_JOB.c.token == seen.token, WORK_JOB.c.state == seen.state)
        changed = update(WORK_JOB).where(*same).values(values).returning(WORK_JOB)
        with self._database.write() as connection:
            row = connection.execute(changed).one_or_none()
        return None if row is None else _job(row)

    def get(self, identity: str) -> WorkJob | None:
        """A job; None where there is none."""
        with self._database.read() as connection:
            row = connection.execute(select(WORK_JOB).where(WORK_JOB.c.id == identity)).one_or_none()
        return None if row is None else _job(row)

    def require(self, identity: str) -> WorkJob:
        """A job.

        Raises:
            InfrastructureError: There is none.
        """
        found = self.get(identity)
        if found is None:
            raise InfrastructureError("the ledger has lost the job")
        return found

    def all(
        self,
        host: str | None = None,
        partition: str | None = None,
        *,
        states: tuple[str, ...] = (),
        ended_before: datetime | None = None,
    ) -> list[WorkJob]:
        """Jobs, oldest first: of a host, of a partition, in some states; or ended before, and still kept."""
        query = select(WORK_JOB).order_by(WORK_JOB.c.created_at, WORK_JOB.c.id)
        for column, wanted in ((WORK_JOB.c.host, host), (WORK_JOB.c.partition, partition)):
            query = query if wanted is None else query.where(column == wanted)
        if states:
            query = query.where(WORK_JOB.c.state.in_(states))
        if ended_before is not None:
            query = query.where(WORK_JOB.c.ended_at < ended_before, WORK_JOB.c.removed_at.is_(None))
        with self._database.read() as connection:
            return [_job(row) for row in connection.execute(query)]

    def leases(self) -> list[Lease]:
        """What workers have in their slots, as boards show the leases of runs."""
        return [
            Lease(
                partition=row.partition,
                owner="",
                host=devices_of(row.worker),
                slots=(LeasedSlot(SlotKind(row.slot[:3]), int(row.slot[3:]), "", 0),),
                token=row.token,
                acquired_at=row.changed_at,
                heartbeat_at=row.heartbeat_at or row.changed_at,
            )
            for row in self.all(states=(RUNNING,))
            if row.worker and row.slot
        ]


class Workers:
    """The workers, by their names."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def hear(self, name: str, account: str, capabilities: str | None = None) -> None:
        """Note that a worker lives, and what it can do; None: as before, where it is known at all."""
        now, this = self._database.clock(), WORKER.c.name == name
        with self._database.read() as connection:
            row = connection.execute(select(WORKER).where(this)).one_or_none()
        values: dict[str, Any] = {"account": account}
        if capabilities is not None:
            values["capabilities"] = capabilities
        same = row is not None and all(row._mapping[key] == value for key, value in values.items())
        if same and row is not None and abs(now - row.seen_at) < _HEARD_EVERY:
            return
        values["seen_at"] = now
        with self._database.write() as connection:
            known = connection.execute(update(WORKER).where(this).values(values)).rowcount > 0
            if not known and capabilities is not None:
                connection.execute(insert(WORKER).values(name=name, **values))

    def forget(self, name: str) -> None:
        """Forget a worker that has said farewell."""
        with self._database.write() as connection:
            connection.execute(delete(WORKER).where(WORKER.c.name == name))

    def all(self) -> list[Worker]:
        """Every worker, by name."""
        with self._database.read() as connection:
            rows = connection.execute(select(WORKER).order_by(WORKER.c.name))
            return [Worker(**row._mapping) for row in rows]
