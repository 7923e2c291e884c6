"""Case and beam keys."""

from __future__ import annotations

import pytest

from mqi_dagster.partitions import beam_key, case_key, is_case_key, split_beam_key, split_case_key


def test_keys_are_built_and_taken_apart() -> None:
    case = case_key("PABCDEFGHI", 12)
    assert case == "PABCDEFGHI.fx0012"
    assert beam_key(case, 3) == "PABCDEFGHI.fx0012__b03"
    assert split_case_key(case) == ("PABCDEFGHI", 12)
    assert split_beam_key("PABCDEFGHI.fx0012__b103") == (case, 103)


@pytest.mark.parametrize("plan", ["a__b", "a b", "a/b", "", "a\n", ".a", "a..b", "a" * 250])
def test_a_plan_name_that_is_no_safe_path_is_refused(plan: str) -> None:
    with pytest.raises(ValueError, match="case key"):
        case_key(plan, 1)


@pytest.mark.parametrize(
    "key",
    [
        "P.fx0001",
        "P.fx0001__b1",
        "P.fx0001__03",
        "P__Q.fx0001__b02",
        "../x__b02",
        "P.fx0001__b02\n",
        "P.fx0001__b02 ",
        "P\n.fx0001__b02",
        "P.fx0001\n__b02",
        "P.fx0001__b002",
        "P.fx00001__b02",
        "P.fx0001__b\u0660\u0662",
        "P.fx\u0660\u0660\u0660\u0661__b02",
        "P__b02",
    ],
)
def test_what_is_no_beam_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="no beam key"):
        split_beam_key(key)


@pytest.mark.parametrize(
    "key", ["P.fx0001\n", "P.fx1", "P.fx00001", "P.fx\u0660\u0660\u0660\u0661", "P.fx0001__b02"]
)
def test_what_is_no_case_key_is_refused_in_one_readable_line(key: str) -> None:
    with pytest.raises(ValueError, match="no case key") as found:
        split_case_key(key)
    assert str(found.value).isprintable() and str(found.value).isascii()
    assert not is_case_key(key)
