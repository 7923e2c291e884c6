"""Which cases an arrival holds, each under the key of the ledger, and whether its files are there."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from mqi_dagster.delivery.discovery import CaseFolder, arrival_of, case_at, find_arrivals
from mqi_dagster.delivery.fractions import Fraction
from mqi_dagster.delivery.inbox_tree import folders_in
from mqi_dagster.delivery.survey import Survey, survey_arrival
from mqi_dagster.errors import InfrastructureError, InputError, InputsAwayError, MqiError, PrivacyError, Where
from mqi_dagster.lifecycle.beam import read_manifest
from mqi_dagster.partitions import CASE, case_key, root_of
from mqi_dagster.plan.model import IonPlan
from mqi_dagster.pseudonyms import folder_name_key
from mqi_dagster.resources.site import Site
from mqi_dagster.resources.site_folders import inbox_trouble
from mqi_dagster.settings import CaseNames
from mqi_dagster.store.store import Store

GONE = (
    "the case is not in the inbox any more: its whole folder is gone. Put it back, and it goes on by itself;"
    " to give it up, dismiss its alarm (`mqi alarms --dismiss`) or delete its partition in the pages"
)


@dataclass(frozen=True, slots=True)
class ArrivedCase:
    """One case as it stands in the inbox."""

    case: str
    arrival_hash: str
    """Keyed hash of the arrival's path below the inbox."""
    survey: Survey
    fraction: Fraction | None
    """None where the arrival holds no delivery that can be grouped, or no single plan."""
    fingerprint: str
    """Changes with every change of the files of this case alone."""

    @property
    def arrival(self) -> CaseFolder:
        """Where it was found."""
        return self.survey.arrival

    @property
    def number(self) -> int:
        """The NNNN of the case key."""
        return CASE.key(self.case).number


def survey(site: Site, arrival: CaseFolder) -> Survey:
    """Plan and fractions of an arrival."""
    window = timedelta(minutes=site.settings.intake.fraction_window_minutes)
    return survey_arrival(arrival, site.timezone, window)


def _plan_name(site: Site, plan: IonPlan, folder: Path) -> str:
    if site.settings.site.case_names is CaseNames.FOLDER:
        found = plan.identity.named_in(folder.name)
        if found is not None:
            raise PrivacyError(
                f"the folder name contains the patient's {found}: rename the folder, or set site.case_names"
                " to pseudonym, and the case is taken in by itself"
            )
        return folder_name_key(folder.name)
    return site.pseudonyms.plan(plan.sop_instance_uid)


def cases_of(site: Site, arrival: CaseFolder) -> list[ArrivedCase]:
    """The cases that one arrival holds; at least one, so that nothing is skipped.

    A fraction's number is given by the ledger in the order of first sight.
    """
    arrival_hash = site.pseudonyms.keyed("place", arrival.relative)
    seen = survey(site, arrival)
    unreadable = case_key(site.pseudonyms.unreadable(arrival.relative), 1)
    if seen.source is None:
        return [ArrivedCase(unreadable, arrival_hash, seen, None, arrival.fingerprint)]
    name = _plan_name(site, seen.source.plan, arrival.folder)
    found = []
    for fraction in seen.fractions:
        known = [site.pseudonyms.keyed("delivery", identity) for identity in fraction.identities]
        case = case_key(name, site.ledger.fractions.number(name, known)) if known else unreadable
        found.append(ArrivedCase(case, arrival_hash, seen, fraction, seen.fingerprint(fraction)))
    if len({one.case for one in found}) < len(found):
        # Under one key all but one of them would be lost.
        raise InputError(
            "deliveries that were one fraction are two now: one that came late, or another window, has parted"
            " them; widen intake.fraction_window_minutes until they are one again"
        )
    return found or [ArrivedCase(unreadable, arrival_hash, seen, None, arrival.fingerprint)]


def refused(site: Site, relative: str) -> tuple[str, str]:
    """Hash and case key of an arrival that cannot be read, by its path below the inbox."""
    arrival_hash = site.pseudonyms.keyed("place", relative)
    return arrival_hash, case_key(site.pseudonyms.unreadable(relative), 1)


def arrivals_in(site: Site, now: datetime) -> list[CaseFolder]:
    """Every arrival in the site's inbox."""
    return find_arrivals(site.inbox, site.settings.intake, now)


def given_folder(site: Site, folder: Path) -> list[ArrivedCase]:
    """The cases of a folder that a person named."""
    return cases_of(site, arrival_of(folder, site.settings.intake))


def find_case(site: Site, case: str) -> ArrivedCase:
    """The case of a key, looked up in the inbox anew: paths are kept nowhere else.

    Raises:
        InputsAwayError: The inbox is away, or the folder in which the case stood is gone.
        InputError: It is not in the inbox.
    """
    if site.given is None and (why := inbox_trouble(site)):
        raise InputsAwayError(f"the inbox: {why}", where=Where(case=case))
    row = site.ledger.arrivals.get(case)
    arrival_hash = row.arrival if row is not None else None
    now = datetime.now(UTC)

    def keyed(arrival: CaseFolder) -> str:
        return site.pseudonyms.keyed("place", arrival.relative)

    if site.given is not None:
        candidates = [arrival_of(site.given, site.settings.intake)]
    else:
        # Where it was seen last comes first: looking at all of a full inbox takes long.
        seen_last = _arrival_at(site, arrival_hash, now) if arrival_hash is not None else None
        if seen_last is not None:
            for found in cases_of(site, seen_last):
                if found.case == case:
                    return found
        candidates = arrivals_in(site, now)
    for arrival in candidates:
        try:
            present = cases_of(site, arrival)
        except InfrastructureError:
            raise
        except Exception:
            # The fault of another case must not stop this one; its own is told.
            if len(candidates) == 1 or keyed(arrival) == arrival_hash:
                raise
            continue
        for found in present:
            if found.case == case:
                return found
    if arrival_hash is not None and arrival_hash not in {keyed(arrival) for arrival in candidates}:
        raise InputsAwayError(GONE, where=Where(case=case))
    raise InputError("the case is not in the inbox any more", where=Where(case=case))


def _arrival_at(site: Site, arrival_hash: str, now: datetime) -> CaseFolder | None:
    """The arrival with this hash, found by the names of folders alone; None where it is gone."""
    root, intake = site.inbox.resolve(), site.settings.intake
    waiting = deque([(root, 0)])
    while waiting:
        folder, depth = waiting.popleft()
        for below in folders_in(folder):
            if site.pseudonyms.keyed("place", below.relative_to(root).as_posix()) == arrival_hash:
                return case_at(below, root, intake, now)
            if depth < intake.max_folder_depth:
                waiting.append((below, depth + 1))
    return None


def inputs_away(
    instance: dg.DagsterInstance, site: Site, store: Callable[[], Store], key: str
) -> Callable[[], str]:
    """Asks why no input of a case or beam can be read now; the answer is empty where they are there.

    A file that is missing beside others is the case's own fault. A whole inbox or case folder that is missing
    is a share that was unmounted, or a person who will put it back.

    Args:
        instance: Dagster's records.
        site: The site.
        store: Opens the one that has the case's manifest.
        key: Case or beam key.
    """

    def ask() -> str:
        # Who names a folder sees for himself whether it is there.
        if site.given is not None:
            return ""
        if why := inbox_trouble(site):
            return f"the inbox: {why}"
        try:
            plan = read_manifest(instance, store(), root_of(key)).plan.path
        except MqiError:
            # It was never taken in: nobody but the scan of the inbox knows where it stood.
            return ""
        return "" if plan.parent.is_dir() else GONE

    return ask
