"""Waiting for a slot, in sight: the reason stands where people look."""

import time

import dagster as dg

from mqi_dagster.assets.slots import declare_slots, free_ended_leases, job_ended
from mqi_dagster.ledger.leases import NO_FREE_SLOT, Lease, Refusal
from mqi_dagster.resources.site import Site


def wait_for_slot(context: dg.AssetExecutionContext, site: Site, beam: str) -> Lease:
    """The lease of a beam, once there is a slot for it.

    Args:
        context: Of the step.
        site: The installation.
        beam: Beam key.
    """
    host, kind = declare_slots(site)
    run_id, waiting = context.run.run_id, ""
    while True:
        free_ended_leases(context.instance, site)
        found = site.ledger.acquire(
            beam,
            run_id,
            stale_after=site.stale_after,
            kind=kind.value,
            host=host,
            confirm_ended=lambda lease: job_ended(site, lease),
            gone=_ended_owner(context, site, beam),
        )
        if isinstance(found, Lease):
            return found
        waiting = _say(context, site, beam, found, waiting)
        time.sleep(site.settings.execution.lease_poll_seconds)


def _ended_owner(context: dg.AssetExecutionContext, site: Site, beam: str) -> str | None:
    """The run that holds this beam's lease, where it has ended and its job goes on without it."""
    lease = site.ledger.lease_of(beam)
    if lease is None or not site.executor.survives_worker:
        return None
    run = context.instance.get_run_by_id(lease.owner)
    return lease.owner if run is not None and run.is_finished else None


def _say(context: dg.AssetExecutionContext, site: Site, beam: str, refusal: Refusal, before: str) -> str:
    if refusal.reason != before:
        context.log.info("waiting: %s", refusal.reason)
    if refusal.reason.startswith(NO_FREE_SLOT):
        site.ledger.report(beam, context.run.run_id, "waiting", message=refusal.reason)
    return refusal.reason
