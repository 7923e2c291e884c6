"""What was last seen of every GPU, on whatever machine it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import Row, delete, insert, select, update

from mqi_dagster.errors import InfrastructureError
from mqi_dagster.ledger.database import Database
from mqi_dagster.ledger.tables import GPU, SLOT

_FORGOTTEN_AFTER = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class GpuUsage:
    """One sample of a GPU; None where the source does not tell."""

    host: str
    index: int
    uuid: str
    """Identity on its host; on a cluster node and index, since Slurm tells no UUID."""
    name: str
    memory_mb: int | None
    used_mb: int | None
    utilisation_percent: int | None
    temperature_c: int | None
    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    foreign_processes: int
    """Compute processes that are no engine of this site."""
    seen_at: datetime
    allocated: bool | None = None
    """Whether Slurm has given it to a job; None elsewhere."""

    def is_fresh(self, now: datetime, limit: timedelta) -> bool:
        """Whether the sample is young enough to decide by; one from the future is of a changed clock."""
        return abs(now - self.seen_at) <= limit

    def unfit(self, memory_mb: int) -> str:
        """Why an engine cannot have it now; empty where it can.

        Args:
            memory_mb: Free memory that the engine needs [MB]; 0 for any.
        """
        if self.foreign_processes:
            return "with a foreign process"
        if memory_mb and self.memory_mb is None:
            return "of unknown memory"
        if memory_mb and (self.memory_mb or 0) - (self.used_mb or 0) < memory_mb:
            return f"with less than {memory_mb} MB free"
        return ""


def usage(row: Row[tuple[object, ...]]) -> GpuUsage:
    """A row of the table as what it says."""
    values = dict(row._mapping)
    values["index"] = values.pop("gpu_index")
    return GpuUsage(**values)


class Gpus:
    """The last sample of every GPU; one that is not seen any more keeps the time of its last sight."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, host: str, gpus: Sequence[GpuUsage]) -> None:
        """Write down a sample of the GPUs of a host; those not seen for a week and in no pool are forgotten.

        Raises:
            InfrastructureError: A GPU of another host, or one twice.
        """
        if {gpu.host for gpu in gpus} - {host} or len({gpu.uuid for gpu in gpus}) != len(gpus):
            raise InfrastructureError(f"a sample of host {host} shows a GPU of another host, or one twice")
        with self._database.write() as connection:
            here = GPU.c.host == host
            pooled = select(SLOT.c.uuid).where(SLOT.c.host == host)
            old = GPU.c.seen_at < self._database.clock() - _FORGOTTEN_AFTER
            connection.execute(delete(GPU).where(here, old, GPU.c.uuid.not_in(pooled)))
            for gpu in gpus:
                values = asdict(gpu)
                values["gpu_index"] = values.pop("index")
                changed = connection.execute(update(GPU).where(here, GPU.c.uuid == gpu.uuid).values(**values))
                if changed.rowcount == 0:
                    connection.execute(insert(GPU).values(**values))

    def all(self) -> list[GpuUsage]:
        """Every GPU as it was last seen, by host, name of its node and index."""
        with self._database.read() as connection:
            rows = connection.execute(select(GPU).order_by(GPU.c.host, GPU.c.gpu_index, GPU.c.uuid)).all()
        return [usage(row) for row in rows]
