"""The hour that autumn repeats: which of its two passes a night's deliveries were in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqi_dagster.delivery.fractions import read_delivery_header
from mqi_dagster.delivery.repeated_hour import Timed, choose_moments
from tests.delivery.delivery_cases import HOUR, delivery_folder
from tests.delivery.test_fractions import grouped

BERLIN = ZoneInfo("Europe/Berlin")
DAY = "20261025"
"""Clocks go back from 03:00 to 02:00: from UTC+2 to UTC+1, at 01:00 UTC."""


@pytest.mark.parametrize(
    ("times", "utc"),
    [
        # Only the second pass lies within an hour of 03:00.
        (("0210", "0225", "0300"), ("01:10", "01:25", "02:00")),
        # Only the first lies within an hour of 01:40.
        (("0140", "0210", "0220"), ("23:40", "00:10", "00:20")),
        # Nothing tells: the earlier.
        (("0210", "0220", "0230"), ("00:10", "00:20", "00:30")),
    ],
)
def test_a_night_is_kept_together(times: tuple[str, ...], utc: tuple[str, ...], tmp_path: Path) -> None:
    for beam, time in zip((2, 3, 4), times, strict=True):
        delivery_folder(tmp_path, f"b{beam}", beam, f"{DAY}{time}0000")
    (fraction,) = grouped(tmp_path, BERLIN)
    assert tuple(header.irradiated_at.strftime("%H:%M") for header in fraction.deliveries) == utc
    assert fraction.complete


def test_parts_of_a_beam_follow_each_other_by_layers(tmp_path: Path) -> None:
    delivery_folder(tmp_path, "a", 2, f"{DAY}02550000", (1, 5), "1010001")
    delivery_folder(tmp_path, "b", 2, f"{DAY}02050000", (5, 9), "1010002")
    (fraction,) = grouped(tmp_path, BERLIN)
    assert [header.folder.name for header in fraction.deliveries] == ["a", "b"]
    assert [header.irradiated_at.strftime("%H:%M") for header in fraction.deliveries] == ["00:55", "01:05"]


def test_the_hour_that_spring_leaves_out_has_one_moment(tmp_path: Path) -> None:
    folder = delivery_folder(tmp_path, "a", 2, "2026032902300000")
    assert read_delivery_header(folder, BERLIN).info.irradiated_at(BERLIN) == (
        datetime(2026, 3, 29, 1, 30, tzinfo=UTC),
    )


def test_other_nights_have_no_say(tmp_path: Path) -> None:
    delivery_folder(tmp_path, "a", 2, f"{DAY}02100000")
    delivery_folder(tmp_path, "b", 3, "2026102602300000")
    first, second = grouped(tmp_path, BERLIN)
    assert [f.deliveries[0].irradiated_at for f in (first, second)] == [
        datetime(2026, 10, 25, 0, 10, tzinfo=UTC),
        datetime(2026, 10, 26, 1, 30, tzinfo=UTC),
    ]


MINUTES = st.integers(0, 179)


@given(st.lists(MINUTES, min_size=1, max_size=8, unique=True), st.integers(0, 60))
def test_a_fraction_of_at_most_an_hour_is_never_parted(minutes: list[int], start: int) -> None:
    # True moments within one hour, some of them in the first pass and some in the second.
    begins = datetime(2026, 10, 24, 23, 30, tzinfo=UTC) + timedelta(minutes=start)
    true = [begins + timedelta(minutes=minute % 60) for minute in minutes]
    timed = []
    for index, moment in enumerate(true):
        local = moment.astimezone(BERLIN).replace(tzinfo=None)
        both = sorted({local.replace(tzinfo=BERLIN, fold=fold).astimezone(UTC) for fold in (0, 1)})
        timed.append(Timed(tuple(both), index, 1, 9))
    chosen = choose_moments(timed, HOUR)
    assert max(chosen) - min(chosen) <= HOUR
    assert all(moment in one.moments for moment, one in zip(chosen, timed, strict=True))
