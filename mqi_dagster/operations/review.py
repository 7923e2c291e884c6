"""A result is accepted or rejected by a signature, which is void once another result stands in its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import dagster as dg

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.errors import InputError, KeyRejectedError, SignInError, Where
from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.ledger.audit import Action
from mqi_dagster.ledger.signatures import Signature, Verdict
from mqi_dagster.lifecycle.case_reading import read_case, run_facts
from mqi_dagster.lifecycle.case_status import PartitionStatus
from mqi_dagster.lifecycle.materialisations import CONCLUDED, DOSE, HANDED_OVER, EventLog
from mqi_dagster.lifecycle.pipeline import Inventory
from mqi_dagster.lifecycle.runs import latest_run_of
from mqi_dagster.lifecycle.stages import CaseState
from mqi_dagster.lifecycle.unit_status import unit_status
from mqi_dagster.operations.audited import alone, audited
from mqi_dagster.operations.people import require_account, require_password
from mqi_dagster.partitions import BEAM, CASE, PartitionKey, beam_key, find_key
from mqi_dagster.people.rights import Actor, Right
from mqi_dagster.resources.site import Site
from mqi_dagster.store.digests import digest_of

__all__ = ["Review", "ReviewState", "Verdict", "review", "review_of"]

_REASON = re.compile(r"[^\x00-\x1f\x7f]{0,500}")
_KINDS = [level.kind for pipeline in PIPELINES for level in pipeline.levels]


class ReviewState(StrEnum):
    """What people have said of a result."""

    NONE = "not reviewed"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    VOID = "void"
    """It was signed, and is another one now."""


@dataclass(frozen=True, slots=True)
class Review:
    """What people have said of the results of a partition, and what a signature would be of."""

    partition: str
    digests: Mapping[str, str]
    """By asset: what stands at this moment."""
    why_not: str
    """Why nothing can be signed; empty where it can."""
    history: tuple[Signature, ...]
    """The newest first."""

    @property
    def signature(self) -> Signature | None:
        """The newest one."""
        return self.history[0] if self.history else None

    @property
    def changed(self) -> tuple[str, ...]:
        """What is another result now than the one that was signed; nothing where all were removed."""
        if not self.history or not self.digests:
            return ()
        signed = self.history[0].digests
        return tuple(
            name for name in sorted({*signed, *self.digests}) if signed.get(name) != self.digests.get(name)
        )

    @property
    def state(self) -> ReviewState:
        """What was said last, and whether it counts."""
        if not self.history:
            return ReviewState.NONE
        return ReviewState.VOID if self.changed else ReviewState(self.history[0].verdict.value)

    @property
    def seen(self) -> str:
        """Digest of everything that stands: what a form says that it has shown."""
        return digest_of(digests=self.digests)


def review_of(instance: dg.DagsterInstance, site: Site, partition: str) -> Review:
    """What people have said of the results of a case, a beam or a course.

    Raises:
        KeyRejectedError: It is the key of none that is known here.
    """
    key = find_key(partition, _KINDS)
    if key is None:
        raise KeyRejectedError(f"{partition[:255]!a} is no key of a case, a beam or a course")
    status, digests = (_of_case if key.kind in (CASE, BEAM) else _of_unit)(instance, site, key)
    why_not = ""
    if status.state not in (CaseState.COMPLETE, CaseState.PARTIAL):
        why_not = f"only a result that is complete or partial can be signed: it is {status.state.value}"
    elif not digests:
        why_not = "its results were removed"
    return Review(partition, digests, why_not, tuple(site.ledger.signatures.history(partition)))


def _require_known(instance: dg.DagsterInstance, key: PartitionKey, arrival: Arrival | None) -> None:
    if arrival is None and latest_run_of(instance, key.root) is None:
        raise KeyRejectedError("it is not known here", where=Where(case=key.root))


def _of_case(
    instance: dg.DagsterInstance, site: Site, key: PartitionKey
) -> tuple[PartitionStatus, dict[str, str]]:
    """Where a case or one beam of it stands, and the digests of what it has handed over."""
    reading = read_case(instance, site, key.root)
    _require_known(instance, key, reading.arrival)
    if key.parent is not None:
        if key.number not in reading.beams:
            raise KeyRejectedError(f"there is no beam {key.number} of this case", where=Where(case=key.root))
        status, wanted = (
            reading.beams[key.number],
            {asset: (asset, key.text) for asset in (DOSE, HANDED_OVER)},
        )
    else:
        status, wanted = reading.case, {CONCLUDED: (CONCLUDED, key.text)} if reading.beams else {}
        for number in reading.beams:
            beam = beam_key(key.text, number)
            wanted |= {f"{asset} of beam {number}": (asset, beam) for asset in (DOSE, HANDED_OVER)}
    return status, _digests(reading.events, wanted)


def _of_unit(
    instance: dg.DagsterInstance, site: Site, key: PartitionKey
) -> tuple[PartitionStatus, dict[str, str]]:
    """Where what is worked on whole stands, and the digests of all that was made of it."""
    pipeline = next(one for one in PIPELINES if one.units.kind is key.kind)
    events, arrival = EventLog(instance), site.ledger.arrivals.get(key.text)
    _require_known(instance, key, arrival)
    status = unit_status(
        pipeline.units.jobs,
        arrival,
        run_facts(instance, site.ledger, key.text),
        lambda: pipeline.concluded(events, key.text, (), arrival, Inventory),
        pipeline.command,
    )
    assets = [asset for job in pipeline.units.jobs for asset in job.assets]
    return status, _digests(events, {asset: (asset, key.text) for asset in assets})


def _digests(events: EventLog, wanted: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    made = {name: events.latest(*one) for name, one in wanted.items()}
    return {name: one.digest for name, one in made.items() if one is not None and one.digest is not None}


def review(
    instance: dg.DagsterInstance,
    site: Site,
    actor: Actor,
    partition: str,
    verdict: Verdict,
    reason: str,
    password: str,
    seen: str | None = None,
) -> Signature:
    """Accept or reject the results of a case, a beam or a course by a signature.

    The same said twice of the same results is one signature.

    Args:
        instance: Dagster's records.
        site: The site.
        actor: Whose signature it is: somebody with an account.
        partition: Key.
        verdict: What is said.
        reason: Why, in one line of at most 500 characters; needed to reject.
        password: That of the account, once more.
        seen: `Review.seen` of what the reviewer was shown; None: whatever stands now.

    Raises:
        InputError: Nothing can be signed, the results are others than those shown, or the reason is no line.
        SignInError: The password is wrong, or the account is locked or disabled.
        NotAllowedError: The actor does not have the right ``review``.
    """
    action = Action.ACCEPTED if verdict is Verdict.ACCEPTED else Action.REJECTED
    with audited(site, actor, Right.REVIEW, action, partition) as told, alone(site, "review"):
        account = require_account(site, actor.name)
        if account.disabled_at is not None:
            raise SignInError("this account is disabled: an admin enables it")
        if account.password is None:
            raise InputError("a signature needs a password, and this account has none: set one first")
        reason = reason.strip()
        if not _REASON.fullmatch(reason) or (verdict is Verdict.REJECTED and not reason):
            raise InputError("say why in one line of at most 500 characters")
        require_password(site, account, password)
        found = review_of(instance, site, partition)
        if found.why_not:
            raise InputError(found.why_not)
        if seen not in (None, found.seen):
            raise InputError("the results have changed since they were shown: look at them again")
        made, said = found.signature, (verdict, reason, account.name, found.digests)
        if made is None or (made.verdict, made.reason, made.user, made.digests) != said:
            made = site.ledger.signatures.add(
                partition, verdict, reason, account.name, account.full_name, found.digests
            )
        told |= {"signature": str(made.id), "of": found.seen}
    return made
