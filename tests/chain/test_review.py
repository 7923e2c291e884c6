"""Results are accepted or rejected by signatures of exactly these results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mqi_dagster.errors import InputError, KeyRejectedError, MqiError, NotAllowedError, SignInError
from mqi_dagster.ledger.signatures import Verdict
from mqi_dagster.operations.people import actor_of, add_user, change_user
from mqi_dagster.operations.review import Review, review, review_of
from mqi_dagster.people.rights import Actor, Role
from tests.chain.chain import ONE_BEAM, Chain
from tests.chain.course_site import CourseSite

OWNER = Actor.of_this_account()
PASSWORD = "correct horse battery"


def account(chain: Chain | CourseSite, name: str, *roles: Role, password: str | None = PASSWORD) -> Actor:
    return actor_of(add_user(chain.site, OWNER, name, roles, full_name="Dr. K", password=password), "pages")


def look(chain: Chain | CourseSite, partition: str) -> Review:
    return review_of(chain.instance, chain.site, partition)


def sign(
    chain: Chain | CourseSite,
    actor: Actor,
    partition: str,
    verdict: Verdict = Verdict.ACCEPTED,
    reason: str = "",
    password: str = PASSWORD,
    seen: str | None = None,
) -> None:
    review(chain.instance, chain.site, actor, partition, verdict, reason, password, seen)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Chain, str]]:
    """A site with one concluded case of one beam, which nobody changes."""
    chain = Chain(tmp_path_factory.mktemp("reviewed") / "site")
    chain.deliver(plan=ONE_BEAM)
    chain.tick_sensors(rounds=2)
    yield chain, chain.runs_of("conclusion")[0]
    chain.site.ledger.close()


def test_a_signature_says_who_has_accepted_which_results_and_when(made: tuple[Chain, str]) -> None:
    chain, case = made
    approver = account(chain, "kim", Role.APPROVER)
    shown = look(chain, case)
    assert (shown.state.value, shown.why_not, shown.signature) == ("not reviewed", "", None)
    assert shown.digests == {
        "rt_dose of beam 2": chain.digest("rt_dose", f"{case}__b02"),
        "handed_over of beam 2": chain.digest("handed_over", f"{case}__b02"),
        "case_handed_over": chain.digest("case_handed_over", case),
    }
    sign(chain, approver, case, reason="gamma 99.1 %", seen=shown.seen)
    sign(chain, approver, case, reason=" gamma 99.1 % ", seen=shown.seen)
    (only,) = look(chain, case).history
    assert (only.user, only.full_name, only.verdict.value, only.reason) == (
        *("kim", "Dr. K", "accepted", "gamma 99.1 %"),
    )
    assert look(chain, case).state.value == "accepted"
    sign(chain, approver, case, Verdict.REJECTED, "wrong gantry")
    assert [one.verdict.value for one in look(chain, case).history] == ["rejected", "accepted"]
    assert look(chain, case).state.value == "rejected"
    beam = f"{case}__b02"
    assert (look(chain, beam).state.value, list(look(chain, beam).digests)) == (
        *("not reviewed", ["rt_dose", "handed_over"]),
    )
    last = chain.site.ledger.audit.newest(1, subject=case)[0]
    assert (last.actor, last.action.value, last.outcome.value) == ("kim", "rejected", "done")


def test_what_is_no_signature_is_refused_and_told(made: tuple[Chain, str]) -> None:
    chain, case = made
    approver = account(chain, "lee", Role.APPROVER)

    def refused(
        kind: type[MqiError], words: str, actor: Actor = approver, key: str = case, **said: str
    ) -> None:
        before = len(look(chain, case).history)
        with pytest.raises(kind, match=words):
            review(
                chain.instance,
                chain.site,
                actor,
                key,
                Verdict(said.get("verdict", "accepted")),
                said.get("reason", ""),
                said.get("password", PASSWORD),
                said.get("seen"),
            )
        assert len(look(chain, case).history) == before

    refused(NotAllowedError, "needs the right 'review'", account(chain, "park", Role.PHYSICIST))
    refused(InputError, "there is no account 'os:", OWNER)
    refused(InputError, "set one first", account(chain, "choi", Role.APPROVER, password=None))
    refused(SignInError, "name or password is wrong", password="a wrong password")
    refused(InputError, "say why", verdict="rejected", reason="  ")
    refused(InputError, "say why", reason="one\ntwo")
    refused(InputError, "say why", reason="x" * 501)
    refused(InputError, "have changed since they were shown", seen="0" * 64)
    refused(KeyRejectedError, "no key of", key="invented")
    refused(KeyRejectedError, "there is no beam 9", key=f"{case}__b09")
    refused(KeyRejectedError, "not known here", key="P000000000.fx0001")
    change_user(chain.site, OWNER, "lee", disabled=True)
    refused(SignInError, "disabled")
    rows = chain.site.ledger.audit.newest(100)
    assert [row.outcome.value for row in rows if row.actor == "park"] == ["refused"]
    wrong = [row for row in rows if row.actor == "lee" and "password is wrong" in row.details]
    assert [(row.action.value, row.outcome.value) for row in wrong] == [("accepted", "failed")]


def test_a_signature_is_void_once_the_dose_is_another_and_counts_again_where_it_is_the_same(
    tmp_path: Path,
) -> None:
    chain = Chain(tmp_path / "site")
    approver = account(chain, "kim", Role.APPROVER)
    chain.deliver(plan=ONE_BEAM)
    chain.tick_sensors(rounds=2)
    (case,) = chain.runs_of("conclusion")
    beam = f"{case}__b02"
    sign(chain, approver, case)
    sign(chain, approver, beam)
    shown = look(chain, case).seen
    chain.change({"engine": {"seed": 7}})
    chain.run("beam", beam)
    chain.conclude(case)
    assert look(chain, beam).state.value == "void"
    assert look(chain, beam).changed == ("handed_over", "rt_dose")
    assert look(chain, case).state.value == "void"
    assert look(chain, case).changed == ("case_handed_over", "handed_over of beam 2", "rt_dose of beam 2")
    with pytest.raises(InputError, match="have changed since they were shown"):
        sign(chain, approver, case, seen=shown)
    chain.change({"engine": {"seed": -1932780356}})
    chain.run("beam", beam)
    assert look(chain, beam).state.value == "accepted", "it is the very dose that was signed"


@pytest.mark.slow
def test_a_course_is_signed_with_everything_that_was_made_of_it(tmp_path: Path) -> None:
    site = CourseSite(tmp_path)
    site.write(1)
    (request,) = site.tick()
    site.tick()
    course = str(request.partition_key)
    approver = account(site, "kim", Role.APPROVER)
    assert {"course_inventory", "dvh", "course_report"} <= look(site, course).digests.keys()
    sign(site, approver, course)
    assert look(site, course).state.value == "accepted"
    second = site.course(1)
    second.write(second.plan(2, dose_gy=10.0))
    site.tick()
    assert look(site, course).state.value == "void"
    assert "course_inventory" in look(site, course).changed
