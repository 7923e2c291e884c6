"""Rows of cases, courses, image sets and beams alike."""

from __future__ import annotations

from enum import StrEnum

from mqi_dagster.partitions import whole_kind
from mqi_dagster.web.api.models import Kind
from mqi_dagster.worklist import BeamStatus, CaseStatus, Work


class Units(StrEnum):
    """Partitions, as addresses name them."""

    CASES = "cases"
    BEAMS = "beams"
    COURSES = "courses"
    IMAGE_SETS = "image_sets"


AnyRow = CaseStatus | BeamStatus


def rows_of(work: Work) -> list[AnyRow]:
    """Every row of a partition: cases, courses and image sets, then beams."""
    return [*work.cases, *work.beams]


def key_of(row: AnyRow) -> str:
    """Key of the partition of a row."""
    return row.case if isinstance(row, CaseStatus) else row.beam


def kind_of(row: AnyRow) -> Kind:
    """Kind of the partition of a row."""
    if isinstance(row, BeamStatus):
        return Kind.BEAM
    return Kind(whole_kind(row.case).name)
