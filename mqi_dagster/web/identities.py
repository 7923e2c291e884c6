"""Whose the rows of a list are, for whom may see it: read for the rows that are shown, and noted."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable

import dagster as dg

from mqi_dagster.operations.identity import Identity, identity_of
from mqi_dagster.people.rights import Actor
from mqi_dagster.resources.site import Site

_AT_ONCE_SECONDS = 1.0
"""A list shows without the rest; the next time it is brought up to date there is more."""
_AGAIN_SECONDS = 600.0
"""So often the file and the audit are asked anew: an hour must not pass without a row."""
_REMEMBERED = 20_000


class Identities:
    """What was shown of late to whom, in this process's memory alone.

    Args:
        site: The site.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._shown: OrderedDict[tuple[str, str], tuple[float, Identity | None]] = OrderedDict()

    def of(
        self, instance: dg.DagsterInstance | None, actor: Actor, keys: Iterable[str]
    ) -> tuple[Identity | None, ...]:
        """Whose some partitions are, in their order; None where nobody knows, or it was not read yet.

        Args:
            instance: Dagster's records; None while they are away.
            actor: Who looks.
            keys: The partitions that are shown.
        """
        until = time.monotonic() + _AT_ONCE_SECONDS
        found: list[Identity | None] = []
        for key in keys:
            at, known = self._shown.get((actor.name, key), (-_AGAIN_SECONDS, None))
            now = time.monotonic()
            if now - at >= _AGAIN_SECONDS and now < until and instance is not None:
                known = identity_of(self._site, instance, actor, key)
                self._shown[actor.name, key] = now, known
                self._shown.move_to_end((actor.name, key))
            found.append(known)
        while len(self._shown) > _REMEMBERED:
            self._shown.popitem(last=False)
        return tuple(found)
