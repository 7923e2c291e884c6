"""Rights, the roles that give them, and the actor who has them."""

from __future__ import annotations

import getpass
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from mqi_dagster.errors import NotAllowedError


class Right(StrEnum):
    """What somebody may do. A token's scopes are rights, too."""

    LOOK = "look"
    """See where everything stands, under pseudonyms."""
    IDENTITY = "identity"
    """See whose cases and courses are; every such look is in the audit."""
    PLACES = "places"
    """See where files really lie."""
    REQUEST = "request"
    """Look series up in the PACS under pseudonyms, and ask for their segmentation."""
    ACT = "act"
    """Retry, cancel, order by priority, take an arrival again."""
    POOL = "pool"
    """Take GPUs out of service and put them back, set limits."""
    ALARMS = "alarms"
    """Dismiss alarms."""
    REVIEW = "review"
    """Accept or reject a result, with a signature."""
    DAGSTER = "dagster"
    """Use Dagster's own pages, where everything can be started."""
    AUDIT = "audit"
    """Read and export the audit."""
    PEOPLE = "people"
    """Add and change accounts, and revoke the tokens of others."""


class Role(StrEnum):
    """What an account is for; one account may have several."""

    VIEWER = "viewer"
    PHYSICIST = "physicist"
    APPROVER = "approver"
    ENGINEER = "engineer"
    ADMIN = "admin"
    SERVICE = "service"


_PHYSICIST = frozenset({Right.LOOK, Right.IDENTITY, Right.PLACES, Right.REQUEST, Right.ACT, Right.ALARMS})
RIGHTS: Mapping[Role, frozenset[Right]] = MappingProxyType(
    {
        Role.VIEWER: frozenset({Right.LOOK}),
        Role.PHYSICIST: _PHYSICIST,
        Role.APPROVER: _PHYSICIST | {Right.REVIEW},
        Role.ENGINEER: frozenset(
            {Right.LOOK, Right.PLACES, Right.REQUEST, Right.ACT, Right.POOL, Right.ALARMS, Right.DAGSTER}
        ),
        Role.ADMIN: frozenset({Right.LOOK, Right.AUDIT, Right.PEOPLE}),
        Role.SERVICE: frozenset({Right.LOOK, Right.REQUEST, Right.ACT}),
    }
)


def rights_of(roles: Collection[Role]) -> frozenset[Right]:
    """Everything that some roles give together."""
    return frozenset[Right]().union(*(RIGHTS[role] for role in roles))


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something."""

    name: str
    """Login of an account; ``os:<login>`` of somebody at this machine; ``system``."""
    rights: frozenset[Right]
    via: str
    """``pages``, ``command``, or ``token:<id>``."""

    @classmethod
    def of_this_account(cls) -> Actor:
        """Whoever has started this process: the files of the site are theirs, and so is every right."""
        try:
            login = getpass.getuser()
        except (KeyError, OSError):
            # An account without a name, as containers have them.
            login = "unnamed"
        return cls(f"os:{login}", frozenset(Right), "command")

    def may(self, right: Right) -> bool:
        """Whether the actor has a right."""
        return right in self.rights

    def require(self, right: Right) -> None:
        """Check a right.

        Raises:
            NotAllowedError: The actor does not have it.
        """
        if right not in self.rights:
            roles = ", ".join(role.value for role, given in RIGHTS.items() if right in given)
            raise NotAllowedError(
                f"{self.name} may not do this: it needs the right {right.value!r}, which the roles"
                f" {roles} give"
            )
