"""Profiles are read whole or refused by name, and the table of columns is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.imaging.radiomics_profile import (
    Aggregation,
    Modality,
    columns,
    profile_named,
    read_profile,
)
from tests.imaging.radiomics_cases import CONFIGURATION_C, profile


@pytest.mark.parametrize(
    ("name", "modality", "voxel_mm", "bins"),
    [("ct", Modality.CT, 2.0, (25.0, None)), ("mr", Modality.MR, 1.0, (None, 32))],
)
def test_the_product_has_a_profile_for_each_modality(
    name: str, modality: Modality, voxel_mm: float, bins: tuple[float | None, int | None]
) -> None:
    found = profile_named(name)
    assert found.modality is modality
    assert found.resampling.voxel_size_mm == (voxel_mm,) * 3
    assert (found.discretisation.bin_size, found.discretisation.number_of_bins) == bins
    assert found.aggregations == (Aggregation.VOLUME_AVERAGED, Aggregation.VOLUME_MERGED)


def test_a_site_has_its_own_profiles_before_those_of_the_product(tmp_path: Path) -> None:
    (tmp_path / "ct.yaml").write_text(yaml.safe_dump({**CONFIGURATION_C, "min_voxels": 99}))
    assert profile_named("ct", tmp_path).min_voxels == 99
    assert profile_named("mr", tmp_path).modality is Modality.MR


@pytest.mark.parametrize("name", ["features", "pet", "../ct", "/etc/ct", "", "CT", "ct.yaml"])
def test_a_name_that_no_profile_has_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="there is no radiomics profile"):
        profile_named(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bin_width": 25}, "bin_width: there is no such key"),
        ({"modality": "PT"}, "modality: must be 'CT' or 'MR'"),
        (
            {"discretisation": {"bin_size": 25, "number_of_bins": 32}},
            "give either bin_size or number_of_bins",
        ),
        ({"discretisation": {}}, "give either bin_size or number_of_bins"),
        ({"discretisation": {"bin_size": 0}}, "discretisation.bin_size: must be above 0"),
        ({"resegmentation": {}}, "discretisation counts from the lower end of resegmentation.range"),
        ({"resegmentation": {"range": [400, -1000]}}, "range must be a lower and a higher intensity"),
        ({"aggregations": []}, "aggregations: must have at least 1 values"),
        ({"aggregations": ["3D_avg", "3D_avg"]}, "aggregations names one twice"),
        ({"discretisation": {"bin_size": 1}}, "discretisation makes more than 512 grey levels"),
        (
            {
                "ivh_discretisation": None,
                "resegmentation": {"range": [0, 20_000]},
                "discretisation": {"number_of_bins": 9},
            },
            "ivh_discretisation makes more than 10,000 grey levels",
        ),
        ({"min_voxels": 0}, "min_voxels: must be at least 1"),
        (
            {
                "ivh_discretisation": None,
                "resampling": {**CONFIGURATION_C["resampling"], "round_intensities": False},
            },
            "ivh_discretisation is needed where intensities are not rounded",
        ),
    ],
)
def test_a_wrong_profile_is_refused_by_its_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**CONFIGURATION_C, **changes}))
    with pytest.raises(ConfigurationError, match=message):
        read_profile(path)


def test_a_file_of_pyradiomics_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("imageType: {Original: {}}\nsetting: {binWidth: 25}\n")
    with pytest.raises(ConfigurationError, match="is a parameter file of pyradiomics"):
        read_profile(path)


def test_names_to_skip_are_compared_without_capitals() -> None:
    skipping = profile(skip_rois=["CouchSurface", "body"])
    assert skipping.skips(" BODY ")
    assert skipping.skips("couchsurface")
    assert not skipping.skips("Body_2")


def test_a_profile_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        profile().min_voxels = 5


def test_a_table_has_the_features_of_each_aggregation_once() -> None:
    assert len(columns()) == len({column.tag for column in columns()}) == 482
    assert len(columns([Aggregation.VOLUME_AVERAGED])) == 169
    assert len(columns([Aggregation.VOLUME_AVERAGED, Aggregation.VOLUME_MERGED])) == 210
    identifiers = [column.identifier for column in columns([Aggregation.VOLUME_AVERAGED])]
    assert len(set(identifiers)) == 169


def test_a_column_says_what_it_is_and_where_it_is_in_pyradiomics() -> None:
    found = {column.tag: column for column in columns()}
    entropy = found["cm_joint_entr_3D_avg"]
    assert (entropy.identifier, entropy.name, entropy.family) == ("TU9B", "Joint entropy", "glcm")
    assert (entropy.unit, entropy.pyradiomics, entropy.difference) == (
        "bit",
        "original_glcm_JointEntropy",
        None,
    )
    assert found["morph_volume"].pyradiomics == "original_shape_MeshVolume"
    assert found["stat_kurt"].pyradiomics == "original_firstorder_Kurtosis"
    assert found["stat_kurt"].difference == "pyradiomics does not subtract 3."
    merged = found["cm_joint_entr_3D_comb"]
    assert (merged.pyradiomics, merged.difference) == (None, "pyradiomics has no such aggregation.")
    assert found["dzm_sde_2D"].difference == "pyradiomics has no such feature."


def test_every_column_is_in_pyradiomics_or_says_why_not() -> None:
    for column in columns():
        assert column.pyradiomics or column.difference, column.tag
    equal = [column for column in columns() if column.pyradiomics and column.difference is None]
    assert len(equal) == 79
