"""What a program reads: rows, filters, pages, and what it has already."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import pytest

from mqi_dagster.people.rights import Right, Role
from mqi_dagster.web.live import Live
from tests.waiting import wait_for
from tests.web.conftest import Browser
from tests.web.programs import Program
from tests.worklist.seeded import Seeded

Programs = Callable[..., Program]
FAILED, WAITING = "P000000001.fx0001", "P000000002.fx0001"
MANY = [f"P1{number:08d}.fx0001" for number in range(25)]


def keys(page: Any) -> list[str]:
    return [row["case"] for row in page["items"]]


def see(program: Program, seeded: Seeded) -> None:
    """Many cases that wait."""
    seeded.arrivals(MANY, asked=False)
    wait_for(lambda: program.get("cases?limit=1")["total"] == 27, "the arrivals are seen")


def test_a_program_sees_what_the_board_of_the_terminal_shows(program: Programs) -> None:
    viewer = program(Role.VIEWER)
    page = viewer.get("cases")
    assert keys(page) == [FAILED, WAITING]
    assert (page["total"], page["next"], page["trouble"]) == (2, None, "")
    case = viewer.get(f"cases/{FAILED}")
    assert (case["state"], case["stage"], case["reason"]) == (
        "failed", "failed", "delivery 1 is <b>not</b> whole",
    )  # fmt: skip
    work = viewer.get("work")
    assert work["cases"] == page["items"]
    assert (viewer.get("queue"), viewer.get("gpus"), viewer.get("alarms")) == (
        work["queue"], work["gpus"], work["alarms"],
    )  # fmt: skip
    assert viewer.get("courses")["items"] == []
    assert viewer.get(f"cases/{FAILED}/beams")["items"] == []
    assert viewer.get(f"cases/{FAILED}/results") == []
    assert viewer.get("me") == {
        "name": "viewer", "full_name": "viewer", "via": f"token:{viewer.id}", "rights": ["look"],
    }  # fmt: skip


def test_a_browser_that_is_signed_in_reads_the_same(browser: Browser, account: Callable[..., None]) -> None:
    account("anna", Role.VIEWER)
    browser.sign_in("anna")
    assert browser.client.get("/api/v1/me").json()["via"] == "pages"
    answer = browser.client.post(f"/api/v1/cases/{FAILED}/retry", headers={"x-csrf-token": "invented"})
    assert answer.status_code == 403


def test_lists_are_filtered_and_ordered(program: Programs) -> None:
    wanted = {
        "state=failed": [FAILED],
        "state=waiting&state=failed": [FAILED, WAITING],
        "stage=inbox": [WAITING],
        "q=p000000002": [WAITING],
        "q=NOT%3C/b%3E": [FAILED],
        "q=nowhere": [],
        "machine=G1": [],
        "sort=key&order=desc": [WAITING, FAILED],
        "sort=priority": [FAILED, WAITING],
        "sort=percent&order=desc": [WAITING, FAILED],
    }
    viewer = program(Role.VIEWER)
    pages = {question: viewer.get(f"cases?{question}") for question in wanted}
    assert {question: keys(page) for question, page in pages.items()} == wanted
    assert [page["total"] for page in pages.values()] == [len(one) for one in wanted.values()]


def test_pages_hold_every_row_once(program: Programs, seeded: Seeded) -> None:
    viewer = program(Role.VIEWER)
    see(viewer, seeded)
    for order in ("sort=key", "sort=key&order=desc", "sort=board", "sort=since&order=desc"):
        whole, found, sizes = keys(viewer.get(f"cases?{order}")), list[str](), list[int]()
        path = f"/api/v1/cases?{order}&limit=10"
        while path:
            answer = viewer.ask("GET", path)
            page = answer.json()
            found += keys(page)
            sizes.append(len(page["items"]))
            link = answer.headers.get("link")
            assert (link is None) == (page["next"] is None)
            path = link.partition(">")[0].removeprefix("<") if link else ""
        assert (found, sizes) == (whole, [10, 10, 7])


def test_the_next_page_begins_behind_the_last_row_also_where_that_is_gone(
    program: Programs, seeded: Seeded
) -> None:
    viewer = program(Role.VIEWER)
    see(viewer, seeded)
    first = viewer.get("cases?sort=key&limit=3&state=waiting")
    assert keys(first) == [WAITING, MANY[0], MANY[1]]
    # The last one is not among what waits any more.
    seeded.run("intake", MANY[1], "STARTED")
    wait_for(lambda: viewer.get(f"cases/{MANY[1]}")["state"] == "in work", "it is in work")
    second = viewer.get(f"cases?sort=key&limit=2&state=waiting&cursor={first['next']}")
    assert keys(second) == [MANY[2], MANY[3]]


def test_a_question_that_makes_no_sense_is_refused(program: Programs) -> None:
    viewer = program(Role.VIEWER)
    cursors = ("abc", "W10", "WyJib2FyZCBhc2MiLCAieCJd", "bnVsbA", "!", "W1tbW1tb" * 90)
    asked = ["limit=0", "limit=501", "state=gone", "sort=name", "colour=red", "q=" + "x" * 201]
    for question in [*asked, *(f"cursor={one}" for one in cursors)]:
        problem = viewer.get(f"cases?{question}", 422)
        assert (problem["status"], problem["title"]) == (422, "Unprocessable Entity")


def test_a_cursor_of_another_order_is_refused(program: Programs) -> None:
    viewer = program(Role.VIEWER)
    following = viewer.get("cases?limit=1")["next"]
    assert (
        "begin at the first page" in viewer.get(f"cases?limit=1&sort=key&cursor={following}", 422)["detail"]
    )


def test_what_nobody_knows_is_not_found(program: Programs) -> None:
    viewer = program(Role.VIEWER)
    for path in (
        *("cases/P9.fx0001", "beams/P9.fx0001__b01", "courses/R2222222222.c01", f"beams/{FAILED}"),
        *(f"courses/{FAILED}", "cases/%00%1b[2J", "cases/..%2f..%2fetc%2fpasswd", "cases/P9.fx0001/results"),
    ):
        problem = viewer.get(path, 404)
        assert problem["status"] == 404
        assert "passwd" not in str(problem) and "\x1b" not in str(problem)


def test_what_a_program_has_already_is_not_sent_again(program: Programs, seeded: Seeded) -> None:
    viewer = program(Role.VIEWER)
    answer = viewer.ask("GET", "cases")
    tag = answer.headers["etag"]
    assert answer.headers["cache-control"] == "private, no-cache"
    for known in (tag, f'"other", {tag}', "*"):
        same = viewer.ask("GET", "cases", headers={"if-none-match": known})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    seeded.arrivals(MANY[:1], asked=False)
    known = {"if-none-match": tag}
    wait_for(lambda: viewer.ask("GET", "cases", headers=known).status_code == 200, "the arrival is seen")
    assert viewer.ask("GET", "cases").headers["etag"] != tag


def test_the_audit_is_read_in_pages_and_says_that_it_was(program: Programs) -> None:
    admin = program(Role.ADMIN)
    first = admin.get("audit?limit=2")
    numbers = [row["number"] for row in first["items"]]
    assert first["items"][0]["action"] == "audit_read"
    second = admin.get(f"audit?limit=2&cursor={first['next']}")
    assert [row["number"] for row in second["items"]] == [numbers[-1] - 1, numbers[-1] - 2]
    assert [row["action"] for row in admin.get("audit?actor=admin")["items"]] == ["audit_read"]
    huge = urlsafe_b64encode(b'["audit", 99999999999999999999]').decode()
    assert admin.get("audit?action=signed_in&first=2026-01-01&last=9998-12-31")["items"] == []
    for question in ("action=slept", "first=yesterday", "last=9999-12-31", "first=0001-01-01"):
        assert admin.get(f"audit?{question}", 422)["status"] == 422
    for question in ("cursor=WyJhdWRpdCIsICJ4Il0", f"cursor={huge}", "subject=%00", "actor=%0a"):
        assert admin.get(f"audit?{question}", 422)["status"] == 422
    assert program(Role.PHYSICIST).get("audit", 403)["type"] == "urn:mqi:error:not-allowed"


def test_boards_that_were_never_read_are_said_to_be_away(
    program: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = program(Role.VIEWER)
    viewer.get("cases")
    live: Live = viewer.client.app.state.live  # type: ignore[attr-defined]
    seen = live.seen
    monkeypatch.setattr(type(live), "_publish", lambda *_, **__: None)
    live.seen = type(seen)(seen.version, None, "the ledger's database failed: away")
    answer = viewer.ask("GET", "cases")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["detail"] == "the ledger's database failed: away"
    live.seen = type(seen)(seen.version, seen.work, "the ledger's database failed: away")
    page = viewer.get("cases")
    assert (keys(page), page["trouble"]) == ([FAILED, WAITING], "the ledger's database failed: away")


def test_the_description_names_every_right_and_every_problem(program: Programs) -> None:
    told = program(Role.VIEWER).get("openapi.json")
    assert told["openapi"].startswith("3.1")
    assert told["security"] == [{"token": []}]
    assert "Needs the right `audit`." in told["paths"]["/api/v1/audit"]["get"]["description"]
    assert "For everybody who is signed in." in told["paths"]["/api/v1/me"]["get"]["description"]
    for path in told["paths"].values():
        for operation in path.values():
            assert operation["description"] and operation["operationId"]
            assert "application/problem+json" in operation["responses"]["default"]["content"]
    assert Right.LOOK.value in str(told)
