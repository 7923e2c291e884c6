"""Finding the cases and courses of a patient by name or ID, for whom may see whose they are."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import dagster as dg

from mqi_dagster.errors import InputError
from mqi_dagster.ledger.audit import Action
from mqi_dagster.operations.audited import audited
from mqi_dagster.operations.identity import is_of_patient
from mqi_dagster.partitions import CASE
from mqi_dagster.people.rights import Actor, Right
from mqi_dagster.resources.site import Site

_SECONDS = 5.0
_SHORTEST = 2
_TRIED = 3
"""Fractions of a plan that are asked one after the other until the files of one can be read."""


@dataclass(frozen=True, slots=True)
class FoundPatient:
    """What a search has found."""

    keys: tuple[str, ...]
    looked: int
    """How many plans and courses were looked into."""
    unread: int
    """Of how many of them nobody can say now whose they are."""
    of: int
    """How many there are; what was read stays in memory for a while, so that another search comes further."""


def find_patient(
    site: Site,
    instance: dg.DagsterInstance,
    actor: Actor,
    wanted: str,
    units: Iterable[str],
    seconds: float = _SECONDS,
) -> FoundPatient:
    """The cases and courses of a patient; the search is in the audit, without the words.

    Args:
        site: The site.
        instance: Dagster's records.
        actor: Who searches.
        wanted: The ID as it stands in the files, or a part of the name.
        units: Keys to search, the most interesting first.
        seconds: After so many it ends with what it has found.

    Raises:
        InputError: The words are too short.
        NotAllowedError: The actor does not have the right ``identity``.
    """
    words = wanted.strip()
    if len(words) < _SHORTEST:
        raise InputError(f"name at least {_SHORTEST} characters of a patient's name or ID")
    together: dict[str, list[str]] = {}
    for unit in units:
        key = CASE.find(unit)
        # All fractions of a plan are of one patient.
        together.setdefault(unit if key is None else key.stem, []).append(unit)
    found: list[str] = []
    looked, unread, until = 0, 0, time.monotonic() + seconds
    with audited(site, actor, Right.IDENTITY, Action.IDENTITY_READ, "patient search") as told:
        for same in together.values():
            if time.monotonic() > until:
                break
            looked += 1
            answers = (is_of_patient(site, instance, one, words) for one in same[:_TRIED])
            known = next((answer for answer in answers if answer is not None), None)
            unread += known is None
            if known:
                found += same
        told["found"], told["unread"] = str(len(found)), str(unread)
    return FoundPatient(tuple(found), looked, unread, len(together))
