"""Cases that a Mac, Explorer, a share without case or the autumn hour have changed: each as delivered."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mqi_dagster.delivery.discovery import arrival_of
from mqi_dagster.delivery.fractions import overlap_errors
from mqi_dagster.delivery.survey import survey_arrival
from mqi_dagster.delivery.validation import check_case
from mqi_dagster.machine import Machines
from tests.faults.fault_scripts import made

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    "script", ["apple_double", "copy_with_thumbs_db", "names_in_capitals", "plan_info_with_cp949"]
)
def test_what_others_left_in_a_case_changes_nothing_of_it(
    script: str, shared: Path, tmp_path: Path, machines: Machines
) -> None:
    survey = survey_arrival(arrival_of(made(shared, script, tmp_path)), ZoneInfo("Asia/Seoul"), HOUR)
    check = check_case(survey, machines)
    assert check.passed, check
    (fraction,) = check.fractions
    assert [(beam.number, beam.layers) for beam in fraction.beams] == [(2, 9), (3, 9), (4, 9), (5, 9)]
    assert all(abs((beam.ratio or 0) - 0.990) < 0.001 for beam in fraction.beams)


def test_a_night_across_the_repeated_hour_is_one_fraction(shared: Path, tmp_path: Path) -> None:
    survey = survey_arrival(arrival_of(made(shared, "dst_fall_back", tmp_path)), BERLIN, HOUR)
    (fraction,) = survey.fractions
    assert fraction.complete
    times = [header.irradiated_at.strftime("%H:%M") for header in fraction.deliveries]
    assert times == ["01:10", "01:25", "02:00", "02:05"]


def test_parts_of_a_beam_in_the_repeated_hour_keep_the_order_of_their_layers(
    shared: Path, tmp_path: Path, machines: Machines
) -> None:
    survey = survey_arrival(arrival_of(made(shared, "dst_fall_back", tmp_path, "order")), BERLIN, HOUR)
    (fraction,) = survey.fractions
    assert overlap_errors(fraction) == []
    parts = [
        (header.info.first_layer, header.info.last_layer, header.irradiated_at.strftime("%H:%M"))
        for header in fraction.deliveries
        if header.info.beam_number == 2
    ]
    assert parts == [(1, 4, "00:55"), (5, 9, "01:05")]
    assert check_case(survey, machines).passed
