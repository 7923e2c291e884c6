"""Deliveries become fractions by the machine's own times, beams and layers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mqi_dagster.delivery.fractions import (
    Fraction,
    group_fractions,
    overlap_errors,
    read_deliveries,
    read_delivery_header,
)
from tests.delivery.delivery_cases import HOUR, SEOUL, delivery_folder, small_plan

PLAN = small_plan()


def grouped(parent: Path, zone: ZoneInfo = SEOUL, window: timedelta = HOUR) -> list[Fraction]:
    headers, broken = read_deliveries(sorted(parent.iterdir()), zone, window)
    return group_fractions(headers, PLAN, window, broken)


def beams_of(fractions: list[Fraction]) -> list[list[int]]:
    return [[header.info.beam_number for header in fraction.deliveries] for fraction in fractions]


def test_all_beams_within_the_window_are_one_complete_fraction_in_time_order(tmp_path: Path) -> None:
    delivery_folder(tmp_path, "a", 3, "2026010510300000")
    delivery_folder(tmp_path, "b", 2, "2026010511000000")
    delivery_folder(tmp_path, "c", 4, "2026010510000000")
    (fraction,) = grouped(tmp_path)
    assert beams_of([fraction]) == [[4, 3, 2]]
    assert fraction.complete
    assert fraction.missing_beams == ()
    assert fraction.deliveries[0].irradiated_at == datetime(2026, 1, 5, 1, 0, tzinfo=UTC)
    assert [folder.name for folder in fraction.folders] == ["c", "a", "b"]
    assert fraction.number_of(tmp_path / "a") == 2
    assert overlap_errors(fraction) == []


def test_the_window_counts_from_the_first_delivery_and_includes_its_end(tmp_path: Path) -> None:
    delivery_folder(tmp_path, "a", 2, "2026010510000000")
    delivery_folder(tmp_path, "b", 3, "2026010511000000")
    delivery_folder(tmp_path, "c", 4, "2026010511000001")
    assert beams_of(grouped(tmp_path)) == [[2, 3], [4]]


def test_a_beam_that_arrives_late_completes_the_fraction_of_its_time(tmp_path: Path) -> None:
    delivery_folder(tmp_path, "a", 2, "2026010510000000")
    delivery_folder(tmp_path, "b", 3, "2026010510050000")
    (before,) = grouped(tmp_path)
    assert (before.complete, before.missing_beams) == (False, (4,))
    delivery_folder(tmp_path, "c", 4, "2026010510100000")
    (after,) = grouped(tmp_path)
    assert (after.complete, after.missing_beams) == (True, ())
    assert set(before.identities) < set(after.identities)


def test_a_second_day_is_a_second_fraction_and_leaves_the_first_as_it_was(tmp_path: Path) -> None:
    for index, beam in enumerate((2, 3, 4)):
        delivery_folder(tmp_path, f"a{beam}", beam, f"2026010510{index}00000")
    (first,) = grouped(tmp_path)
    for index, beam in enumerate((4, 2, 3)):
        delivery_folder(tmp_path, f"b{beam}", beam, f"2026010609{index}00000")
    again, second = grouped(tmp_path)
    assert again == first
    assert beams_of([second]) == [[4, 2, 3]]
    assert second.complete


def test_the_order_of_listing_has_no_part(tmp_path: Path) -> None:
    folders = [
        delivery_folder(tmp_path, "a", 2, "2026010510000000"),
        delivery_folder(tmp_path, "b", 3, "2026010510000000"),
        delivery_folder(tmp_path, "c", 4, "2026010600000000"),
    ]
    headers = [read_delivery_header(folder, SEOUL) for folder in folders]
    expected = group_fractions(headers, PLAN, HOUR)
    assert len(expected) == 2
    for order in permutations(headers):
        assert group_fractions(order, PLAN, HOUR) == expected


def test_identity_is_the_delivery_and_not_its_folder(tmp_path: Path) -> None:
    one = read_delivery_header(delivery_folder(tmp_path, "2026010510000000", 2, "2026010510000000"), SEOUL)
    renamed = read_delivery_header(delivery_folder(tmp_path, "빔 둘", 2, "2026010510000000"), SEOUL)
    other = read_delivery_header(delivery_folder(tmp_path, "b", 3, "2026010510000000"), SEOUL)
    assert one.identity == renamed.identity
    # sha256 of "2026010510000000", "1010000", "2" joined by the unit separator.
    assert one.identity == "c88a188cf8b41391f88a2ed67f0308b33eff1af4187958e0d6b6218bd9cf9019"
    assert other.identity != one.identity


def test_repeats_of_one_beam_do_not_make_a_fraction_complete(tmp_path: Path) -> None:
    delivery_folder(tmp_path, "a", 2, "2026010510000000")
    delivery_folder(tmp_path, "b", 2, "2026010510050000")
    delivery_folder(tmp_path, "c", 3, "2026010510100000")
    (fraction,) = grouped(tmp_path)
    assert not fraction.complete
    (error,) = overlap_errors(fraction)
    assert "deliveries 1 and 2 of beam 2 overlap in layers 1 to 9" in str(error)
    assert error.where.delivery == 2


def test_a_repeat_after_the_window_is_a_fraction_of_its_own(tmp_path: Path) -> None:
    delivery_folder(tmp_path, "a", 2, "2026010510000000")
    delivery_folder(tmp_path, "b", 2, "2026010511300000")
    fractions = grouped(tmp_path)
    assert beams_of(fractions) == [[2], [2]]
    assert [overlap_errors(fraction) for fraction in fractions] == [[], []]


@pytest.mark.parametrize(
    ("parts", "complete"),
    [
        (((1, 5), (6, 9)), True),
        (((6, 9), (1, 5)), True),
        (((1, 5), (5, 9)), True),
        (((1, 5), (5, 5), (5, 9)), True),
        (((1, 5), (7, 9)), False),
        (((1, 5),), False),
    ],
)
def test_parts_of_a_beam_cover_it_together(
    tmp_path: Path, parts: tuple[tuple[int, int], ...], complete: bool
) -> None:
    delivery_folder(tmp_path, "three", 3, "2026010510000000")
    delivery_folder(tmp_path, "four", 4, "2026010510010000")
    for index, layers in enumerate(parts):
        delivery_folder(tmp_path, f"two{index}", 2, f"202601051010{index}000", layers)
    (fraction,) = grouped(tmp_path)
    assert fraction.complete is complete
    assert fraction.missing_beams == ()
    assert overlap_errors(fraction) == []


@pytest.mark.parametrize(
    ("parts", "layers"),
    [
        (((1, 6), (5, 9)), "layers 5 to 6"),
        (((1, 9), (9, 9), (9, 9), (3, 3)), "layer 3"),
        (((5, 9), (1, 5)), "layer 5"),
    ],
)
def test_any_other_overlap_names_both_deliveries(
    tmp_path: Path, parts: tuple[tuple[int, int], ...], layers: str
) -> None:
    for index, part in enumerate(parts):
        delivery_folder(tmp_path, f"two{index}", 2, f"202601051010{index}000", part)
    (fraction,) = grouped(tmp_path)
    (error,) = overlap_errors(fraction)
    assert f"deliveries 1 and {len(parts)} of beam 2 overlap in {layers} within" in str(error)


def test_an_exact_copy_is_set_aside_and_the_machines_own_folder_kept(tmp_path: Path) -> None:
    delivery_folder(tmp_path, "2026010510000000", 2, "2026010510000000")
    delivery_folder(tmp_path, "2026010510000000 - Copy", 2, "2026010510000000")
    delivery_folder(tmp_path, "a copy", 2, "2026010510000000")
    (fraction,) = grouped(tmp_path)
    assert [header.folder.name for header in fraction.deliveries] == ["2026010510000000"]
    assert len(fraction.duplicates) == 2
    assert overlap_errors(fraction) == []


def test_a_copy_with_other_content_is_an_error(tmp_path: Path) -> None:
    delivery_folder(tmp_path, "2026010510000000", 2, "2026010510000000")
    copy = delivery_folder(tmp_path, "copy", 2, "2026010510000000")
    (copy / "02_1010000_001_002_001.ptn").write_bytes(bytes(16))
    (fraction,) = grouped(tmp_path)
    assert fraction.duplicates == ()
    (error,) = overlap_errors(fraction)
    assert "deliveries 1 and 2 of beam 2 carry the same machine time" in str(error)


def test_setup_beams_open_and_complete_nothing(tmp_path: Path) -> None:
    delivery_folder(tmp_path, "setup", 1, "2026010509100000")
    for index, beam in enumerate((2, 3, 4)):
        delivery_folder(tmp_path, f"a{beam}", beam, f"2026010510{index}00000")
    (fraction,) = grouped(tmp_path)
    assert fraction.complete
    assert beams_of([fraction]) == [[2, 3, 4]]
    assert [header.info.beam_number for header in fraction.setup] == [1]


def test_a_broken_delivery_joins_by_its_folders_time_and_keeps_its_fraction_open(tmp_path: Path) -> None:
    for index, beam in enumerate((2, 3, 4)):
        delivery_folder(tmp_path, f"a{beam}", beam, f"2026010510{index}00000")
        delivery_folder(tmp_path, f"b{beam}", beam, f"2026010610{index}00000")
    (tmp_path / "2026010510050000").mkdir()
    first, second = grouped(tmp_path)
    assert [item.folder.name for item in first.broken] == ["2026010510050000"]
    assert (first.complete, second.complete) == (False, True)
    assert first.number_of(tmp_path / "2026010510050000") == 2
    (tmp_path / "2026010510050000").rename(tmp_path / "nameless")
    first, second = grouped(tmp_path)
    assert (first.complete, second.complete) == (True, False)
    assert second.number_of(tmp_path / "nameless") == 4


def test_nothing_but_broken_deliveries_is_still_a_fraction_in_sight(tmp_path: Path) -> None:
    (tmp_path / "nameless").mkdir()
    (fraction,) = grouped(tmp_path)
    assert (fraction.identities, fraction.complete, len(fraction.broken)) == ((), False, 1)


def test_without_a_plan_no_fraction_is_complete(tmp_path: Path) -> None:
    header = read_delivery_header(delivery_folder(tmp_path, "a", 2, "2026010510000000"), SEOUL)
    (fraction,) = group_fractions([header], None, HOUR)
    assert (fraction.complete, fraction.missing_beams) == (False, ())


def test_a_huge_layer_number_costs_nothing(tmp_path: Path) -> None:
    delivery_folder(tmp_path, "a", 2, "2026010510000000", (1, 999_999_999))
    (fraction,) = grouped(tmp_path)
    assert fraction.missing_beams == (3, 4)
