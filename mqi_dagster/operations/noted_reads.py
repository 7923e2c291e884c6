"""What only some may see of a partition, and the row of the audit that says who has seen it."""

from __future__ import annotations

from datetime import timedelta

from mqi_dagster.errors import InfrastructureError
from mqi_dagster.ledger.audit import Action
from mqi_dagster.people.rights import Actor, Right
from mqi_dagster.resources.site import Site

_ONCE_IN = timedelta(hours=1)


def require_noted(site: Site, actor: Actor, right: Right, action: Action, partition: str) -> None:
    """Check a right to be shown something, and note it; see `may_see_noted`.

    Raises:
        NotAllowedError: The actor does not have it.
        InfrastructureError: It cannot be noted.
    """
    actor.require(right)
    if not may_see_noted(site, actor, right, action, partition):
        raise InfrastructureError("the audit cannot be written, and so nothing is shown: try again later")


def may_see_noted(site: Site, actor: Actor, right: Right, action: Action, partition: str) -> bool:
    """Whether an actor may be shown something; if so the audit has a row of it that is not an hour old.

    Args:
        site: The site.
        actor: Who looks.
        right: What the actor needs.
        action: ``IDENTITY_READ`` or ``PLACES_READ``.
        partition: Of what.

    Returns:
        False as well where the audit cannot be written: what cannot be noted is not shown.
    """
    if not actor.may(right):
        return False
    try:
        audit = site.ledger.audit
        if not audit.was_told(actor.name, action, partition, site.ledger.database.clock() - _ONCE_IN):
            audit.add(actor.name, actor.via, action, partition)
    except InfrastructureError:
        return False
    return True
