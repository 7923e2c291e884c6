"""``mqi retention``: remove what the settings do not want kept."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from mqi_dagster.cli.options import JsonOption, SiteOption
from mqi_dagster.cli.screen import output, print_json
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.operations.sites import DEFAULT_SITE, open_site


def retention(
    site: SiteOption = DEFAULT_SITE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove old results, cases and logs as the section `retention` says, and say what cannot be made again.

    Folders of ended jobs on clusters go as each cluster's own section `retention` says.
    """
    from mqi_dagster.lifecycle.cluster_retention import old_job_folders, tidy_clusters
    from mqi_dagster.lifecycle.retention import spare, tidied
    from mqi_dagster.operations.instance import open_instance

    console = output(stderr=as_json)
    opened, stays, problems = open_site(site), list[str](), list[str]()
    now, word = datetime.now(UTC), "would remove" if dry_run else "removed"
    gone: list[dict[str, Any]] = []

    def say(line: str) -> None:
        if not as_json:
            console.print(Text(line), soft_wrap=True)

    with open_instance(opened.settings) as instance:
        if dry_run:
            things = spare(instance, opened, now, stays)
        else:
            things = (thing for thing, is_gone in tidied(instance, opened, now, stays) if is_gone)
        for thing in things:
            size = f"{thing.bytes / 1e6:.1f} MB"
            say(f"{word} {thing.kind} {thing.name} ({size}; made again: {thing.again})")
            kind, again = str(thing.kind), str(thing.again)
            gone.append({"kind": kind, "name": thing.name, "bytes": thing.bytes, "made_again": again})
    say(f"{len(gone)} things, {sum(one['bytes'] for one in gone) / 1e6:.1f} MB")
    if dry_run:
        jobs = list(old_job_folders(opened))
        folders = len(jobs)
        for cluster, job in jobs:
            say(f"would remove job folder {job.folder}/{job.key} on {cluster} ({job.state.value})")
    else:
        folders, _, problems = tidy_clusters(opened, at_once=None)
        if folders or problems:
            say(f"{folders} job folders on clusters")
    if as_json:
        problems = [*stays, *problems]
        print_json({"dry_run": dry_run, "things": gone, "job_folders": folders, "problems": problems})
        if problems:
            raise typer.Exit(1)
    elif stays or problems:
        raise InfrastructureError("; ".join([*stays, *problems]))
