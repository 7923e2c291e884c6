"""What the inventories of cases say, each read once, and whether a case is concluded with what it has now."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import dagster as dg

from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.delivery.verdict import AS_PLANNED
from mqi_dagster.errors import StoreError
from mqi_dagster.lifecycle.beam import inventory_of, manifest_in
from mqi_dagster.lifecycle.case_facts import CaseFacts, facts_in, facts_of
from mqi_dagster.lifecycle.case_status import counts_since, unchanged_since_conclusion, why_not_handed_over
from mqi_dagster.lifecycle.conclusion_request import DELIVERY, NOT_COMPARED
from mqi_dagster.lifecycle.lineage import digest_in, records_of, text_in
from mqi_dagster.lifecycle.materialisations import CONCLUDED, MANIFEST
from mqi_dagster.lifecycle.pipeline import Inventory, Pipeline
from mqi_dagster.partitions import root_of
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist.events import EventIndex
from mqi_dagster.worklist.ledger_snapshot import LedgerSnapshot

Value = TypeVar("Value")


def _delivery_in(_: str, record: dg.EventLogRecord) -> str | None:
    return text_in(record, DELIVERY)


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
        self._read: dict[str, tuple[int | None, CaseFacts | None]] = {}
        self._delivery: dict[str, tuple[int | None, str]] = {}
        self._inventories: dict[str, tuple[int | None, Inventory]] = {}

    def of(self, case: str) -> CaseFacts | None:
        """What the inventory of a case says; None where it has none, or nobody knows."""
        made = self._events.number(MANIFEST, case)
        found = self._read.get(case)
        if found is None or found[0] != made:
            self.read([case])
            found = self._read[case]
        return found[1]

    def read(self, cases: Collection[str]) -> None:
        """Read what :meth:`of` says of cases; the event log is asked for all of them together.

        The manifest itself, which is long, is opened only where its materialisation does not say it.
        """
        self._read |= self._latest(MANIFEST, cases, self._facts)

    def _facts(self, case: str, record: dg.EventLogRecord) -> CaseFacts | None:
        found = facts_in(record)
        if found is None:
            manifest = self._published(case, digest_in(record))
            found = None if manifest is None else facts_of(manifest)
        return found

    def _latest(
        self, asset: str, cases: Collection[str], value_of: Callable[[str, dg.EventLogRecord], Value | None]
    ) -> dict[str, tuple[int | None, Value | None]]:
        """Number of each case's latest materialisation, and what it says: a record itself is long."""
        made = {case: self._events.number(asset, case) for case in cases}
        of_number = {number: case for case, number in made.items() if number is not None}
        values = {
            record.storage_id: value_of(of_number[record.storage_id], record)
            for record in records_of(self._instance, asset, of_number.keys())
        }
        return {case: (number, values.get(number or 0)) for case, number in made.items()}

    def _published(self, case: str, digest: str | None) -> CaseManifest | None:
        try:
            if digest is None:
                return None
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
        for case, (number, said) in self._latest(CONCLUDED, cases, _delivery_in).items():
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
            digests = self._latest(MANIFEST, [case], lambda _, record: digest_in(record))
            found = self._inventories[case] = made, inventory_of(self._published(case, digests[case][1]))
        return found[1]
