"""The way to Dagster's pages through the login of ours: a proxy asks here who may go through."""

from __future__ import annotations

import threading
from collections import OrderedDict
from datetime import datetime, timedelta

from mqi_dagster.ledger.audit import Action
from mqi_dagster.people.rights import Actor, Right
from mqi_dagster.resources.site import Site

_ONCE_IN = timedelta(hours=1)
_REMEMBERED = 1000


class DagsterGate:
    """Says who may use Dagster's pages and who may look at them, and notes that they went in.

    Args:
        site: The site.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._noted: OrderedDict[tuple[str, bool], datetime] = OrderedDict()
        self._noting = threading.Lock()

    def enter(self, actor: Actor, session: str) -> bool:
        """Let an actor through; it is in the audit once for each session and hour.

        Args:
            actor: Who wants to.
            session: By what they are signed in.

        Returns:
            Whether to the pages on which everything can be started; else to those that only show.

        Raises:
            NotAllowedError: They may not even look.
        """
        actor.require(Right.LOOK)
        everything, now = actor.may(Right.DAGSTER), self._site.ledger.database.clock()
        with self._noting:
            noted = self._noted.get((session, everything))
            if noted is None or now - noted >= _ONCE_IN:
                details = {"pages": "everything" if everything else "read-only"}
                audit = self._site.ledger.audit
                audit.add(actor.name, actor.via, Action.DAGSTER_ENTERED, "dagster", details=details)
                self._noted[session, everything] = now
                self._noted.move_to_end((session, everything))
                while len(self._noted) > _REMEMBERED:
                    self._noted.popitem(last=False)
        return everything
