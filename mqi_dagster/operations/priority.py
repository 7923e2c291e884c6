"""``mqi case priority``: an urgent case overtakes wherever it waits."""

import dagster as dg

from mqi_dagster.ledger.audit import Action
from mqi_dagster.lifecycle.jobs import CASE_TAG, PRIORITY_TAG
from mqi_dagster.operations.audited import audited
from mqi_dagster.people.rights import Actor, Right
from mqi_dagster.resources.site import Site


def make_urgent(instance: dg.DagsterInstance, site: Site, actor: Actor, case: str, priority: int) -> int:
    """Give a case a priority: in the ledger, and in its runs that are queued.

    The ledger orders what is asked for from now on and which waiting beam has the next free slot, the run's
    tag the queue. A run that is in work already goes on as it is.

    Returns:
        How many of its runs are in the queue.

    Raises:
        InputError: No such case is known here.
        NotAllowedError: The actor does not have the right ``act``.
    """
    with audited(site, actor, Right.ACT, Action.PRIORITY, case, priority=str(priority)):
        site.ledger.arrivals.set_priority(case, priority)
        queued = instance.get_runs(
            dg.RunsFilter(
                tags={CASE_TAG: case}, statuses=[dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED]
            )
        )
        for run in queued:
            instance.add_run_tags(run.run_id, {PRIORITY_TAG: str(priority)})
    return len(queued)
