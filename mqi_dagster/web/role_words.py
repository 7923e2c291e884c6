"""What roles and rights are for, as people say it."""

from __future__ import annotations

from mqi_dagster.people.rights import RIGHTS, Right, Role
from mqi_dagster.web.words import _


def explained(right: Right) -> str:
    """What somebody may do who has a right."""
    return {
        Right.LOOK: _("see where everything stands, under pseudonyms"),
        Right.IDENTITY: _("see whose cases and courses are; every look is in the audit"),
        Right.PLACES: _("see where files really lie"),
        Right.REQUEST: _("look up series of the PACS under pseudonyms, and ask for their segmentation"),
        Right.ACT: _("retry, cancel, order by priority, take in again"),
        Right.POOL: _("take GPUs out of service and put them back"),
        Right.ALARMS: _("dismiss alarms"),
        Right.REVIEW: _("accept or reject results with a signature"),
        Right.DAGSTER: _("use Dagster's own pages, where everything can be started"),
        Right.AUDIT: _("read, export and verify the audit"),
        Right.PEOPLE: _("add and change accounts, and revoke tokens"),
    }[right]


def purpose(role: Role) -> str:
    """Everything that a role lets somebody do."""
    return "; ".join(explained(right) for right in Right if right in RIGHTS[role])


def came_by(via: str) -> str:
    """How somebody has signed in."""
    return {
        "password": _("password"),
        "link": _("a link"),
        "oidc": _("single sign-on"),
        "proxy": _("the proxy in front"),
    }.get(via, via)
