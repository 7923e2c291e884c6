"""The pictures of a beam, as they stand in the metadata of what was made of it."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

import dagster as dg

from mqi_dagster.lifecycle.lineage import RT_DOSE, latest_record
from mqi_dagster.lifecycle.metadata import pictures_in

_ASSETS = ("interpreted_csvs", RT_DOSE)
_ORDER = ("spot-map", "layer-MU", "layer-positions", "depth-dose", "lateral-profiles")
_PICTURE = re.compile(r"!\[([^\]]*)\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture."""

    words: str
    """What it shows."""
    png: bytes

    @property
    def digest(self) -> str:
        """Tells it from another one of the same name, in its address."""
        return hashlib.sha256(self.png).hexdigest()[:12]


def pictures_of(instance: dg.DagsterInstance, beam: str) -> dict[str, Picture]:
    """The pictures of a beam by name, such as ``spot-map`` and ``depth-dose``, in the order of the chain.

    Args:
        instance: Dagster's records.
        beam: Its key.
    """
    found = {}
    for asset in _ASSETS:
        record = latest_record(instance, asset, beam)
        made = None if record is None else record.asset_materialization
        for name, value in pictures_in({} if made is None else made.metadata).items():
            match = _PICTURE.fullmatch(str(value.value))
            if match is not None:
                found[name.replace(" ", "-")] = Picture(match[1], base64.b64decode(match[2]))
    return {name: found[name] for name in sorted(found, key=lambda one: (*_ORDER, one).index(one))}
