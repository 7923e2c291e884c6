"""``mqi retention``: remove what the settings do not want kept."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from mqi_dagster.cli.options import SiteOption
from mqi_dagster.cli.screen import output
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.operations.sites import DEFAULT_SITE, open_site


def retention(
    site: SiteOption = DEFAULT_SITE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove old results, cases and logs as the section `retention` says, and say what cannot be made again.

    Folders of ended jobs on clusters go as each cluster's own section `retention` says.
    """
    from mqi_dagster.lifecycle.cluster_retention import old_job_folders, tidy_clusters
    from mqi_dagster.lifecycle.retention import spare, tidied
    from mqi_dagster.operations.instance import open_instance

    console = output()
    opened, count, size, stays = open_site(site), 0, 0, list[str]()
    now, word = datetime.now(UTC), "would remove" if dry_run else "removed"
    with open_instance(opened.settings) as instance:
        if dry_run:
            things = spare(instance, opened, now, stays)
        else:
            things = (thing for thing, gone in tidied(instance, opened, now, stays) if gone)
        for thing in things:
            line = f"{word} {thing.kind} {thing.name} ({thing.bytes / 1e6:.1f} MB; made again: {thing.again})"
            console.print(Text(line), soft_wrap=True)
            count, size = count + 1, size + thing.bytes
    console.print(f"{count} things, {size / 1e6:.1f} MB")
    if dry_run:
        for cluster, job in old_job_folders(opened):
            line = f"would remove job folder {job.folder}/{job.key} on {cluster} ({job.state.value})"
            console.print(Text(line), soft_wrap=True)
        if stays:
            raise InfrastructureError("; ".join(stays))
        return
    folders, _, problems = tidy_clusters(opened, at_once=None)
    if folders or problems:
        console.print(f"{folders} job folders on clusters")
    if stays or problems:
        raise InfrastructureError("; ".join([*stays, *problems]))
