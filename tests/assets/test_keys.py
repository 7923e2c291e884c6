"""Case and beam keys."""

from __future__ import annotations

import pytest

from mqi_dagster.errors import KeyRejectedError
from mqi_dagster.partitions import BEAM, CASE, beam_key, case_key, find_key, parts_of, root_of


def test_keys_are_built_and_taken_apart() -> None:
    case = case_key("PABCDEFGHI", 12)
    assert case == "PABCDEFGHI.fx0012"
    assert beam_key(case, 3) == "PABCDEFGHI.fx0012__b03"
    key = CASE.key(case)
    assert (key.kind, key.stem, key.number, key.root, key.parent) == (CASE, "PABCDEFGHI", 12, case, None)
    key = BEAM.key("PABCDEFGHI.fx0012__b103")
    assert (key.kind, key.stem, key.number, key.root) == (BEAM, case, 103, case)
    assert key.parent == CASE.key(case)


def test_a_key_tells_its_kind_and_what_is_none_has_no_kind() -> None:
    kinds = {text: find_key(text) for text in ("P.fx0001", "P.fx0001__b02", "P.fx0001__zz", "S1.model")}
    assert [key and key.kind.name for key in kinds.values()] == ["case", "beam", None, None]


def test_also_what_somebody_has_invented_below_a_case_belongs_to_it() -> None:
    assert [root_of(text) for text in ("P.fx0001", "P.fx0001__b02", "P.fx0001__zz__1")] == ["P.fx0001"] * 3
    texts = ["P.fx0001", "P.fx0001__b02", "P.fx0001__zz", "P.fx00012__b02", "P.fx0002__b02"]
    assert parts_of("P.fx0001", texts) == ["P.fx0001__b02", "P.fx0001__zz"]


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
    with pytest.raises(KeyRejectedError, match="no beam key"):
        BEAM.key(key)
    assert not BEAM.has(key)


@pytest.mark.parametrize(
    "key", ["P.fx0001\n", "P.fx1", "P.fx00001", "P.fx\u0660\u0660\u0660\u0661", "P.fx0001__b02"]
)
def test_what_is_no_case_key_is_refused_in_one_readable_line(key: str) -> None:
    with pytest.raises(KeyRejectedError, match="no case key") as found:
        CASE.key(key)
    assert str(found.value).isprintable() and str(found.value).isascii()
    assert not CASE.has(key)
