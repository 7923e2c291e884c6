"""The one way in which a person's action is checked for rights and written into the audit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mqi_dagster.errors import InfrastructureError, MqiError, NotAllowedError
from mqi_dagster.execution.locks import hold
from mqi_dagster.ledger.audit import Action, Outcome
from mqi_dagster.people.rights import Actor, Right
from mqi_dagster.resources.site import Site


@contextmanager
def audited(
    site: Site, actor: Actor, right: Right, action: Action, subject: str, **details: str
) -> Iterator[dict[str, str]]:
    """A block that does something for an actor: a row of the audit before it, and one that tells its end.

    Args:
        site: The site.
        actor: Who wants it.
        right: What the actor needs for it.
        action: What it is.
        subject: What it is done to.
        **details: What was asked for.

    Yields:
        What the last row tells beside it; the block may add to it.

    Raises:
        NotAllowedError: The actor does not have the right; nothing is done.
    """
    told = dict(details)

    def row(outcome: Outcome, **more: str) -> None:
        site.ledger.audit.add(actor.name, actor.via, action, subject, outcome, {**told, **more})

    try:
        actor.require(right)
    except NotAllowedError:
        row(Outcome.REFUSED)
        raise
    row(Outcome.BEGUN)
    try:
        yield told
    except MqiError as error:
        row(Outcome.FAILED, cause=error.message)
        raise
    except BaseException as error:
        row(Outcome.FAILED, cause=type(error).__name__)
        raise
    row(Outcome.DONE)


@contextmanager
def alone(site: Site, name: str) -> Iterator[None]:
    """A block that two processes or threads of a site never do at once, as for a button pressed twice.

    Args:
        site: The site.
        name: Of the block.

    Raises:
        InfrastructureError: Another one takes longer than some seconds.
    """
    lock = hold(site.settings.paths.state / f"{name}.lock")
    if lock is None:
        raise InfrastructureError(f"another {name} is being asked for at this moment: try again")
    try:
        yield
    finally:
        os.close(lock)
