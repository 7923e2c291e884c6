"""What boards say of a case's inventory, small enough to keep for every case there ever was."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from mqi_dagster.delivery.manifest import CaseManifest, beam_label
from mqi_dagster.partitions import beam_key

MACHINE, PLAN_LABEL, PARTIAL, MISSING = "machine", "plan label", "partial", "missing beams"
BEAM_TABLE, BEAM, NAME, COMPLETE = "beam table", "beam", "name", "complete"
LOWEST, HIGHEST, GANTRY = "lowest energy [MeV]", "highest energy [MeV]", "gantry angle [°]"
"""Names of the metadata and of the columns of the table with which a `case_manifest` is materialised."""
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class CaseFacts:
    """What a case's inventory says of it as a whole, and what stands beside the keys of its beams."""

    machine: str
    """Id of the treatment machine."""
    plan: str
    """RT Plan Label for people; empty where an earlier version has taken the case in."""
    partial: bool
    missing_beams: tuple[int, ...]
    incomplete_beams: tuple[int, ...]
    """Numbers of the beams of which a layer was not delivered."""
    labels: Mapping[int, str]
    """`BeamEntry.label` of each beam by its number."""
    names: tuple[str, ...]
    """Names of the beams for people, by number."""

    def beams(self, case: str) -> dict[int, str]:
        """Beam keys by number."""
        return {number: beam_key(case, number) for number in sorted(self.labels)}


def facts_of(manifest: CaseManifest) -> CaseFacts:
    """What an inventory says."""
    beams = sorted(manifest.beams, key=lambda beam: beam.number)
    return CaseFacts(
        machine=manifest.machine_id,
        plan=manifest.plan_label,
        partial=manifest.partial,
        missing_beams=manifest.missing_beams,
        incomplete_beams=tuple(beam.number for beam in beams if not beam.complete),
        labels={beam.number: beam.label for beam in beams},
        names=tuple(beam.shown_name for beam in beams),
    )


def facts_in(record: dg.EventLogRecord) -> CaseFacts | None:
    """What the materialisation of an inventory says; None where it does not say all of it.

    A person may have reported it in the pages, and earlier code said less.
    """
    made = record.asset_materialization
    values: dict[str, Any] = {}
    if made is not None:
        values = {name: value.value for name, value in made.metadata.items()}
    try:
        return _facts({**values, BEAM_TABLE: [dict(row.data) for row in values[BEAM_TABLE].records]})
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _facts(values: Mapping[str, Any]) -> CaseFacts:
    rows = sorted(values[BEAM_TABLE], key=lambda row: int(row[BEAM]))
    gantries = [None if row[GANTRY] == UNKNOWN else float(row[GANTRY]) for row in rows]
    return CaseFacts(
        machine=str(values[MACHINE]),
        plan=str(values[PLAN_LABEL]),
        partial=bool(values[PARTIAL]),
        missing_beams=tuple(int(number) for number in re.findall(r"\d+", str(values[MISSING]))),
        incomplete_beams=tuple(int(row[BEAM]) for row in rows if not row[COMPLETE]),
        labels={
            int(row[BEAM]): beam_label(str(row[NAME]), float(row[LOWEST]), float(row[HIGHEST]), gantry)
            for row, gantry in zip(rows, gantries, strict=True)
        },
        names=tuple(str(row[NAME]) for row in rows),
    )
