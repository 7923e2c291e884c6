"""What `mqi case retry` and `mqi course retry` do alike."""

from __future__ import annotations

from rich.text import Text

from mqi_dagster.cli.screen import output, print_json
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.operations.retry import partitions_of, retry, services_of
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
        launched = retry(instance, site, services_of(site), partitions)
    if as_json:
        print_json(launched)
        return
    for partition, identity in launched.items():
        output().print(Text(f"{partition}: runs again ({identity})"), soft_wrap=True)
