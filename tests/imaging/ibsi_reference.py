# ruff: noqa: E501
"""Reference values that IBSI 1 publishes, at their published digits.

Image Biomarker Standardisation Initiative, reference manual v11 (arXiv:1612.07003v11), and the submission table
at theibsi.github.io. One line a feature, or a family's in its order: tag, value, tolerance; a tolerance of 0, or
none, means that all published digits must agree. The five features without consensus have no value there.
"""

from __future__ import annotations

from typing import NamedTuple


class Reference(NamedTuple):
    """A published value."""

    value: str
    tolerance: float


def read(text: str) -> dict[str, Reference]:
    """Published values by tag."""
    found: dict[str, Reference] = {}
    for line in text.strip().splitlines():
        tag, value, *tolerance = line.split()
        assert tag not in found, tag
        found[tag] = Reference(value, float(tolerance[0]) if tolerance else 0.0)
    return found


def matrix(features: str, table: str) -> str:
    """Values of texture features: a row for each aggregation, in the order of the features."""
    tags = features.split()
    lines = []
    for row in table.strip().splitlines():
        ending, *values = row.split()
        lines += [
            f"{tag}_{ending} {' '.join(value.split('±'))}" for tag, value in zip(tags, values, strict=True)
        ]
    return "\n".join(lines)


CM = (
    "cm_joint_max cm_joint_avg cm_joint_var cm_joint_entr cm_diff_avg cm_diff_var cm_diff_entr cm_sum_avg "
    "cm_sum_var cm_sum_entr cm_energy cm_contrast cm_dissimilarity cm_inv_diff cm_inv_diff_norm cm_inv_diff_mom "
    "cm_inv_diff_mom_norm cm_inv_var cm_corr cm_auto_corr cm_clust_tend cm_clust_shade cm_clust_prom "
    "cm_info_corr1 cm_info_corr2"
)
RLM = (
    "rlm_sre rlm_lre rlm_lgre rlm_hgre rlm_srlge rlm_srhge rlm_lrlge rlm_lrhge rlm_glnu rlm_glnu_norm rlm_rlnu "
    "rlm_rlnu_norm rlm_r_perc rlm_gl_var rlm_rl_var rlm_rl_entr"
)
SZM = (
    "szm_sze szm_lze szm_lgze szm_hgze szm_szlge szm_szhge szm_lzlge szm_lzhge szm_glnu szm_glnu_norm szm_zsnu "
    "szm_zsnu_norm szm_z_perc szm_gl_var szm_zs_var szm_zs_entr"
)
DZM = (
    "dzm_sde dzm_lde dzm_lgze dzm_hgze dzm_sdlge dzm_sdhge dzm_ldlge dzm_ldhge dzm_glnu dzm_glnu_norm dzm_zdnu "
    "dzm_zdnu_norm dzm_z_perc dzm_gl_var dzm_zd_var dzm_zd_entr"
)
NGT = "ngt_coarseness ngt_contrast ngt_busyness ngt_complexity ngt_strength"
NGL = (
    "ngl_lde ngl_hde ngl_lgce ngl_hgce ngl_ldlge ngl_ldhge ngl_hdlge ngl_hdhge ngl_glnu ngl_glnu_norm ngl_dcnu "
    "ngl_dcnu_norm ngl_dc_perc ngl_gl_var ngl_dc_var ngl_dc_entr ngl_dc_energy"
)

DIGITAL_PHANTOM = read(
    """
morph_volume 556 4
morph_vol_approx 592 4
morph_area_mesh 388 3
morph_av 0.698 0.004
morph_comp_1 0.0411 0.0003
morph_comp_2 0.599 0.004
morph_sph_dispr 1.19 0.01
morph_sphericity 0.843 0.005
morph_asphericity 0.186 0.001
morph_com 0.672 0.004
morph_diam 13.1 0.1
morph_pca_maj_axis 11.4 0.1
morph_pca_min_axis 9.31 0.06
morph_pca_least_axis 8.54 0.05
morph_pca_elongation 0.816 0.005
morph_pca_flatness 0.749 0.005
morph_vol_dens_aabb 0.869 0.005
morph_area_dens_aabb 0.866 0.005
morph_vol_dens_aee 1.17 0.01
morph_area_dens_aee 1.36 0.01
morph_vol_dens_conv_hull 0.961 0.006
morph_area_dens_conv_hull 1.03 0.01
morph_integ_int 1200 10
morph_moran_i 0.0397 0.0003
morph_geary_c 0.974 0.006
loc_peak_loc 2.6
loc_peak_glob 3.1
stat_mean 2.15
stat_var 3.05
stat_skew 1.08
stat_kurt -0.355
stat_median 1
stat_min 1
stat_p10 1
stat_p90 4
stat_max 6
stat_iqr 3
stat_range 5
stat_mad 1.55
stat_rmad 1.11
stat_medad 1.15
stat_cov 0.812
stat_qcod 0.6
stat_energy 567
stat_rms 2.77
ih_mean 2.15
ih_var 3.05
ih_skew 1.08
ih_kurt -0.355
ih_median 1
ih_min 1
ih_p10 1
ih_p90 4
ih_max 6
ih_mode 1
ih_iqr 3
ih_range 5
ih_mad 1.55
ih_rmad 1.11
ih_medad 1.15
ih_cov 0.812
ih_qcod 0.6
ih_entropy 1.27
ih_uniformity 0.512
ih_max_grad 8
ih_max_grad_g 3
ih_min_grad -50
ih_min_grad_g 1
ivh_v10 0.324
ivh_v90 0.0946
ivh_i10 5
ivh_i90 2
ivh_diff_v10_v90 0.23
ivh_diff_i10_i90 3
"""
    + matrix(
        CM,
        """
2D_avg 0.519 2.14 2.69 2.05 1.42 2.9 1.4 4.28 5.47 1.6 0.368 5.28 1.42 0.678 0.851 0.619 0.899 0.0567 -0.0121 5.09 5.47 7 79.1 -0.155 0.487
2D_comb 0.512 2.14 2.71 2.24 1.4 3.06 1.49 4.29 5.66 1.79 0.352 5.19 1.4 0.683 0.854 0.625 0.901 0.0553 0.0173 5.14 5.66 6.98 80.4 -0.0341 0.263
2_5D_avg 0.489 2.2 3.22 2.48 1.46 3.11 1.61 4.41 7.48 2.01 0.286 5.39 1.46 0.668 0.847 0.606 0.897 0.0597 0.178 5.4 7.48 16.6 147 -0.124 0.487
2_5D_comb 0.492 2.2 3.24 2.61 1.44 3.23 1.67 4.41 7.65 2.14 0.277 5.29 1.44 0.673 0.85 0.613 0.899 0.0582 0.182 5.45 7.65 16.4 142 -0.0334 0.291
3D_avg 0.503 2.14 3.1 2.4 1.43 3.06 1.56 4.29 7.07 1.92 0.303 5.32 1.43 0.677 0.851 0.618 0.898 0.0604 0.157 5.06 7.07 16.6 145 -0.157 0.52
3D_comb 0.509 2.15 3.13 2.57 1.38 3.21 1.64 4.3 7.41 2.11 0.291 5.12 1.38 0.688 0.856 0.631 0.902 0.0574 0.183 5.19 7.41 17.4 147 -0.0288 0.269
""",
    )
    + "\n"
    + matrix(
        RLM,
        """
2D_avg 0.641 3.78 0.604 9.82 0.294 8.57 3.14 17.4 5.2 0.46 6.12 0.492 0.627 3.35 0.761 2.17
2D_comb 0.661 3.51 0.609 9.74 0.311 8.67 2.92 16.1 20.5 0.456 21.6 0.441 0.627 3.37 0.778 2.57
2_5D_avg 0.665 3.46 0.58 10.3 0.296 9.03 2.79 17.9 19.5 0.413 22.3 0.461 0.632 3.58 0.758 2.52
2_5D_comb 0.68 3.27 0.585 10.2 0.312 9.05 2.63 17 77.1 0.412 83.2 0.445 0.632 3.59 0.767 2.76
3D_avg 0.705 3.06 0.603 9.7 0.352 8.54 2.39 17.6 21.8 0.43 26.9 0.513 0.68 3.46 0.574 2.43
3D_comb 0.729 2.76 0.607 9.64 0.372 8.67 2.16 15.6 281 0.43 328 0.501 0.68 3.48 0.598 2.62
""",
    )
    + "\n"
    + matrix(
        SZM,
        """
2D 0.363 43.9 0.371 16.4 0.0259 10.3 40.4 113 1.41 0.323 1.49 0.333 0.24 3.97 21 1.93
2_5D 0.368 34.2 0.368 16.2 0.0295 9.87 30.6 107 5.44 0.302 3.44 0.191 0.243 3.92 17.3 3.08
3D 0.255 550 0.253 15.6 0.0256 2.76 503 1490 1.4 0.28 1 0.2 0.0676 2.64 331 2.32
""",
    )
    + "\n"
    + matrix(
        DZM,
        """
2D 0.946 1.21 0.371 16.4 0.367 15.2 0.386 21.3 1.41 0.323 3.79 0.898 0.24 3.97 0.051 1.73
2_5D 0.917 1.33 0.368 16.2 0.362 14.3 0.391 23.7 5.44 0.302 14.4 0.802 0.243 3.92 0.0988 2
3D 1 1 0.253 15.6 0.253 15.6 0.253 15.6 1.4 0.28 5 1 0.0676 2.64 0 1.92
""",
    )
    + "\n"
    + matrix(
        NGT,
        """
2D 0.121 0.925 2.99 10.4 2.88
2_5D 0.0285 0.601 6.8 14.1 0.741
3D 0.0296 0.584 6.54 13.5 0.763
""",
    )
    + "\n"
    + matrix(
        NGL,
        """
2D 0.158 19.2 0.702 7.49 0.0473 3.06 17.6 49.5 10.2 0.562 3.96 0.212 1 2.7 2.73 2.71 0.17
2_5D 0.159 18.8 0.693 7.66 0.0477 3.07 17.2 50.8 37.9 0.512 12.4 0.167 1 3.05 3.27 3.36 0.122
3D 0.045 109 0.693 7.66 0.00963 0.736 102 235 37.9 0.512 4.86 0.0657 1 3.05 22.1 4.4 0.0533
""",
    )
)

CT_PHANTOM_C = read(
    """
morph_volume 367000 6000
morph_vol_approx 368000 6000
morph_area_mesh 34300 400
morph_av 0.0934 0.0007
morph_comp_1 0.0326 0.0002
morph_comp_2 0.378 0.004
morph_sph_dispr 1.38 0.01
morph_sphericity 0.723 0.003
morph_asphericity 0.383 0.004
morph_com 45.6 2.8
morph_diam 125 1
morph_pca_maj_axis 93.3 0.5
morph_pca_min_axis 82 0.5
morph_pca_least_axis 70.9 0.4
morph_pca_elongation 0.879 0.001
morph_pca_flatness 0.76 0.001
morph_vol_dens_aabb 0.478 0.003
morph_area_dens_aabb 0.678 0.003
morph_vol_dens_aee 1.29 0.01
morph_area_dens_aee 1.62 0.01
morph_vol_dens_conv_hull 0.834 0.002
morph_area_dens_conv_hull 1.13 0.01
morph_integ_int -18000000 1400000
morph_moran_i 0.0824 0.0003
morph_geary_c 0.846 0.001
loc_peak_loc 169 10
loc_peak_glob 180 5
stat_mean -49 2.9
stat_var 50600 1400
stat_skew -2.14 0.05
stat_kurt 3.53 0.23
stat_median 40 0.4
stat_min -939 4
stat_p10 -424 14
stat_p90 86 0.1
stat_max 393 10
stat_iqr 67 4.9
stat_range 1330 20
stat_mad 158 4
stat_rmad 66.8 3.5
stat_medad 119 4
stat_cov -4.59 0.29
stat_qcod 1.03 0.4
stat_energy 2440000000 120000000
stat_rms 230 4
ih_mean 38.6 0.2
ih_var 81.1 2.1
ih_skew -2.14 0.05
ih_kurt 3.52 0.23
ih_median 42
ih_min 3 0.16
ih_p10 24 0.7
ih_p90 44
ih_max 56 0.5
ih_mode 43 0.1
ih_iqr 3 0.21
ih_range 53 0.6
ih_mad 6.32 0.15
ih_rmad 2.59 0.14
ih_medad 4.75 0.12
ih_cov 0.234 0.005
ih_qcod 0.0361 0.0027
ih_entropy 3.73 0.04
ih_uniformity 0.14 0.003
ih_max_grad 4750 30
ih_max_grad_g 41
ih_min_grad -4680 50
ih_min_grad_g 44
ivh_v10 0.998 0.001
ivh_v90 0.000152 0.00002
ivh_i10 88.8 0.2
ivh_i90 -421 14
ivh_diff_v10_v90 0.997 0.001
ivh_diff_i10_i90 510 14
"""
    + matrix(
        CM,
        """
3D_avg 0.111±0.002 39±0.2 73.7±2 6.39±0.06 2.17±0.05 14.4±0.5 2.64±0.03 78±0.3 276±8 4.56±0.04 0.045±0.001 19.2±0.7 2.17±0.05 0.582±0.004 0.966±0.001 0.547±0.004 0.994±0.001 0.39±0.003 0.869±0.001 1580±10 276±8 -10600±300 569000±11000 -0.236±0.001 0.9±0.001
3D_comb 0.111±0.002 39±0.2 73.8±2 6.42±0.06 2.16±0.05 14.4±0.5 2.64±0.03 78±0.3 276±8 4.56±0.04 0.0447±0.001 19.1±0.7 2.16±0.05 0.583±0.004 0.966±0.001 0.548±0.004 0.994±0.001 0.39±0.003 0.871±0.001 1580±10 276±8 -10600±300 570000±11000 -0.228±0.001 0.899±0.001
""",
    )
    + "\n"
    + matrix(
        RLM,
        """
3D_avg 0.786±0.003 3.31±0.04 0.00155±0.00005 1470±10 0.00136±0.00005 1100±10 0.00317±0.00004 5590±80 3180±10 0.102±0.003 18000±500 0.574±0.004 0.679±0.003 101±3 1.12±0.02 5.35±0.03
3D_comb 0.787±0.003 3.28±0.04 0.00155±0.00005 1470±10 0.00136±0.00005 1100±10 0.00314±0.00004 5530±80 41300±100 0.102±0.003 234000±6000 0.575±0.004 0.679±0.003 101±3 1.11±0.02 5.35±0.03
""",
    )
    + "\n"
    + matrix(
        SZM,
        """
3D 0.695±0.001 38900±900 0.00235±0.00006 971±7 0.0016±0.00004 657±4 21.6±0.5 70700000±1500000 195±6 0.0286±0.0003 3040±100 0.447±0.001 0.148±0.003 106±1 38900±900 7±0.01
""",
    )
    + "\n"
    + matrix(
        DZM,
        """
3D 0.531±0.006 11±0.3 0.00235±0.00006 971±7 0.00149±0.00004 476±11 0.0154±0.0005 13400±200 195±6 0.0286±0.0003 1870±40 0.274±0.005 0.148±0.003 106±1 4.6±0.06 7.56±0.03
""",
    )
    + "\n"
    + matrix(
        NGT,
        """
3D 0.000216±0.000004 0.0873±0.0019 1.39±0.01 1810±60 0.651±0.015
""",
    )
    + "\n"
    + matrix(
        NGL,
        """
3D 0.137±0.003 126±2 0.0013±0.00004 1570±10 0.000306±0.000012 141±2 0.0828±0.0003 227000±3000 6420±10 0.14±0.003 2450±60 0.0532±0.0005 1±0 81.1±2.1 39.2±0.1 7.54±0.03 0.00789±0.00011
""",
    )
)
