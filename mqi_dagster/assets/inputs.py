"""Whether the inputs of a case are there at all, where one of them cannot be read."""

from collections.abc import Callable

import dagster as dg

from mqi_dagster.assets.arrivals import GONE
from mqi_dagster.assets.beam import read_manifest
from mqi_dagster.errors import MqiError
from mqi_dagster.partitions import split_beam_key
from mqi_dagster.resources.site import Site
from mqi_dagster.resources.site_folders import inbox_trouble


def inputs_away(instance: dg.DagsterInstance, site: Site, key: str) -> Callable[[], str]:
    """Asks why no input of a case or beam can be read now; the answer is empty where they are there.

    A file that is missing beside others is the case's own fault. A whole inbox or case folder that is missing
    is a share that was unmounted, or a person who will put it back.

    Args:
        instance: Dagster's records.
        site: The site.
        key: Case or beam key.
    """

    def ask() -> str:
        # Who names a folder sees for himself whether it is there.
        if site.given is not None:
            return ""
        if why := inbox_trouble(site):
            return f"the inbox: {why}"
        case = split_beam_key(key)[0] if "__" in key else key
        try:
            plan = read_manifest(instance, site, case).plan.path
        except MqiError:
            # It was never taken in: nobody but the look into the inbox knows where it stood.
            return ""
        return "" if plan.parent.is_dir() else GONE

    return ask
