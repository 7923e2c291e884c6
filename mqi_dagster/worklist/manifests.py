"""The manifests of cases, each read once, and whether a case is concluded with what its beams have now."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from mqi_dagster.assets.beam import read_manifest
from mqi_dagster.assets.handover import DELIVERY, NOT_COMPARED
from mqi_dagster.assets.jobs import RUN_KEY_TAG
from mqi_dagster.assets.lineage import latest_text
from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.delivery.verdict import AS_PLANNED
from mqi_dagster.errors import StoreError
from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.partitions import beam_key
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors.conclusion import conclusion_request
from mqi_dagster.worklist.ledger_look import LedgerLook
from mqi_dagster.worklist.made import BEAM_HANDED, CASE_HANDED, DOSE, MANIFEST, EventBook


class Manifests:
    """What the manifests of cases say, as far as it is needed.

    Args:
        instance: Dagster's records.
        site: The site.
        events: What was made.
        ledger: Knows which cases were removed.
    """

    def __init__(
        self, instance: dg.DagsterInstance, site: Site, events: EventBook, ledger: LedgerLook
    ) -> None:
        self._instance = instance
        self._site = site
        self._events = events
        self._ledger = ledger
        self._read: dict[str, tuple[int | None, CaseManifest | None]] = {}
        self._known: dict[str, tuple[object, bool]] = {}
        self._delivery: dict[str, tuple[int, str]] = {}

    def of(self, case: str) -> CaseManifest | None:
        """The manifest of a case; None where it has none, or it is damaged."""
        made = self._events.latest(MANIFEST, case)
        found = self._read.get(case)
        if found is None or found[0] != made:
            found = (made, manifest_of(self._instance, self._site, case) if made is not None else None)
            self._read[case] = found
        return found[1]

    def is_read(self, case: str) -> bool:
        """Whether what `of` answers was read already."""
        found = self._read.get(case)
        return found is not None and found[0] == self._events.latest(MANIFEST, case)

    def delivery_known(self, case: str) -> bool:
        """Whether :meth:`delivery` of a concluded case costs nothing."""
        found = self._delivery.get(case)
        return found is not None and found[0] == self._events.latest(CASE_HANDED, case)

    def delivery(self, case: str) -> str:
        """What the conclusion of a case says was not delivered as planned; empty where it says nothing."""
        made = self._events.latest(CASE_HANDED, case)
        if made is None:
            return ""
        found = self._delivery.get(case)
        if found is None or found[0] != made:
            said = latest_text(self._instance, CASE_HANDED, case, DELIVERY)
            wrong = "" if said in (None, AS_PLANNED, NOT_COMPARED) else f"not delivered as planned: {said}"
            found = (made, wrong)
            self._delivery[case] = found
        return found[1]

    def handed_over(self, beam: str) -> bool:
        """Whether the latest dose of a beam was handed over."""
        handed, dose = self._events.latest(BEAM_HANDED, beam), self._events.latest(DOSE, beam)
        return handed is not None and dose is not None and dose < handed

    def concluded(self, case: str, beams: Mapping[int, str]) -> bool:
        """Whether a case was concluded with the results that its beams have now.

        Args:
            case: Case key.
            beams: Beam keys of the case by number.
        """
        concluded = self._events.latest(CASE_HANDED, case)
        if concluded is None:
            return False
        taken_in, arrival = self._events.latest(MANIFEST, case), self._ledger.arrivals.get(case)
        # What was made before a removal counts for nothing, but only once the case has come again.
        again = taken_in is not None and taken_in > concluded
        removed_at = arrival.results_removed_at if again and arrival is not None else None
        if removed_at is None and all(
            self.handed_over(beam) and (self._events.latest(BEAM_HANDED, beam) or 0) < concluded
            for beam in beams.values()
        ):
            return True
        # A beam was handed over once more, or the case was removed and came again: whether that is another
        # result, only the digests tell.
        marks = tuple(
            (self._events.latest(asset, beam)) for beam in beams.values() for asset in (DOSE, BEAM_HANDED)
        )
        known = self._known.get(case)
        made = (concluded, arrival, marks)
        # Where it is not, that may change without another thing being made: by the end of a run.
        if known is None or not known[1] or known[0] != made:
            known = (made, self._asked_and_done(case, arrival))
            self._known[case] = known
        return known[1]

    def _asked_and_done(self, case: str, arrival: Arrival | None) -> bool:
        manifest = self.of(case)
        request = conclusion_request(self._instance, manifest, arrival) if manifest is not None else None
        if request is None:
            return False
        asked = self._instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: str(request.run_key)}), limit=1)
        return bool(asked) and asked[0].status is dg.DagsterRunStatus.SUCCESS


def manifest_of(instance: dg.DagsterInstance, site: Site, case: str) -> CaseManifest | None:
    """The manifest of a case; None where it has none, or it is damaged."""
    try:
        return read_manifest(instance, site, case)
    except StoreError:
        return None


def missing(manifest: CaseManifest) -> str:
    """What a partial case lacks."""
    if manifest.missing_beams:
        return "no delivery of beam " + ", ".join(str(number) for number in manifest.missing_beams)
    beams = ", ".join(str(beam.number) for beam in manifest.beams if not beam.complete)
    return f"layers of beam {beams} were not delivered"


def beams_of(manifest: CaseManifest) -> dict[int, str]:
    """Beam keys of a manifest by number."""
    return {number: beam_key(manifest.case, number) for number in sorted(b.number for b in manifest.beams)}
