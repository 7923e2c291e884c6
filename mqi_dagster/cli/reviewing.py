"""What `mqi case review` and `mqi course review` do alike."""

from __future__ import annotations

import sys
from datetime import tzinfo

import typer
from rich.text import Text

from mqi_dagster.cli.screen import output, print_json
from mqi_dagster.moments import local
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.operations.people import actor_of, require_account
from mqi_dagster.operations.review import Review, Verdict, review, review_of
from mqi_dagster.resources.site import Site


def review_and_show(
    site: Site, key: str, accept: bool | None, reason: str, user: str | None, as_json: bool
) -> None:
    """Sign the results of a partition where that is asked for, and say what people have said of them.

    Args:
        site: The installation.
        key: Of a case, a beam or a course.
        accept: Whether it is accepted or rejected; None: neither.
        reason: Why.
        user: Account that signs.
        as_json: Whether it is printed as JSON.
    """
    if accept is not None and user is None:
        raise typer.BadParameter("--user names the account that signs")
    with open_instance(site.settings) as instance:
        found = review_of(instance, site, key)
        if accept is not None and user is not None:
            actor = actor_of(require_account(site, user), "command")
            for name, digest in found.digests.items():
                output(stderr=True).print(Text(f"{name}: {digest}", style="dim"), soft_wrap=True)
            verdict = Verdict.ACCEPTED if accept else Verdict.REJECTED
            review(instance, site, actor, key, verdict, reason, _password(user), found.seen)
            found = review_of(instance, site, key)
    if as_json:
        print_json(_content(found))
    else:
        _show(found, site.timezone)


def _password(user: str) -> str:
    """As somebody types it; the first line of what a script sends."""
    if sys.stdin.isatty():
        return str(typer.prompt(f"Password of {user}", hide_input=True, err=True))
    return sys.stdin.readline().rstrip("\n")


def _content(found: Review) -> dict[str, object]:
    return {
        "partition": found.partition,
        "state": found.state.value,
        "changed": list(found.changed),
        "why_not": found.why_not,
        "digests": dict(found.digests),
        "signatures": [
            {
                "id": one.id,
                "verdict": one.verdict.value,
                "reason": one.reason,
                "user": one.user,
                "full_name": one.full_name,
                "signed_at": one.signed_at.isoformat(),
                "digests": dict(one.digests),
            }
            for one in found.history
        ],
    }


def _show(found: Review, zone: tzinfo) -> None:
    console, words = output(), found.state.value
    if found.changed:
        words += f": another result since it was signed: {', '.join(found.changed)}"
    console.print(Text(f"{found.partition}: {words}"), soft_wrap=True)
    for one in found.history:
        why = f": {one.reason}" if one.reason else ""
        at = local(one.signed_at, zone)
        console.print(
            Text(f"  {one.verdict.value} by {one.full_name} ({one.user}) {at}{why}"), soft_wrap=True
        )
    if found.why_not:
        console.print(Text(f"  {found.why_not}", style="dim"), soft_wrap=True)
