"""What can be done from a page, by whom, and what the audit says of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from starlette.testclient import TestClient

from mqi_dagster.errors import UnreachableError
from mqi_dagster.ledger.audit import Action, Outcome
from mqi_dagster.operations.asked import Asked, asked_of
from mqi_dagster.operations.graphql import GraphQL
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.operations.retry import retry
from mqi_dagster.people.rights import Role
from mqi_dagster.resources.gpu_pool import GpuPool
from mqi_dagster.web.access import Visitor
from mqi_dagster.web.pages import actions
from mqi_dagster.worklist import CaseState, Stage
from mqi_dagster.worklist.board_rows import AlarmStatus, CaseStatus
from tests.web.conftest import OWNER, PASSWORD, Browser
from tests.worklist.seeded import Seeded

FAILED, RUNNING = "P000000001.fx0001", "P000000003.fx0001"
Add = Callable[..., None]


class Services(GraphQL):
    """Services of a seeded site: what they are asked to run stands in the queue."""

    def __init__(self, seeded: Seeded) -> None:
        self.seeded = seeded
        self.launched: list[str] = []
        self.away = False

    def backfills(self) -> dict[str, list[str]]:
        if self.away:
            raise UnreachableError("nobody answers; start the services with `mqi dev`")
        return {}

    def reexecute_from_failure(self, run_id: str) -> str:
        self.seeded.now = datetime.now(UTC)
        self.launched.append(self.seeded.run("intake", FAILED, "QUEUED"))
        return self.launched[-1]

    def terminate(self, run_id: str, *, at_once: bool = False) -> None:
        run = self.seeded.instance.get_run_by_id(run_id)
        self.seeded.instance.report_run_canceled(run)


@pytest.fixture
def services(seeded: Seeded, monkeypatch: pytest.MonkeyPatch) -> Services:
    made = Services(seeded)
    monkeypatch.setattr(actions, "services_of", lambda site: made)
    return made


@pytest.fixture
def slot(seeded: Seeded) -> str:
    GpuPool(seeded.site).declare()
    return seeded.site.ledger.slots.all()[0].name


@pytest.fixture
def whole(seeded: Seeded) -> None:
    """Something for every action."""
    seeded.arrivals([RUNNING])
    seeded.partitions("case", [RUNNING])
    seeded.run("intake", RUNNING, "STARTED")
    seeded.site.ledger.alarms.raise_("case_failed", FAILED, "failed")
    seeded.site.ledger.database.clock = lambda: datetime.now(UTC)


REVIEW = {"verdict": "rejected", "reason": "no", "password": PASSWORD, "seen": "0" * 64}
ALL: dict[str, tuple[str, str, dict[str, str]]] = {
    "retry": (f"/case/{FAILED}/retry", FAILED, {}),
    "cancel": (f"/case/{RUNNING}/cancel", RUNNING, {}),
    "priority": (f"/case/{FAILED}/priority", FAILED, {"priority": "3"}),
    "retake": (f"/case/{FAILED}/retake", FAILED, {}),
    "rejected": (f"/case/{FAILED}/review", FAILED, REVIEW),
    "gpu_off": ("/gpu/{slot}/off", "{slot}", {"reason": "noisy"}),
    "gpu_on": ("/gpu/{slot}/on", "{slot}", {}),
    "alarm_dismissed": ("/alarms/1/dismiss", "1", {}),
}
ACTS = {"retry", "cancel", "priority", "retake"}
ALLOWED = {
    Role.VIEWER: set[str](),
    Role.PHYSICIST: ACTS | {"alarm_dismissed"},
    Role.APPROVER: ACTS | {"alarm_dismissed", "rejected"},
    Role.ENGINEER: ACTS | {"alarm_dismissed", "gpu_off", "gpu_on"},
    Role.ADMIN: set[str](),
    Role.SERVICE: ACTS,
}


@pytest.mark.usefixtures("services", "whole")
@pytest.mark.parametrize("role", Role)
def test_who_may_do_what_and_the_audit_has_it_either_way(
    role: Role, browser: Browser, account: Add, seeded: Seeded, slot: str
) -> None:
    account("anna", role)
    browser.sign_in("anna")
    csrf = browser.csrf()
    done = set()
    for name, (path, subject, fields) in ALL.items():
        answer = browser.client.post(path.format(slot=slot), data={"csrf": csrf, **fields})
        last, before = seeded.site.ledger.audit.newest(2)
        assert (last.actor, last.via, last.subject) == ("anna", "pages", subject.format(slot=slot))
        if answer.status_code == 403:
            refused = "review" if name == "rejected" else name
            assert (last.action.value, last.outcome) == (refused, Outcome.REFUSED)
            continue
        assert (before.action.value, before.outcome) == (name, Outcome.BEGUN)
        # There is nothing to take in again or to review: that is the end of it.
        ended = Outcome.FAILED if name in ("retake", "rejected") else Outcome.DONE
        assert (last.action.value, last.outcome) == (name, ended), answer.text
        assert (answer.status_code == 303) is (ended is Outcome.DONE)
        done.add(name)
    assert done == ALLOWED[role]
    assert seeded.site.ledger.audit.verify() is not None


@pytest.mark.usefixtures("whole")
def test_a_button_pressed_twice_launches_once_and_says_which_run(
    browser: Browser, account: Add, services: Services, seeded: Seeded
) -> None:
    account("anna", Role.PHYSICIST)
    browser.sign_in("anna")
    browser.post(f"/case/{FAILED}/retry")
    said = browser.post(f"/case/{FAILED}/retry", 409)
    (run,) = services.launched
    assert f"{FAILED} (run {run}) is still in work" in said
    assert browser.client.get("/?done=retry").text.count("What has failed runs again.") == 1
    assert 'id="done"' not in browser.get("/?done=<b>")
    assert 'id="done"' not in browser.get("/")


def test_two_clicks_at_one_moment_launch_once(services: Services, seeded: Seeded) -> None:
    def click(_: int) -> str:
        try:
            with open_instance(seeded.site.settings) as instance:
                return retry(instance, seeded.site, services, OWNER, [FAILED])[FAILED]
        except Exception as error:  # noqa: BLE001 - the other of the two
            return str(error)

    with ThreadPoolExecutor(2) as two:
        said = list(two.map(click, range(2)))
    assert len(services.launched) == 1
    assert services.launched[0] in said and sum("is still in work" in one for one in said) == 1


@pytest.mark.usefixtures("whole")
def test_while_the_services_are_away_nothing_is_done_and_it_says_so(
    browser: Browser, account: Add, services: Services, seeded: Seeded
) -> None:
    account("anna", Role.PHYSICIST)
    browser.sign_in("anna")
    services.away = True
    for name, key in (("retry", FAILED), ("cancel", RUNNING)):
        assert "nobody answers; start the services" in browser.post(f"/case/{key}/{name}", 503)
    assert "Dagster&#39;s daemon does not run" in browser.post(f"/case/{FAILED}/retake", 503)
    assert services.launched == []
    assert [row.outcome for row in seeded.site.ledger.audit.newest(5, actor="anna")][::2] == (
        [Outcome.FAILED] * 3
    )


@pytest.mark.parametrize(
    "path",
    [
        f"/course/{FAILED}/retry",
        "/case/RAAAAAAAAA.c01/retry",
        "/case/P1/retry",
        f"/case/{FAILED}__x/review",
        "/gpu/nowhere/gpu0",
    ],
)
def test_what_is_not_there_is_not_found(browser: Browser, account: Add, path: str) -> None:
    account("anna", Role.APPROVER, Role.ENGINEER)
    browser.sign_in("anna")
    if path.endswith("gpu0"):
        browser.get(path, 404)
    else:
        browser.post(path, 404, **REVIEW)


def test_a_form_that_is_no_form_of_ours_is_refused(
    browser: Browser, account: Add, services: Services
) -> None:
    account("anna", Role.PHYSICIST)
    browser.sign_in("anna")
    assert browser.client.post(f"/case/{FAILED}/retry", data={"csrf": "invented"}).status_code == 403
    assert services.launched == []
    browser.post(f"/case/{FAILED}/priority", 422, priority="1000")


def test_a_slot_is_taken_out_with_a_reason_and_put_back(
    browser: Browser, account: Add, seeded: Seeded, slot: str
) -> None:
    account("anna", Role.ENGINEER)
    browser.sign_in("anna")
    browser.post(f"/gpu/{slot}/off", 409, reason=" ")
    browser.post(f"/gpu/{slot}/off", reason="its fan is loud")
    (found,) = [one for one in seeded.site.ledger.slots.all() if one.name == slot]
    assert found.switched_off_reason == "its fan is loud"
    browser.post(f"/gpu/{slot}/on")
    assert all(one.usable for one in seeded.site.ledger.slots.all())


def test_what_ended_with_its_process_stands_in_the_audit_as_begun(seeded: Seeded) -> None:
    code = f"""
import os
from pathlib import Path
from mqi_dagster.ledger.audit import Action
from mqi_dagster.operations.audited import alone, audited
from mqi_dagster.people.rights import Actor, Right
from mqi_dagster.resources.site import Site
site = Site(Path({str(seeded.site.settings_file)!r}))
with audited(site, Actor.of_this_account(), Right.ACT, Action.RETRY, {FAILED!r}), alone(site, "retry"):
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 9
    (row,) = seeded.site.ledger.audit.newest(10)
    assert (row.action, row.outcome, row.actor) == (Action.RETRY, Outcome.BEGUN, OWNER.name)
    (asked,) = asked_of(seeded.site, FAILED)
    assert asked.outcome is Outcome.BEGUN
    services = Services(seeded)
    assert retry(seeded.instance, seeded.site, services, OWNER, [FAILED]) == {FAILED: services.launched[0]}


AT = datetime(2026, 3, 4, 8, 0, tzinfo=UTC)
RUN, OTHER = "12345678-1234-1234-1234-123456789012", "22345678-1234-1234-1234-123456789012"


@pytest.mark.parametrize(
    ("action", "identity", "run", "minutes", "standing"),
    [
        (Action.RETRY, RUN, OTHER, -1, "not begun yet"),
        (Action.RETRY, RUN, RUN, 1, "latest"),
        (Action.RETRY, RUN, OTHER, 1, "followed by another run"),
        (Action.RETRY, "abcdefgh", OTHER, -1, "not begun yet"),
        (Action.RETRY, "abcdefgh", OTHER, 1, "latest"),
        (Action.CANCEL, RUN, RUN, -1, "latest"),
        (Action.CANCEL, RUN, OTHER, 1, "followed by another run"),
    ],
)
def test_a_run_that_was_asked_for_is_followed(
    action: Action, identity: str, run: str, minutes: int, standing: str
) -> None:
    asked = Asked(action, "anna", AT, Outcome.DONE, {FAILED: identity}, FAILED)
    row = case_row(run=run, since=AT + timedelta(minutes=minutes))
    assert asked.runs == {FAILED: identity}
    assert asked.standing(identity, row).value == standing


def case_row(**changes: object) -> CaseStatus:
    row = CaseStatus(case=FAILED, fraction=1, arrived=AT, state=CaseState.FAILED, stage=Stage.FAILED)
    return row.model_copy(update=changes)


@pytest.fixture
def shown(client: TestClient) -> Iterator[Callable[..., str]]:
    """The part of a page with what a visitor of some rights may do."""
    pages = client.app.state.pages  # type: ignore[attr-defined]

    def show(*rights: str, template: str = "_actions.html", **values: object) -> str:
        visitor = Visitor(replace(OWNER, rights=frozenset(rights)))
        return str(pages.part(template, visitor, **{"partition": FAILED, "row": case_row(), **values}))

    yield show


def test_only_what_a_visitor_may_press_is_there(shown: Callable[..., str]) -> None:
    assert "<button" not in shown("look")
    page = shown("act")
    assert f'action="/case/{FAILED}/retry"' in page and f'action="/case/{FAILED}/retake"' in page
    assert "cancel" not in page, "nothing runs"
    at_work = shown("act", row=case_row(state=CaseState.IN_WORK, stage=Stage.INTAKE))
    assert f'action="/case/{FAILED}/cancel"' in at_work and "retake" not in at_work
    course = case_row(case="RAAAAAAAAA.c01", fraction=None)
    assert 'action="/course/RAAAAAAAAA.c01/retry"' in shown("act", partition=course.case, row=course)


def test_what_was_asked_for_is_told_with_its_run(
    browser: Browser, account: Add, services: Services, seeded: Seeded, shown: Callable[..., str]
) -> None:
    account("anna", Role.PHYSICIST)
    browser.sign_in("anna")
    browser.post(f"/case/{FAILED}/retry")
    (run,) = services.launched
    page = shown("look", row=case_row(run=run, since=datetime.now(UTC), stage=Stage.QUEUED))
    assert "retry, asked for by anna" in page
    assert run[:8] in page and ": queued" in page
    assert "not begun yet" in shown("look", row=case_row(run="before", since=AT))


def test_alarms_are_dismissed_by_their_number(
    browser: Browser, account: Add, seeded: Seeded, shown: Callable[..., str]
) -> None:
    class Numbered(AlarmStatus):
        id: int | None

    alarm = seeded.site.ledger.alarms.raise_("gpu_lost", "here", "it is not seen")
    row = Numbered(id=alarm.id, kind="gpu_lost", subject="here", text="it is not seen", since=None)
    assert f'action="/alarms/{alarm.id}/dismiss"' in shown(
        "alarms", template="_alarm_actions.html", alarm=row
    )
    assert "<form" not in shown("look", template="_alarm_actions.html", alarm=row)
    account("anna", Role.PHYSICIST)
    browser.sign_in("anna")
    browser.post(f"/alarms/{alarm.id}/dismiss")
    assert seeded.site.ledger.alarms.open() == []
    browser.post(f"/alarms/{alarm.id}/dismiss", 409)
    last = seeded.site.ledger.audit.newest(3)[-1]
    assert (last.action, json.loads(last.details)["about"]) == (Action.ALARM_DISMISSED, "here")
