"""IBSI's digital phantom: every feature with a published value, at the published digits."""

from __future__ import annotations

import pytest

pytest.importorskip("zrad", reason="the imaging extra is not installed")

from mqi_dagster.imaging.radiomics import RadiomicsResult, extract_features
from mqi_dagster.imaging.radiomics_profile import columns
from tests.imaging.ibsi_reference import DIGITAL_PHANTOM, Reference
from tests.imaging.radiomics_cases import agrees, digital_phantom, profile


@pytest.fixture(scope="module")
def result() -> RadiomicsResult:
    image, mask = digital_phantom()
    return extract_features(image, mask, (2.0, 2.0, 2.0), profile())


def test_every_column_has_a_published_value() -> None:
    assert {column.tag for column in columns()} == DIGITAL_PHANTOM.keys()
    assert len(DIGITAL_PHANTOM) == 482


def test_a_value_that_is_a_digit_off_does_not_agree() -> None:
    assert not agrees(4.2, Reference("4", 0))
    assert not agrees(0.04036, Reference("0.0397", 0.0003))
    assert not agrees(1e-9, Reference("0", 0))
    assert agrees(1493.2, Reference("1490", 0))


def test_every_feature_is_the_published_one(result: RadiomicsResult) -> None:
    assert result.not_computed == {}
    wrong = {
        tag: result.features[tag]
        for tag, reference in DIGITAL_PHANTOM.items()
        if not agrees(result.features[tag], reference)
    }
    assert wrong == {}


def test_what_became_of_the_region_is_said(result: RadiomicsResult) -> None:
    facts = result.facts
    assert (facts.voxels, facts.resampled_voxels, facts.resegmented_voxels) == (74, 74, 74)
    assert (facts.grey_levels, facts.planes, facts.planes_left_out) == (4, 4, 0)
    assert facts.touches_edge
    assert result.computed_by.startswith("z-rad 26.")
