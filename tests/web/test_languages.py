"""Korean and English: no text is missing in either, and a Korean page has no English but names and causes."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po

from mqi_dagster.languages import CATALOGUES
from mqi_dagster.languages.messages import MESSAGES, message
from mqi_dagster.people.rights import Role
from mqi_dagster.settings.web import Language
from mqi_dagster.web import words
from mqi_dagster.worklist import Stage
from tests.web.conftest import Browser
from tests.web.texts import Text, blanked, said_by_the_code, texts
from tests.worklist.seeded import Seeded

HANGUL = re.compile("[가-힣]")
PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|%%|\{\w+\}|`[^`]*`")
AS_IN_ENGLISH = {"CT", "DICOMDIR", "Gy", "by %(name)s (%(login)s)", " at {time} UTC"}
NAMES = re.compile(
    r"P00000000\d\.fx0001|127\.0\.0\.1|Asia/Seoul|\bUTC\b|[a-z_]+\.[a-z_]+\b|English|SHA-256|[a-z_]+sensor"
)
"""Keys, names and settings, which are the same in every language."""
TERMS = {
    *("ID", "CSV", "JSON", "Lines", "MeV", "GPU", "GB", "GiB", "MU", "mm", "KST", "RT", "DICOM", "CT", "HU"),
    *("Dagster", "Enter", "Esc", "mqi", "Mqi", "anna", "daemon", "local"),
}


@pytest.fixture(scope="module")
def catalogue() -> Catalog:
    with (CATALOGUES / "ko.po").open("rb") as stream:
        return read_po(stream, locale="ko")


def forms(text: Text) -> str:
    """The form of a text that has every value."""
    return text if isinstance(text, str) else text[1]


def test_every_text_of_the_pages_and_mails_is_in_korean_with_the_same_values(catalogue: Catalog) -> None:
    there = {one.id: one for one in catalogue if one.id}
    missing, unused = texts() - set(there), set(there) - texts()
    assert not missing, "without a Korean text in mqi_dagster/languages/ko.po: " + repr(
        sorted(map(forms, missing))
    )
    assert not unused, "said nowhere: " + repr(sorted(map(forms, unused)))
    for text, one in there.items():
        said = one.string if isinstance(one.string, str) else one.string[0]
        assert not one.fuzzy and said, text
        assert HANGUL.search(said) or forms(text) in AS_IN_ENGLISH, text
        assert sorted(PLACEHOLDER.findall(said)) == sorted(PLACEHOLDER.findall(forms(text))), text
        assert text == " at {time} UTC" or said == said.strip(), text


def test_every_message_that_is_translated_is_one_that_the_code_says() -> None:
    said = said_by_the_code()
    assert [one for one in MESSAGES if blanked(one) not in said] == []


def test_a_message_made_of_values_is_known_by_its_form() -> None:
    korean = {
        "too many failed tries from this address: wait 12 s": (
            "이 주소에서 실패한 시도가 너무 많습니다: 12초 기다리십시오"
        ),
        "the course is not known here": "여기에 없는 코스입니다",
        "goes on by itself at 2026-01-05 01:10:00 UTC: the run was interrupted: its service was stopped": (
            "자동으로 계속됩니다 (2026-01-05 01:10:00 UTC): 실행이 중단되었습니다: 서비스가 멈췄습니다"
        ),
        "the engine ended with exit code 3": "the engine ended with exit code 3",
        "": "",
    }
    assert {text: message(text, Language.KOREAN) for text in korean} == korean
    assert all(message(text, Language.ENGLISH) == text for text in korean)


@pytest.mark.parametrize(
    ("language", "said"),
    [
        (
            Language.ENGLISH,
            ["Mon 5 Jan 10:10", "42 s", "2 h 05 min", "1 d 1 h", "1 browsers", "making the RT Dose"],
        ),
        (
            Language.KOREAN,
            ["1월 5일 (월) 10:10", "42초", "2시간 05분", "1일 1시간", "브라우저 1개", "RT Dose 만드는 중"],
        ),
    ],
)
def test_moments_durations_and_numbers_are_of_the_language(language: Language, said: list[str]) -> None:
    before = words.LANGUAGE.set(language)
    try:
        many = words.ngettext("{count} browser was signed out.", "{count} browsers were signed out.", 2)
        assert words.moment(datetime(2026, 1, 5, 1, 10, tzinfo=UTC), ZoneInfo("Asia/Seoul")) == said[0]
        assert [words.duration(seconds) for seconds in (42, 7500, 90000)] == said[1:4]
        assert many.format(count=1).startswith(said[4])
        assert words.word(Stage.MAKING_RT_DOSE) == said[5]
        assert words.number(1234.5, 5) == "1,234.5"
        assert [words.number(value) for value in (0.00123, 0.0125, 45.678, 12345.6, 0.0, None)] == [
            "0.00123", "0.0125", "45.7", "12,346", "0", "–"
        ]  # fmt: skip
        assert words.number(float("nan")) == "–"
        assert words.duration(59.7).startswith("59")
    finally:
        words.LANGUAGE.reset(before)


def shown(page: str) -> str:
    """What a reader sees and hears of a page: its text, and the attributes that are read out."""
    body = re.sub(r"<(script|style|code|kbd)\b.*?</\1>", " ", page, flags=re.DOTALL)
    heard = re.findall(r'\b(?:aria-label|title|placeholder|alt|data-name)="([^"]*)"', body)
    return html.unescape(" ".join([re.sub(r"<[^>]*>", " ", body), *heard]))


def english(page: str) -> set[str]:
    """The English words that are left on a page, but for names."""
    return set(re.findall(r"[A-Za-z]{2,}", NAMES.sub(" ", shown(page)))) - TERMS


def test_a_browser_that_asks_for_korean_gets_pages_without_english(
    browser: Browser, account: Callable[..., None], seeded: Seeded
) -> None:
    browser.client.headers["accept-language"] = "ko-KR,ko;q=0.9,en;q=0.8"
    seen = english(browser.get("/login"))
    names = set(seeded.site.settings.site.name.split())
    assert seen == names
    refused = browser.client.post("/login", data={"name": "anna", "password": "wrong"})
    assert "이름이나 비밀번호가 틀립니다" in refused.text
    account("anna", *Role)
    browser.sign_in("anna")
    cause = {"delivery", "is", "not", "whole", "it", "grows", "still"}
    """First causes stay as they are."""
    for path in ("/", "/board", "/case/P000000001.fx0001", "/case/P000000001.fx0001/review", "/account",
                 "/people", "/people/anna", "/audit"):  # fmt: skip
        page = browser.get(path)
        # What was written down when it was done stands there as it was.
        page = re.sub(r'<td data-name="(?:대상|사용자|기타)".*?</td>', "", page, flags=re.DOTALL)
        assert '<html lang="ko">' in page
        assert english(page) - cause == names, path
    assert "실패" in browser.get("/") and "수신함의 파일을 바로잡으십시오" in browser.get("/")
    assert english(browser.get("/case/P000000009.fx0001", 404)) == names


def test_the_language_that_an_account_has_chosen_goes_before_the_browsers(
    browser: Browser, account: Callable[..., None]
) -> None:
    browser.client.headers["accept-language"] = "en"
    account("anna", Role.VIEWER)
    browser.sign_in("anna")
    assert "Worklist" in browser.get("/") and not HANGUL.search(browser.get("/"))
    browser.post("/account/language", language="ko")
    assert "작업 목록" in browser.get("/")
    browser.client.cookies.clear()
    browser.sign_in("anna")
    assert "작업 목록" in browser.get("/"), "another browser of the same account speaks it, too"
    browser.post("/account/language", language="")
    assert "Worklist" in browser.get("/")
