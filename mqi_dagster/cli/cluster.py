"""``mqi cluster``: what of ours is on a cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from mqi_dagster.cli.options import JsonOption, SiteOption
from mqi_dagster.cli.screen import output, print_json, show_rows
from mqi_dagster.errors import ConfigurationError
from mqi_dagster.operations.sites import DEFAULT_SITE, open_site

if TYPE_CHECKING:
    from mqi_dagster.hpc.executor import SlurmExecutor

cluster_app = typer.Typer(help="Jobs and folders of this site on its cluster.", no_args_is_help=True)


@cluster_app.command()
def jobs(
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
    every: Annotated[bool, typer.Option("--all", help="Also those whose folders are gone.")] = False,
) -> None:
    """List the jobs of this site, as the last poll of the cluster saw them."""
    executor = _cluster(site)
    rows: list[dict[str, Any]] = [
        {
            "job": job.job_id,
            "beam": job.partition,
            "state": job.state.value,
            "slurm": job.scheduler_state,
            "reason": job.reason,
            "folder": f"{job.folder}/{job.key}",
            "removed": job.removed_at is not None,
        }
        for job in executor.jobs()
        if every or job.removed_at is None
    ]
    titles = {name: name for name in ("job", "beam", "state", "slurm", "reason")}
    show_rows(rows, as_json, titles, "no job has a folder on the cluster")


@cluster_app.command()
def clean(
    site: SiteOption = DEFAULT_SITE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove the folders of ended jobs that have been kept as long as `retention` says."""
    executor = _cluster(site)
    console = output()
    kept = executor.housekeeping.kept_too_long()
    if dry_run and as_json:
        going = [{"folder": f"{job.folder}/{job.key}", "state": job.state.value} for job in kept]
        print_json({"would_remove": going})
        return
    if dry_run:
        for job in kept:
            console.print(Text(f"would remove {job.folder}/{job.key} ({job.state.value})"))
        console.print(f"{len(kept)} folders")
        return
    removed = executor.housekeeping.remove_kept()
    alarm = executor.housekeeping.measure()
    if as_json:
        print_json({"removed": removed, "alarm": alarm})
        return
    console.print(f"removed {removed} folders")
    if alarm:
        console.print(Text(alarm, style="yellow"))


def _cluster(place: Path) -> "SlurmExecutor":
    from mqi_dagster.hpc.executor import SlurmExecutor

    executor = open_site(place).executor
    if not isinstance(executor, SlurmExecutor):
        raise ConfigurationError(
            "simulations run on this machine (execution.simulation); there is no cluster"
        )
    return executor
