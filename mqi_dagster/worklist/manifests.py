"""The manifests of cases, each read once, and whether a case is concluded with what its beams have now."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import dagster as dg

from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.delivery.verdict import AS_PLANNED
from mqi_dagster.errors import StoreError
from mqi_dagster.lifecycle.beam import inventory_of, manifest_in
from mqi_dagster.lifecycle.case_status import counts_since, unchanged_since_conclusion, why_not_handed_over
from mqi_dagster.lifecycle.conclusion_request import DELIVERY, NOT_COMPARED
from mqi_dagster.lifecycle.lineage import digest_in, records_of, text_in
from mqi_dagster.lifecycle.materialisations import CONCLUDED, MANIFEST
from mqi_dagster.lifecycle.pipeline import Inventory, Pipeline
from mqi_dagster.partitions import root_of
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist.events import EventIndex
from mqi_dagster.worklist.ledger_snapshot import LedgerSnapshot


class Manifests:
    """What the manifests of cases say, as far as it is needed.

    Args:
        instance: Dagster's records.
        site: The site.
        pipeline: The one with cases.
        events: What was made.
        ledger: Knows which cases were removed.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        site: Site,
        pipeline: Pipeline,
        events: EventIndex,
        ledger: LedgerSnapshot,
    ) -> None:
        self._instance = instance
        self._site = site
        self._pipeline = pipeline
        self._events = events
        self._ledger = ledger
        self._read: dict[str, tuple[int | None, CaseManifest | None]] = {}
        self._delivery: dict[str, tuple[int | None, str]] = {}
        self._inventories: dict[str, tuple[int | None, Inventory]] = {}

    def of(self, case: str) -> CaseManifest | None:
        """The manifest of a case; None where it has none, or it is damaged."""
        made = self._events.number(MANIFEST, case)
        found = self._read.get(case)
        if found is None or found[0] != made:
            self.read([case])
            found = self._read[case]
        return found[1]

    def read(self, cases: Collection[str]) -> None:
        """Read the manifests of cases; the event log is asked for all of them together."""
        for case, (number, digest) in self._latest(MANIFEST, cases, digest_in).items():
            self._read[case] = (number, self._published(case, digest) if digest is not None else None)

    def _latest(
        self, asset: str, cases: Collection[str], value_of: Callable[[dg.EventLogRecord], str | None]
    ) -> dict[str, tuple[int | None, str | None]]:
        """Number of each case's latest materialisation, and a value of it."""
        made = {case: self._events.number(asset, case) for case in cases}
        numbers = {number for number in made.values() if number is not None}
        texts = {record.storage_id: value_of(record) for record in records_of(self._instance, asset, numbers)}
        return {
            case: (number, None if number is None else texts.get(number)) for case, number in made.items()
        }

    def _published(self, case: str, digest: str) -> CaseManifest | None:
        try:
            return manifest_in(self._site.store.resolve(case, None, MANIFEST, digest), case)
        except StoreError:
            return None

    def is_read(self, case: str) -> bool:
        """Whether what :meth:`of` answers costs nothing."""
        made, found = self._events.number(MANIFEST, case), self._read.get(case)
        return made is None or (found is not None and found[0] == made)

    def delivery(self, case: str) -> str:
        """What the conclusion of a case says was not delivered as planned; empty where it says nothing."""
        if not self.delivery_is_read(case):
            self.read_deliveries([case])
        return self._delivery[case][1] if case in self._delivery else ""

    def read_deliveries(self, cases: Collection[str]) -> None:
        """Read what :meth:`delivery` says of cases; the event log is asked for all of them together."""
        latest = self._latest(CONCLUDED, cases, lambda record: text_in(record, DELIVERY))
        for case, (number, said) in latest.items():
            wrong = "" if said in (None, AS_PLANNED, NOT_COMPARED) else f"not delivered as planned: {said}"
            self._delivery[case] = (number, wrong)

    def delivery_is_read(self, case: str) -> bool:
        """Whether what :meth:`delivery` answers costs nothing."""
        made, found = self._events.number(CONCLUDED, case), self._delivery.get(case)
        return made is None or (found is not None and found[0] == made)

    def why_not_handed_over(self, beam: str) -> str:
        """Why the dose of a beam's present delivery does not count as handed over; empty where it does."""
        case = root_of(beam)
        since = counts_since(self._events, case, self._ledger.arrivals.get(case))
        return why_not_handed_over(self._events, beam, lambda: self._inventory(case), since)

    def concluded(self, case: str, beams: Mapping[int, str]) -> bool:
        """Whether a case was concluded with the results that its beams have now.

        Args:
            case: Case key.
            beams: Beam keys of the case by number.
        """
        arrival = self._ledger.arrivals.get(case)
        return self._pipeline.concluded(
            self._events, case, beams.values(), arrival, lambda: self._inventory(case)
        )

    def is_unchanged(self, case: str, beams: Collection[str]) -> bool:
        """Whether nothing was made since the case was concluded; reads nothing."""
        return unchanged_since_conclusion(self._events, case, beams)

    def _inventory(self, case: str) -> Inventory:
        made, found = self._events.number(MANIFEST, case), self._inventories.get(case)
        if found is None or found[0] != made:
            found = self._inventories[case] = made, inventory_of(self.of(case))
        return found[1]
