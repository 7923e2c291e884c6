"""What the server does for workers: it leases jobs to them, and believes whoever shows the lease.

Only the clock of the server counts. A lease without a heartbeat ends, and the next worker is given the job;
what the one before sends from then on is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from mqi_dagster.errors import InputError, KeyRejectedError, LeaseLostError
from mqi_dagster.execution.job import JobState
from mqi_dagster.execution.work import (
    WORK_ID,
    Capabilities,
    Claim,
    Device,
    Ended,
    GpuNeed,
    Heartbeat,
    MadeOutput,
    Needs,
    Offer,
    Pulse,
    Request,
    Result,
)
from mqi_dagster.ledger.gpus import GpuUsage
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.slots import Slot, SlotKind
from mqi_dagster.ledger.work import NOBODY, OPEN, RUNNING, WAITING, Worker, WorkJob, devices_of
from mqi_dagster.pull.spool import Spool
from mqi_dagster.settings import Pull

FOLDER_ACCOUNT = "folder:"
"""Of leases and workers of a shared folder: no account is called so, so nobody else can show one."""
_FORGOTTEN_AFTER = timedelta(days=7)
_LEAST_LIVELY_SECONDS = 30.0
"""So long a worker that waits for work may be silent."""


def result_of(row: WorkJob) -> Result:
    """What a worker has sent of a job."""
    return Result.model_validate_json(row.result) if row.result else Result()


def request_of(row: WorkJob) -> Request:
    """What a worker is told of a job."""
    return _parsed(row.request)


@lru_cache(4096)
def _parsed(request: str) -> Request:
    return Request.model_validate_json(request)


def serves(pull: Pull, account: str) -> bool:
    """Whether the workers of an account are given the jobs of a host."""
    by_folder = account == FOLDER_ACCOUNT
    return by_folder == (pull.folder is not None) and (by_folder or account in (pull.accounts or (account,)))


def lively(ledger: Ledger, pull: Pull) -> list[Capabilities]:
    """The workers that were heard of lately and are given the jobs of a host."""
    seen = [one for one in ledger.workers.all() if serves(pull, one.account)]
    now = ledger.database.clock()
    return [Capabilities.model_validate_json(one.capabilities) for one in seen if _is_lively(one, pull, now)]


def _is_lively(worker: Worker, pull: Pull, now: datetime) -> bool:
    return abs(now - worker.seen_at) <= timedelta(seconds=max(_LEAST_LIVELY_SECONDS, pull.lease_seconds))


def able(ledger: Ledger, pull: Pull, needs: Needs) -> bool:
    """Whether a worker that lives can run a job in one of its slots."""
    return any(not needs.lacking(has, device) for has in lively(ledger, pull) for device in has.devices)


class WorkQueue:
    """The jobs of a site for its workers.

    Args:
        ledger: Where jobs and workers stand.
        spool: Where their files are.
        hosts: The hosts of the settings that have workers, by name.
    """

    def __init__(self, ledger: Ledger, spool: Spool, hosts: Mapping[str, Pull]) -> None:
        self._ledger = ledger
        self.spool = spool
        self._hosts = hosts
        self._away = set[str]()
        self.begin()

    def begin(self) -> None:
        """From now on workers are heard: until here none of them could send a heartbeat."""
        self._since = self._ledger.database.clock()

    def hear(self, account: str, has: Capabilities) -> None:
        """Note a worker and its devices; one without any says farewell.

        Raises:
            InputError: Another account has a worker of this name.
        """
        others = [one for one in self._workers() if one.account != account]
        if has.worker in [one.name for one in others]:
            raise InputError(f"the name {has.worker} is a worker's of another account: choose another name")
        host = devices_of(has.worker)
        self._ledger.slots.declare(host, _slots(has))
        self._away.discard(has.worker)
        if has.devices:
            self._ledger.workers.hear(has.worker, account, has.model_dump_json())
            self._note_gpus(host, has.devices)
        else:
            self._ledger.workers.forget(has.worker)

    def hear_again(self, account: str, worker: str) -> None:
        """Note that a worker goes on waiting; one that has said farewell meanwhile stays away."""
        self._ledger.workers.hear(worker, account)

    def _note_gpus(self, host: str, devices: Iterable[Device]) -> None:
        gpus = [
            GpuUsage(
                host=host,
                index=one.index,
                uuid=one.uuid,
                name=one.name,
                memory_mb=one.memory_mb,
                used_mb=one.used_mb,
                utilisation_percent=None,
                temperature_c=None,
                sm_clock_mhz=None,
                memory_clock_mhz=None,
                foreign_processes=0,
                seen_at=self._ledger.database.clock(),
            )
            for one in devices
            if one.kind == "gpu" and one.uuid
        ]
        if gpus:
            self._ledger.gpus.record(host, gpus)

    def take(self, account: str, asked: Claim) -> Offer | None:
        """Lease the oldest job that a free slot of a worker can run; None where there is none now.

        Asked again with the same id, it is the same job under another lease: the answer was lost.
        """
        device = asked.device
        if device is None:
            return None
        rows = self._ledger.work.all(states=OPEN)
        rows = [row for row in rows if row.host in self._hosts and serves(self._hosts[row.host], account)]
        for row in rows:
            if (row.claim, row.account, row.worker) == (asked.id, account, asked.has.worker):
                return self._lease(row, account, asked, device)
        waiting = [row for row in rows if row.state == WAITING]
        if not waiting or self._switched_off(asked.has.worker, device):
            return None
        for row in waiting:
            needs = request_of(row).work.needs
            if needs.lacking(asked.has, device):
                continue
            if needs.gpu is GpuNeed.WANTED and not needs.fits_gpu(device):
                # On the processor only where nobody has a GPU for it.
                strict = needs.model_copy(update={"gpu": GpuNeed.NEEDED})
                if able(self._ledger, self._hosts[row.host], strict):
                    continue
            if (offer := self._lease(row, account, asked, device)) is not None:
                return offer
        return None

    def _switched_off(self, worker: str, device: Device) -> bool:
        this = devices_of(worker), device.kind, device.index
        return any(
            slot.switched_off_at is not None and (slot.host, slot.kind.value, slot.index) == this
            for slot in self._ledger.slots.all()
        )

    def _lease(self, row: WorkJob, account: str, asked: Claim, device: Device) -> Offer | None:
        return self.lease(
            row,
            secrets.token_urlsafe(24),
            account=account,
            claim=asked.id,
            worker=asked.has.worker,
            slot=f"{device.kind}{device.index}",
        )

    def lease(self, row: WorkJob, secret: str, **values: Any) -> Offer | None:
        """Lease a job to whoever has a secret; None where somebody else was faster.

        Args:
            row: The job as it was seen.
            secret: That shows the lease.
            **values: Columns of the lease.
        """
        taken = self._ledger.work.change(
            row,
            state=RUNNING,
            token=row.token + 1,
            lease=_fingerprint(secret),
            heartbeat_at=None,
            result=None,
            **values,
        )
        if taken is None:
            return None
        request = request_of(taken)
        seconds = self._hosts[taken.host].lease_seconds
        return Offer(id=taken.id, lease=secret, lease_seconds=seconds, **dict(request))

    def held(self, job_id: str, account: str, lease: str, *, ended_too: bool = False) -> WorkJob:
        """The job of a lease.

        Raises:
            KeyRejectedError: There is no such job for this account.
            LeaseLostError: Somebody else has it, or nobody.
        """
        row = self._ledger.work.get(job_id) if re.fullmatch(WORK_ID, job_id) else None
        pull = None if row is None else self._hosts.get(row.host)
        if row is None or pull is None or not serves(pull, account):
            raise KeyRejectedError("there is no such job")
        shown = row.account == account and hmac.compare_digest(row.lease or "", _fingerprint(lease))
        if not shown or not (row.state == RUNNING or ended_too):
            raise LeaseLostError("this lease of the job is over: another worker has it, or it has ended")
        return row

    def beat(self, job_id: str, account: str, lease: str, told: Heartbeat) -> Pulse:
        """A worker lives: keep what its program has printed, and say whether it goes on.

        Raises:
            KeyRejectedError: See `held`.
            LeaseLostError: See `held`.
        """
        row = self.held(job_id, account, lease)
        if row.worker:
            self._ledger.workers.hear(row.worker, account)
            self._note_gpus(devices_of(row.worker), () if told.device is None else (told.device,))
        size = self.spool.add_log(row.id, row.token, told.offset, told.log.encode("latin-1"))
        # An offer whose answer was lost has cost nobody his life.
        begun = {"claims": row.claims + 1} if row.heartbeat_at is None else {}
        changed = self._kept(row, phase=told.phase, **begun)
        return Pulse(goes_on=changed.cancel_requested_at is None, log_bytes=size)

    def _kept(self, row: WorkJob, **values: Any) -> WorkJob:
        changed = self._ledger.work.change(row, heartbeat_at=self._ledger.database.clock(), **values)
        if changed is None:
            raise LeaseLostError("this lease of the job has just ended")
        return changed

    def output(
        self, job_id: str, account: str, lease: str, number: int, offset: int, piece: bytes, whole: MadeOutput
    ) -> int:
        """Add a piece of an output; see `Spool.add_piece`.

        Raises:
            KeyRejectedError: There is no such job or output; see `held`.
            LeaseLostError: See `held`.
            InputError: The output is larger than the settings allow.
        """
        row = self.held(job_id, account, lease)
        if not 1 <= number <= len(request_of(row).outputs):
            raise KeyRejectedError("there is no such output")
        largest = self._hosts[row.host].largest_output_mb
        if whole.size > largest << 20:
            raise InputError(f"the output is larger than {largest} MB (pull.largest_output_mb)")
        here = self.spool.add_piece(row.id, row.token, number, offset, piece, whole)
        result = result_of(row)
        if self.spool.output(row.id, row.token, number).is_file() and here == whole.size:
            result = result.model_copy(update={"outputs": {**result.outputs, number: whole}})
        self._kept(row, result=result.model_dump_json())
        return here

    def complete(self, job_id: str, account: str, lease: str, ended: Ended) -> None:
        """A worker has sent every output; once more is as good as once.

        Raises:
            KeyRejectedError: See `held`.
            LeaseLostError: See `held`.
        """
        row = self.held(job_id, account, lease, ended_too=True)
        outputs = request_of(row).outputs
        missing = [n for n in range(1, len(outputs) + 1) if n not in result_of(row).outputs]
        state = JobState.FAILED if missing else JobState.SUCCEEDED
        reason = f"output {missing[0]} of {len(outputs)} did not come" if missing else ended.reason
        self._end(row, state, ended, reason)

    def fail(self, job_id: str, account: str, lease: str, ended: Ended) -> None:
        """A worker could not run a job: for good, or only there; see `complete`."""
        row = self.held(job_id, account, lease, ended_too=True)
        if ended.infrastructure and row.state == RUNNING:
            self.give_back(row, f"the computer of worker {row.worker} has failed: {ended.reason}")
            return
        state = JobState.TIMED_OUT if ended.timed_out else JobState.FAILED
        self._end(row, state, ended, ended.reason)

    def release(self, job_id: str, account: str, lease: str) -> None:
        """A worker gives a job back unharmed; see `held`."""
        self.give_back(self.held(job_id, account, lease), "", counted=False)

    def _end(self, row: WorkJob, state: JobState, ended: Ended, reason: str) -> None:
        if row.state == RUNNING:
            result = result_of(row).model_copy(update={"ended": ended}).model_dump_json()
            self._kept(row, state=state.value, result=result, exit_code=ended.exit_code, reason=reason)

    def give_back(self, row: WorkJob, reason: str, *, counted: bool = True) -> None:
        """End a lease without a verdict: the next worker is given the job, unless it was cancelled.

        Args:
            row: The job as it was seen.
            reason: Why.
            counted: Whether the job may have cost the worker its life.
        """
        most = self._hosts[row.host].claims
        values: dict[str, Any] = {**NOBODY, "phase": "", "reason": reason, "state": WAITING, "result": None}
        if row.cancel_requested_at is not None:
            values |= {"state": JobState.CANCELLED.value, "reason": "cancelled"}
        elif not counted:
            values["claims"] = row.claims - (row.heartbeat_at is not None)
        elif row.heartbeat_at is not None and row.claims >= most:
            values |= {"state": JobState.FAILED.value, "reason": f"given up after {most} workers: {reason}"}
        self._ledger.work.change(row, **values)

    def end_silent(self, row: WorkJob, quiet_seconds: float) -> None:
        """End the lease of a job whose worker was silent for longer than that lasts."""
        if quiet_seconds > self._hosts[row.host].lease_seconds:
            self.give_back(row, f"worker {row.worker or '?'} was not heard of for {quiet_seconds:.0f} s")

    def tend(self) -> None:
        """End the leases of workers that are silent, and take their devices out of service."""
        now = self._ledger.database.clock()
        for row in self._ledger.work.all(states=(RUNNING,)):
            pull = self._hosts.get(row.host)
            if pull is None or (row.account == FOLDER_ACCOUNT and pull.folder is not None):
                # Whoever looks into the folder sees who lives there.
                continue
            quiet = now - max(row.heartbeat_at or row.changed_at, self._since)
            self.end_silent(row, abs(quiet.total_seconds()))
        lively = {one.name for one in self._workers()}
        for one in self._ledger.workers.all():
            if one.name in lively:
                continue
            has = Capabilities.model_validate_json(one.capabilities)
            if abs(now - one.seen_at) > _FORGOTTEN_AFTER:
                self._ledger.workers.forget(one.name)
                self._ledger.slots.declare(devices_of(one.name), [])
            elif one.name not in self._away:
                self._ledger.slots.declare(devices_of(one.name), _slots(has, there=False))
                self._away.add(one.name)

    def _workers(self) -> list[Worker]:
        """The workers that were heard of lately."""
        now, pulls = self._ledger.database.clock(), list(self._hosts.values())
        return [one for one in self._ledger.workers.all() if any(_is_lively(one, p, now) for p in pulls)]


def _slots(has: Capabilities, *, there: bool = True) -> list[Slot]:
    return [
        Slot(SlotKind(one.kind), one.index, one.uuid, one.memory_mb, in_service=there) for one in has.devices
    ]


def _fingerprint(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
