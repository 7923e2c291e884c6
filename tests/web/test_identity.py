"""Whose a case is: shown to whom may see it, once in the audit, and to nobody else."""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, datetime, timedelta

import pytest

from mqi_dagster.ledger.audit import Action
from mqi_dagster.operations import identity
from mqi_dagster.operations.identity import Identity, identity_of
from mqi_dagster.people.rights import Actor, Role, rights_of
from tests.chain.chain import ONE_BEAM, Chain

ANNA = Actor("anna", rights_of([Role.PHYSICIST]), "pages")
VERA = Actor("vera", rights_of([Role.VIEWER]), "pages")


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A site with a case that was taken in, and one that was refused."""
    chain = Chain(tmp_path_factory.mktemp("taken"))
    chain.deliver(
        plan=ONE_BEAM, patient_id="4711", patient_name="Roe^Jane^^Dr", patient_birth_date="19700131"
    )
    chain.deliver(
        "truncated:beam=2,layer=2", plan=ONE_BEAM, seed=2, patient_id="4712", patient_name="Doe^John"
    )
    chain.tick("case_arrivals")
    return chain


def _by_outcome(chain: Chain) -> tuple[str, str]:
    taken, refused = sorted(chain.runs, key=lambda run: not run[2].success)
    assert (taken[2].success, refused[2].success) == (True, False)
    return taken[1], refused[1]


def _told(chain: Chain, case: str) -> list[tuple[str, Action]]:
    return [(row.actor, row.action) for row in chain.site.ledger.audit.newest(50, subject=case)]


def test_whoever_may_is_shown_whose_it_is_and_the_audit_says_so_once_an_hour(
    taken: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, _ = _by_outcome(taken)
    jane = Identity("Roe, Jane", "4711", "1970-01-31", "O", "SYNTHETIC", "2026-01-01")
    for key in (case, f"{case}__b01", case):
        assert identity_of(taken.site, taken.instance, ANNA, key) == jane
    assert _told(taken, case) == [("anna", Action.IDENTITY_READ)]
    monkeypatch.setattr(
        taken.site.ledger.database, "clock", lambda: datetime.now(UTC) + timedelta(minutes=61)
    )
    assert identity_of(taken.site, taken.instance, ANNA, case) == jane
    assert len(_told(taken, case)) == 2


def test_whoever_may_not_is_shown_nothing(taken: Chain) -> None:
    case, _ = _by_outcome(taken)
    before = _told(taken, case)
    assert identity_of(taken.site, taken.instance, VERA, case) is None
    assert _told(taken, case) == before


def test_a_case_that_was_refused_has_a_patient_too(taken: Chain) -> None:
    found = identity_of(taken.site, taken.instance, ANNA, _by_outcome(taken)[1])
    assert found is not None
    assert (found.name, found.patient_id) == ("Doe, John", "4712")


def test_another_file_in_place_of_the_plan_is_not_believed(
    taken: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, _ = _by_outcome(taken)
    monkeypatch.setattr(identity, "_known", OrderedDict())
    plan = next(path for path in taken.inbox.rglob("*.dcm") if b"4711" in path.read_bytes())
    content = plan.read_bytes()
    plan.write_bytes(content.replace(b"4711", b"4713"))
    try:
        assert identity_of(taken.site, taken.instance, ANNA, case) is None
    finally:
        plan.write_bytes(content)


@pytest.mark.parametrize("key", ["P000000009.fx0001", "../../etc/passwd", "R234567ABC.c01", ""])
def test_a_key_of_nothing_is_nobodys(taken: Chain, key: str) -> None:
    assert identity_of(taken.site, taken.instance, ANNA, key) is None


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("Hong^Gildong=洪^吉洞=홍^길동", "Hong, Gildong (洪 吉洞, 홍 길동)"),
        ("=洪^吉洞", "洪 吉洞"),
        ("Roe", "Roe"),
        ("", ""),
        ("A\x1b[31m^B", "A\\x1b[31m, B"),
    ],
)
def test_a_name_is_shown_in_the_scripts_that_it_is_written_in(written: str, shown: str) -> None:
    assert identity._name_of(written) == shown
