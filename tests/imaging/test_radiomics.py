"""Features of regions that are whole, small, flat, empty or at the edge: values, or reasons in words."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("zrad", reason="the imaging extra is not installed")

from mqi_dagster.errors import InputError
from mqi_dagster.imaging.radiomics import Region, cut_region, extract_features, region_features
from mqi_dagster.imaging.radiomics_profile import columns, profile_named
from tests.imaging.radiomics_cases import CONFIGURATION_C, box, digital_phantom, noise, profile

MILLIMETRES = (2.0, 2.0, 2.0)
IN_3D = profile(CONFIGURATION_C)


def test_a_box_has_the_figures_of_a_box() -> None:
    shape = (20, 24, 28)
    mask = box(shape, (5, 11), (6, 14), (7, 17))
    result = extract_features(noise(shape), mask, MILLIMETRES, IN_3D)
    # 6 x 8 x 10 voxels of 2 mm; its mesh is half a voxel less at each edge and corner.
    assert result.features["morph_vol_approx"] == 480 * 8
    assert result.features["morph_volume"] == pytest.approx(3840 - 92 + 4 / 3, abs=1.0)
    assert result.features["morph_pca_maj_axis"] == pytest.approx(4 * 2 * np.sqrt(99 / 12), rel=0.002)
    # From face to face, 20 mm; across, from the outermost centres to the others, 14 mm and 10 mm.
    assert result.features["morph_diam"] == pytest.approx(np.sqrt(20**2 + 14**2 + 10**2))
    assert not result.facts.touches_edge
    assert result.not_computed == {}


def test_voxels_that_are_no_cubes_keep_their_sizes() -> None:
    shape = (12, 13, 15)
    mask = box(shape, (3, 9), (3, 10), (3, 12))
    as_they_are = profile(CONFIGURATION_C, resampling__voxel_size_mm=[None, None, None])
    result = extract_features(noise(shape), mask, (5.0, 1.0, 2.0), as_they_are)
    assert result.features["morph_vol_approx"] == 6 * 7 * 9 * 10
    assert result.features["morph_diam"] == pytest.approx(np.sqrt(30**2 + 6**2 + 16**2))
    # The covariance along the planes: 25 mm2 times (6 x 6 - 1) / 12, of 378 voxels.
    assert result.features["morph_pca_maj_axis"] == pytest.approx(4 * np.sqrt(25 * 35 / 12 * 378 / 377))


def test_a_cube_lacks_only_what_equal_axes_leave_undefined() -> None:
    shape = (20, 20, 20)
    result = extract_features(noise(shape), box(shape, *[(6, 14)] * 3), MILLIMETRES, IN_3D)
    assert result.not_computed == {
        "morph_area_dens_aee": "two axes of the region are equal, for which IBSI's series is not defined"
    }
    assert result.features["morph_vol_approx"] == 512 * 8


def test_statistics_are_those_of_the_voxels() -> None:
    shape = (12, 12, 12)
    image = np.zeros(shape, dtype=np.float32)
    image[3:6] = 10
    image[6:9] = 30
    result = extract_features(image, box(shape, *[(3, 9)] * 3), MILLIMETRES, IN_3D)
    found = {name: result.features[f"stat_{name}"] for name in ("mean", "var", "skew", "kurt", "min", "max")}
    assert found == {"mean": 20, "var": 100, "skew": 0, "kurt": -2, "min": 10, "max": 30}
    # 25 HU from -1000 on: 10 HU is in the 41st bin, 30 HU in the 42nd.
    assert (result.features["ih_min"], result.features["ih_max"]) == (41, 42)
    assert result.facts.grey_levels == 2


def test_a_flat_region_has_a_shape_and_a_mean_and_reasons() -> None:
    shape = (14, 14, 14)
    image = np.full(shape, 40, dtype=np.float32)
    result = extract_features(image, box(shape, (3, 9), (3, 10), (3, 11)), MILLIMETRES, IN_3D)
    assert result.features["stat_mean"] == 40
    assert result.features["stat_var"] == 0
    assert result.features["morph_vol_approx"] == 6 * 7 * 8 * 8
    assert result.not_computed["morph_moran_i"] == "all voxels have one intensity"
    assert result.features["ih_entropy"] == 0
    assert result.not_computed["cm_corr_3D_avg"].startswith("the region has one grey level only")
    assert result.not_computed["ngt_coarseness_3D"] == (
        "the region, or a plane of it, has no grey level beside another"
    )
    assert len(result.features) + len(result.not_computed) == 210


def test_a_region_of_water_has_no_centre_of_mass_and_no_variation() -> None:
    shape = (14, 14, 14)
    result = extract_features(
        np.zeros(shape, dtype=np.float32), box(shape, (3, 9), (3, 10), (3, 11)), MILLIMETRES, IN_3D
    )
    assert result.not_computed["morph_com"] == "the intensities of the region add up to 0"
    assert result.not_computed["stat_cov"] == "the mean intensity is 0"
    assert result.not_computed["stat_qcod"] == "the quartiles of the intensity add up to 0"
    assert result.features["morph_vol_approx"] == 6 * 7 * 8 * 8


def test_no_intensity_at_10_percent_of_a_volume_that_is_half_as_bright_as_it_gets() -> None:
    shape = (12, 12, 12)
    image = np.zeros(shape, dtype=np.float32)
    image[6:] = 100
    chosen = profile(CONFIGURATION_C, ivh_discretisation={"number_of_bins": 100})
    result = extract_features(image, box(shape, *[(2, 10)] * 3), MILLIMETRES, chosen)
    for tag in ("ivh_v10", "ivh_i10", "ivh_diff_i10_i90"):
        assert result.not_computed[tag] == "more than 10 % of the voxels have the highest intensity"


def test_one_flat_plane_is_not_averaged_away() -> None:
    image, mask = digital_phantom()
    image[3] = 1
    result = extract_features(image, mask, MILLIMETRES, profile(aggregations=["2D_comb"]))
    assert result.not_computed["ngt_coarseness_2D"] == (
        "the region, or a plane of it, has no grey level beside another"
    )
    assert "ngt_busyness_2D" in result.features


def test_planes_that_2d_textures_leave_out_are_counted() -> None:
    image, mask = digital_phantom()
    mask[0, 2:] = False
    result = extract_features(image, mask, MILLIMETRES, profile(aggregations=["2D_comb", "3D_comb"]))
    assert (result.facts.planes, result.facts.planes_left_out) == (4, 1)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (box((12, 12, 12), (0, 0), (0, 0), (0, 0)), "the region is empty"),
        (
            box((12, 12, 12), (5, 6), (5, 6), (5, 6)),
            "too few voxels after resampling and re-segmentation: 1, of at least 27",
        ),
        (
            box((12, 12, 12), (5, 7), (2, 10), (2, 10)),
            "too thin: 2 x 8 x 8 voxels of 2 x 2 x 2 mm, of at least 3 each",
        ),
        (box((12, 12, 12), (0, 12), (0, 12), (0, 12)), "too many voxels: 1,728, of at most 1,000"),
    ],
    ids=["empty", "one voxel", "two planes", "too large"],
)
def test_a_region_that_has_no_features_says_why(mask: np.ndarray, reason: str) -> None:
    result = extract_features(noise(mask.shape), mask, MILLIMETRES, profile(CONFIGURATION_C, max_voxels=1000))
    assert result.features == {}
    assert set(result.not_computed.values()) == {reason}
    assert len(result.not_computed) == 210


def test_a_region_that_resampling_makes_too_large_is_refused_before_it_is_made() -> None:
    mask = box((12, 12, 12), (2, 10), (2, 10), (2, 10))
    fine = profile(CONFIGURATION_C, resampling__voxel_size_mm=[0.001, 0.001, 0.001])
    result = extract_features(noise(mask.shape), mask, MILLIMETRES, fine)
    assert set(result.not_computed.values()) == {"too many voxels: 4,096,000,000,000, of at most 1,000,000"}


def test_parts_far_from_each_other_are_refused_before_the_space_between_them_is_made() -> None:
    shape = (40, 40, 40)
    mask = box(shape, (8, 12), (8, 12), (8, 12)) | box(shape, (28, 32), (28, 32), (28, 32))
    chosen = profile(CONFIGURATION_C, max_voxels=7000)
    result = extract_features(noise(shape), mask, MILLIMETRES, chosen)
    # 34 a side: 24 for the parts, 1 more at each end for half voxels, 4 more for the local peak.
    assert set(result.not_computed.values()) == {
        "too wide: 39,304 voxels in and between its parts, of at most 28,000"
    }


def test_a_region_thinner_than_the_voxels_may_be_lost_and_this_is_said() -> None:
    mask = box((12, 12, 12), (5, 6), (5, 6), (2, 10))
    coarse = profile(CONFIGURATION_C, resampling__voxel_size_mm=[8, 8, 8])
    result = extract_features(noise(mask.shape), mask, MILLIMETRES, coarse)
    assert set(result.not_computed.values()) == {"no voxel of 8 x 8 x 8 mm is in the region"}


def test_a_region_outside_the_range_of_intensities_has_none_left() -> None:
    mask = box((12, 12, 12), (2, 10), (2, 10), (2, 10))
    result = extract_features(noise(mask.shape, 500, 600), mask, MILLIMETRES, IN_3D)
    assert set(result.not_computed.values()) == {
        "too few voxels after resampling and re-segmentation: 0, of at least 27"
    }
    assert (result.facts.resampled_voxels, result.facts.resegmented_voxels) == (512, 0)


def test_a_voxel_that_is_no_number_is_said_and_one_far_away_is_not_looked_at() -> None:
    shape = (40, 40, 40)
    image, mask = noise(shape), box(shape, (2, 10), (2, 10), (2, 10))
    image[39, 39, 39] = np.nan
    assert extract_features(image, mask, MILLIMETRES, IN_3D).features
    image[5, 5, 5] = np.inf
    result = extract_features(image, mask, MILLIMETRES, IN_3D)
    assert set(result.not_computed.values()) == {
        "the image has values that are no numbers in or around the region"
    }


def test_a_region_at_the_edge_of_the_image_has_features_and_says_so() -> None:
    shape = (12, 12, 12)
    result = extract_features(noise(shape), box(shape, (0, 6), (0, 7), (0, 8)), MILLIMETRES, IN_3D)
    assert result.facts.touches_edge
    assert result.features["morph_vol_approx"] == 6 * 7 * 8 * 8
    assert len(result.features) == 210


def test_the_edge_of_the_image_goes_on_as_it_is() -> None:
    # 10 planes of 3 mm become 15 of 2 mm, whose outermost centres are 0.5 mm beyond those of the image.
    shape = (10, 12, 12)
    image = np.full(shape, 40, dtype=np.float32)
    chosen = profile(CONFIGURATION_C, resampling__voxel_size_mm=[2, None, None])
    result = extract_features(image, box(shape, (0, 10), (0, 12), (0, 12)), (3.0, 2.0, 2.0), chosen)
    assert result.facts.resampled_voxels == 15 * 12 * 12
    assert result.features["stat_min"] == 40
    assert result.features["loc_peak_glob"] == pytest.approx(40)


def test_a_grid_that_fits_its_image_is_not_one_voxel_longer_by_rounding() -> None:
    # 14 planes of 0.9 mm are as thick as 9 of 1.4 mm, but 14 / (1.4 / 0.9) is 9.000000000000002.
    shape = (14, 12, 12)
    chosen = profile(CONFIGURATION_C, resampling__voxel_size_mm=[1.4, None, None])
    result = extract_features(noise(shape), box(shape, (0, 14), (0, 12), (0, 12)), (0.9, 2.0, 2.0), chosen)
    assert result.facts.resampled_voxels == 9 * 12 * 12


def test_the_local_peak_looks_around_the_region() -> None:
    shape = (24, 24, 24)
    image = np.full(shape, 100, dtype=np.float32)
    mask = box(shape, (8, 16), (8, 16), (8, 16))
    image[mask] = 10
    result = extract_features(image, mask, MILLIMETRES, IN_3D)
    # Of the 123 voxels within 6.2 mm of a corner of the region, 29 are in it.
    assert result.features["loc_peak_glob"] == pytest.approx((29 * 10 + 94 * 100) / 123)


def test_half_a_voxel_belongs_to_the_region_however_it_is_rounded() -> None:
    # 30 planes of 1 mm become 10 of 3 mm, each centred on an old one; 40 rows of 0.7 mm become 20.
    shape = (30, 40, 40)
    mask = box(shape, (6, 24), (10, 30), (10, 30))
    chosen = profile(CONFIGURATION_C, resampling__voxel_size_mm=[3, 1.4, 1.4])
    result = extract_features(noise(shape), mask, (1.0, 0.7, 0.7), chosen)
    assert result.facts.resampled_voxels == 6 * 10 * 10


@pytest.mark.parametrize("interpolator", ["linear", "nearest", "cubic_spline"])
def test_a_cut_region_has_the_same_features_as_in_its_image(interpolator: str) -> None:
    shape = (40, 80, 90)
    image, mask = noise(shape), box(shape, (9, 17), (41, 53), (4, 19))
    chosen = profile(CONFIGURATION_C, resampling__image_interpolator=interpolator)
    spacing = (3.0, 0.977, 0.977)
    cut = cut_region(image, mask, spacing, chosen)
    assert cut.image.size < image.size / 2
    whole = Region(image, mask, spacing, (0, 0, 0), shape)
    first, second = region_features(cut, chosen), region_features(whole, chosen)
    assert first.features == pytest.approx(dict(second.features), rel=1e-9)
    assert first.facts == second.facts


def test_intensities_are_those_of_the_grid_that_is_centred_on_the_image() -> None:
    # A ramp of 10 HU a plane of 3 mm, on planes of 2 mm: 20 planes become 30, the first 0.5 mm before it.
    shape = (20, 24, 24)
    image = np.broadcast_to(10 * np.arange(20, dtype=np.float32)[:, None, None], shape).copy()
    mask = box(shape, (5, 15), (4, 20), (4, 20))
    chosen = profile(
        CONFIGURATION_C, resampling__voxel_size_mm=[2, None, None], resampling__round_intensities=False
    )
    result = extract_features(image, mask, (3.0, 2.0, 2.0), chosen)
    # Centres at -0.5 + 2 k mm; half of the voxel at 13.5 mm (4.5 planes) is in the region, as at 43.5 mm.
    assert result.features["stat_min"] == pytest.approx(45)
    assert result.features["stat_max"] == pytest.approx(145)
    assert result.facts.resampled_voxels == 16 * 16 * 16


def test_outliers_are_left_out_of_intensities_and_stay_in_the_shape() -> None:
    shape = (20, 20, 20)
    image = noise(shape, 0, 10)
    image[10, 10, 10] = 1000
    mask = box(shape, (4, 16), (4, 15), (4, 14))
    chosen = profile_named("mr").model_copy(
        update={
            "resampling": profile(
                resampling__round_intensities=False, ivh_discretisation={"number_of_bins": 9}
            ).resampling
        }
    )
    result = extract_features(image, mask, MILLIMETRES, chosen)
    assert result.facts.resampled_voxels == 12 * 11 * 10
    assert result.facts.resegmented_voxels == 12 * 11 * 10 - 1
    assert result.features["stat_max"] < 10
    assert result.features["ih_max"] == 32


def test_the_same_region_has_the_same_bits_again() -> None:
    shape = (20, 24, 28)
    image, mask = noise(shape), box(shape, (5, 12), (6, 15), (7, 18))
    first = extract_features(image, mask, (3.0, 1.1, 1.1), IN_3D)
    second = extract_features(image.copy(), mask.copy(), (3.0, 1.1, 1.1), IN_3D)
    assert first == second
    assert list(first.features) == [column.tag for column in columns(IN_3D.aggregations)]


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    levels=st.integers(1, 4),
    filled=st.sampled_from([0.3, 0.9, 1.0]),
    bins=st.sampled_from([{"bin_size": 1}, {"number_of_bins": 4}]),
    seed=st.integers(0, 1000),
)
def test_any_region_has_a_value_or_a_reason_in_each_column(
    shape: tuple[int, int, int], levels: int, filled: float, bins: dict[str, Any], seed: int
) -> None:
    random = np.random.default_rng(seed)
    image = random.integers(1, levels + 1, shape).astype(np.float32)
    mask = random.random(shape) < filled
    result = extract_features(image, mask, (2.0, 1.0, 1.5), profile(discretisation=bins))
    assert len(result.features) + len(result.not_computed) == 482
    assert {*result.features, *result.not_computed} == {column.tag for column in columns()}
    assert np.isfinite(list(result.features.values())).all()
    assert all(result.not_computed.values())


@pytest.mark.parametrize(
    ("image", "mask", "spacing", "message"),
    [
        (np.zeros((4, 4), np.float32), np.zeros((4, 4), bool), MILLIMETRES, "three axes"),
        (np.zeros((4, 4, 0), np.float32), np.zeros((4, 4, 0), bool), MILLIMETRES, "none empty"),
        (np.zeros((4, 4, 4), np.float64), np.zeros((4, 4, 4), bool), MILLIMETRES, "float32, not float64"),
        (np.zeros((4, 4, 4), np.float32), np.zeros((4, 4, 5), bool), MILLIMETRES, "for each voxel"),
        (np.zeros((4, 4, 4), np.float32), np.zeros((4, 4, 4), np.uint8), MILLIMETRES, "true or false"),
        (np.zeros((4, 4, 4), np.float32), np.zeros((4, 4, 4), bool), (2.0, 0.0, 2.0), "above 0 mm"),
        (np.zeros((4, 4, 4), np.float32), np.zeros((4, 4, 4), bool), (2.0, 2.0, np.nan), "above 0 mm"),
    ],
)
def test_what_is_no_image_and_region_is_an_error(
    image: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        extract_features(image, mask, spacing, IN_3D)


def test_nothing_of_a_program_with_windows_is_loaded() -> None:
    unwanted = ("PyQt5", "pyqtgraph", "cv2", "pywt", "joblib", "zrad.gui", "zrad.batch", "dagster")
    code = (
        f"import sys, mqi_dagster.imaging.radiomics_task\nprint(sorted(set({unwanted!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
