"""What the tables of all courses say of their columns is what the stages write."""

from __future__ import annotations

from mqi_dagster.imaging.course_tables import described_columns
from mqi_dagster.imaging.dvh_table import METRICS_SCHEMA
from mqi_dagster.imaging.radiomics_files import TEXT_COLUMNS
from mqi_dagster.imaging.radiomics_profile import columns


def names(table: str) -> list[str]:
    return [one.name for one in described_columns()[table]]


def test_every_column_of_the_dose_volume_table_is_described_but_typed_labels() -> None:
    assert names("dvh_metrics") == [
        name for name in METRICS_SCHEMA if name not in ("dose_label", "rtstruct_label")
    ]
    kinds = {one.name: one.kind for one in described_columns()["dvh_metrics"]}
    assert all(kinds[name] is METRICS_SCHEMA[name] for name in kinds)


def test_columns_of_the_dose_volume_table_say_their_unit_and_what_may_stand_in_them() -> None:
    described = {one.name: one for one in described_columns()["dvh_metrics"]}
    assert described["prescription_gy"].unit == "Gy"
    assert described["dose_resolution_rows_mm"].unit == "mm"
    assert described["dose_metric_status"].meaning == (
        "`measured`, `partly_outside_dose_grid`, `outside_dose_grid`, `empty`, `other_frame_of_reference`,"
        " `failed`: all but the first have no doses"
    )


def test_every_column_of_the_radiomics_is_described() -> None:
    assert names("radiomics") == [*TEXT_COLUMNS, *(one.tag for one in columns())]


def test_no_table_has_a_column_twice() -> None:
    for table, described in described_columns().items():
        assert len({one.name for one in described}) == len(described), table
