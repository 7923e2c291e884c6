"""What `mqi case` and `mqi course` do alike with runs: begin what failed or arrived anew, end what runs."""

from __future__ import annotations

import typer
from rich.text import Text

from mqi_dagster.cli.screen import output, print_json
from mqi_dagster.operations.cancel import await_end, cancel
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.operations.retake import retake
from mqi_dagster.operations.retry import partitions_of, retry, services_of
from mqi_dagster.people.rights import Actor
from mqi_dagster.resources.site import Site


def retry_and_show(site: Site, name: str, beam: int | None, as_json: bool) -> None:
    """Have what failed of a partition run once more in the services, and say what was launched.

    Args:
        site: The installation.
        name: Key of a case, a beam or a course.
        beam: Only the beam of this number.
        as_json: Whether it is printed as JSON.
    """
    with open_instance(site.settings) as instance:
        partitions = partitions_of(instance, site, name, beam)
        launched = retry(instance, site, services_of(site), Actor.of_this_account(), partitions)
    if as_json:
        print_json(launched)
        return
    for partition, identity in launched.items():
        output().print(Text(f"{partition}: runs again ({identity})"), soft_wrap=True)


def cancel_and_show(site: Site, name: str, beam: int | None, wait: bool, as_json: bool) -> None:
    """End what is queued or in work of a partition, and say what was ended, and what goes on all the same.

    Args:
        site: The installation.
        name: Key of a case, a beam or a course.
        beam: Only the beam of this number.
        wait: Until everything has ended.
        as_json: Whether it is printed as JSON.
    """
    console = output(stderr=True)
    with open_instance(site.settings) as instance, console.status(f"ending what runs of {name}"):
        partitions, services = partitions_of(instance, site, name, beam), services_of(site)
        cancelled = cancel(instance, site, services, Actor.of_this_account(), partitions)
        left = await_end(instance, site, services, partitions) if wait else []
    if as_json:
        print_json({"cancelled": cancelled, "going_on": left})
    else:
        for partition, identity in cancelled.items():
            output().print(Text(f"{partition}: cancelled ({identity})"), soft_wrap=True)
    for words in left:
        console.print(Text(f"goes on: {words}", style="yellow"), soft_wrap=True)
    if left:
        raise typer.Exit(1)


def retake_and_show(site: Site, key: str, as_json: bool) -> None:
    """Have a case or a course taken in once more, and say so.

    Args:
        site: The installation.
        key: Of the case or course.
        as_json: Whether it is printed as JSON.
    """
    with open_instance(site.settings) as instance:
        retake(instance, site, Actor.of_this_account(), key)
    if as_json:
        print_json({"retaken": key})
        return
    output().print(Text(f"{key}: is taken in again at the next look"), soft_wrap=True)
