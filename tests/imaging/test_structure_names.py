"""Names of structures: mapped where the table is sure, kept and said where it is not, sides never swapped."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.imaging.structure_names import (
    PACKAGED_NAMES,
    Naming,
    StructureName,
    laterality_faults,
    read_structure_names,
)

NAMES = read_structure_names()


@pytest.mark.parametrize(
    ("original", "name"),
    [
        ("kidney_left", "Kidney_L"),
        ("Kidney left", "Kidney_L"),
        ("LEFT-KIDNEY", "Kidney_L"),
        ("LKidney", "Kidney_L"),
        ("KidneyLt", "Kidney_L"),
        ("kidney_right", "Kidney_R"),
        ("Rt. Parotid", "Parotid_R"),
        ("Femoral Head (R)", "Femur_Head_R"),
        ("femur_head_l", "Femur_Head_L"),
        ("lung_upper_lobe_left", "Lung_LUL"),
        ("lung_upper_lobe_right", "Lung_RUL"),
        ("lung_middle_lobe_right", "Lung_RML"),
        ("lung_lower_lobe_left", "Lung_LLL"),
        ("vertebrae_L5", "VB_L5"),
        ("vertebrae_T1", "VB_T01"),
        ("vertebrae_T12", "VB_T12"),
        ("VB_T3", "VB_T03"),
        ("rib_left_3", "Rib03_L"),
        ("rib_right_12", "Rib12_R"),
        ("hip_bone_left", "Bone_Pelvic_L"),
        ("heart_ventricle_left", "Ventricle_L"),
        ("iliac_vena_right", "V_Iliac_R"),
        ("adrenal_gland_right", "Glnd_Adrenal_R"),
        ("urinary_bladder", "Bladder"),
        ("spinal cord", "SpinalCord"),
        ("Oesophagus", "Esophagus"),
        ("BODY", "External"),
        ("bowel_bag", "Bag_Bowel"),
    ],
)
def test_what_users_and_models_write(original: str, name: str) -> None:
    assert NAMES.named(original) == StructureName(name, original, Naming.MAPPED)


@pytest.mark.parametrize("name", ["Kidney_L", "Lung_RUL", "VB_L5", "A_LAD", "External", "Colon_Decending"])
def test_a_standard_name_stays(name: str) -> None:
    assert NAMES.named(name) == StructureName(name, name, Naming.STANDARD)


@pytest.mark.parametrize(
    ("original", "naming", "reason"),
    [
        ("Kidney", Naming.AMBIGUOUS, "may be Kidney_L or Kidney_R"),
        ("Lung L+R", Naming.AMBIGUOUS, "says both left and right"),
        ("lung_upper_lobe", Naming.AMBIGUOUS, "may be Lung_LUL or Lung_RUL"),
        ("kidney_cyst_left", Naming.UNKNOWN, "is not in the table of names"),
        ("Heart_L", Naming.UNKNOWN, "is not in the table of names"),
        ("~Kidney_L", Naming.UNKNOWN, "is not in the table of names"),
        ("Kidney_L_PRV05", Naming.UNKNOWN, "is not in the table of names"),
        ("PTV_L", Naming.UNKNOWN, "is not in the table of names"),
        ("T1", Naming.UNKNOWN, "is not in the table of names"),
        ("lkidney", Naming.UNKNOWN, "is not in the table of names"),
        ("肝", Naming.UNKNOWN, "is not in the table of names"),
        ("", Naming.UNKNOWN, "is not in the table of names"),
    ],
)
def test_what_is_not_sure_is_kept_and_said(original: str, naming: Naming, reason: str) -> None:
    assert NAMES.named(original) == StructureName(original, original, naming, reason)


@pytest.mark.parametrize(
    "name",
    [
        "IMA", "ima", "IMA L", "SMA", "SMG_L", "SV", "LAD", "Cord", "CORD", "Hip L", "hip_right", "L Hip",
        "Ventricle L", "ventricle_left", "Ventricle", "Atrium R", "Carotid L", "Carotid artery R",
        "Submandibular L", "Lacrimal_R", "Symphysis", "Outline", "Total Lung", "Lungs Total", "Total lungs",
        "bowel", "BOWEL",
        # What the table has never had.
        "Neck", "ON L", "IMN", "SCV", "Chest", "Pelvis", "Femoral L", "Canal", "Node L", "Vessel",
    ],
)  # fmt: skip
def test_a_name_that_means_two_things_in_practice_stays(name: str) -> None:
    found = NAMES.named(name)
    assert found.name == name and found.naming in (Naming.AMBIGUOUS, Naming.UNKNOWN)


def test_it_is_said_what_a_name_may_mean(tmp_path: Path) -> None:
    assert NAMES.named("IMA").reason == "may be A_Mesenteric_I or internal mammary artery"
    assert NAMES.named("ventricle left").reason == "may be the heart's or the brain's"
    # TG-263's own spelling says which.
    assert NAMES.named("Ventricle_L") == StructureName("Ventricle_L", "Ventricle_L", Naming.STANDARD)
    assert NAMES.named("Bowel").naming is Naming.STANDARD
    site = tmp_path / "names.yaml"
    site.write_text(
        "single: {A_Mamma_Int: [IMA]}\nsided: {Ventricle_Lat: [ventricle]}\nambiguous: {liver: [a, b]}\n"
    )
    names = read_structure_names(site)
    assert names.named("ima").name == "A_Mamma_Int"
    assert names.named("Ventricle L").name == "Ventricle_Lat_L"
    assert names.named("liver").reason == "may be a or b"
    site.write_text("single: {Liver_Whole: [liver]}\n")
    assert read_structure_names(site).named("Liver").name == "Liver_Whole"


TOTAL = (
    "spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right"
    " adrenal_gland_left lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right"
    " lung_middle_lobe_right lung_lower_lobe_right esophagus trachea thyroid_gland small_bowel duodenum"
    " colon urinary_bladder prostate kidney_cyst_left kidney_cyst_right sacrum vertebrae_S1 heart aorta"
    " pulmonary_vein brachiocephalic_trunk subclavian_artery_right subclavian_artery_left"
    " common_carotid_artery_right common_carotid_artery_left brachiocephalic_vein_left"
    " brachiocephalic_vein_right atrial_appendage_left superior_vena_cava inferior_vena_cava"
    " portal_vein_and_splenic_vein iliac_artery_left iliac_artery_right iliac_vena_left iliac_vena_right"
    " humerus_left humerus_right scapula_left scapula_right clavicula_left clavicula_right femur_left"
    " femur_right hip_left hip_right spinal_cord gluteus_maximus_left gluteus_maximus_right"
    " gluteus_medius_left gluteus_medius_right gluteus_minimus_left gluteus_minimus_right"
    " autochthon_left autochthon_right iliopsoas_left iliopsoas_right brain skull sternum"
    " costal_cartilages"
)
"""Classes of TotalSegmentator's task total, vertebrae and ribs aside."""


def test_every_class_of_totalsegmentator_has_a_name_or_is_known_to_have_none() -> None:
    total = TOTAL.split()
    total += [
        f"vertebrae_{region}{n}"
        for region, last in (("C", 7), ("T", 12), ("L", 5))
        for n in range(1, last + 1)
    ]
    total += [f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, 13)]
    assert len(total) == 117
    found = [NAMES.named(one) for one in total]
    assert {one.original for one in found if one.naming is Naming.UNKNOWN} == {
        "kidney_cyst_left", "kidney_cyst_right", "atrial_appendage_left", "portal_vein_and_splenic_vein",
        "gluteus_maximus_left", "gluteus_maximus_right", "gluteus_medius_left", "gluteus_medius_right",
        "gluteus_minimus_left", "gluteus_minimus_right", "autochthon_left", "autochthon_right",
        "iliopsoas_left", "iliopsoas_right", "sternum", "costal_cartilages",
    }  # fmt: skip
    # The card of the model says which these are.
    assert {one.original for one in found if one.naming is Naming.AMBIGUOUS} == {"hip_left", "hip_right"}
    assert sum(one.naming is Naming.MAPPED for one in found) == 99
    assert len({one.name for one in found}) == 117


TABLE = yaml.safe_load(PACKAGED_NAMES.read_text())
SIDED = sorted(TABLE["sided"].items())


@given(
    st.sampled_from(
        [
            other
            for stem, others in SIDED
            for other in (stem, *others)
            if other.lower() not in TABLE["ambiguous"]
        ]
    ),
    st.sampled_from(["l", "L", "Lt", "left", "Left", "LEFT"]),
    st.sampled_from([" ", "_", "-", ".", " - "]),
    st.booleans(),
)
def test_left_is_never_right(other: str, side: str, separator: str, first: bool) -> None:
    name = NAMES.named(side + separator + other if first else other + separator + side).name
    assert name.endswith("_L")
    mirrored = {"l": "r", "L": "R", "Lt": "Rt", "left": "right", "Left": "Right", "LEFT": "RIGHT"}[side]
    assert NAMES.named(f"{other} {mirrored}").name == name.removesuffix("_L") + "_R"


def test_of_two_structures_with_one_meaning_each_keeps_its_name() -> None:
    found = NAMES.named_all(["kidney_left", "Left Kidney", "liver", "Heart", "heart"])
    assert [one.name for one in found] == ["kidney_left", "Left Kidney", "Liver", "Heart", "heart"]
    assert found[0].reason == "2 mean Kidney_L"
    assert (found[3].naming, found[4].naming) == (Naming.STANDARD, Naming.AMBIGUOUS)


def test_a_site_has_names_of_its_own(tmp_path: Path) -> None:
    site = tmp_path / "names.yaml"
    site.write_text("single: {Liver_Whole: [liver], Rektum_X: [enddarm]}\nsided: {Kidney: [niere]}\n")
    names = read_structure_names(site)
    assert names.named("liver").name == "Liver_Whole"
    assert names.named("Enddarm").name == "Rektum_X"
    assert names.named("Niere_R").name == "Kidney_R"
    assert names.named("spleen").name == "Spleen"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("single: {A: [same], B: [Same]}", "Same means A and B"),
        ("sided: {A: [same], B: [same]}", "same means"),
        ("singel: {A: [b]}", "singel: there is no such key; did you mean single?"),
        ("single: {A: [true]}", "must be text"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    site = tmp_path / "names.yaml"
    site.write_text(text)
    with pytest.raises(ConfigurationError, match=reason.replace("?", r"\?")):
        read_structure_names(site)


def test_which_of_the_structures_that_are_there_is_meant() -> None:
    there = ["Kidney_L", "kidney right", "PTV-1", "PTV_1", "GTV+5", "Leber"]
    assert NAMES.meant_by("kidney_left", there) == ("Kidney_L",)
    assert NAMES.meant_by("Kidney_R", there) == ("kidney right",)
    assert NAMES.meant_by("PTV_1", there) == ("PTV_1",)
    assert NAMES.meant_by("ptv 1", there) == ("PTV-1", "PTV_1")
    assert NAMES.meant_by("GTV 5", there) == ()
    assert NAMES.meant_by("Liver", there) == ()
    assert NAMES.meant_by("肝", ["心"]) == ()


def test_structures_on_the_wrong_side_are_told() -> None:
    # DICOM x grows to the patient's left.
    centres = {
        "Kidney_L": (60.0, 0.0, 0.0), "right kidney": (-55.0, 0.0, 0.0),
        "Eye_L": (-30.0, 0.0, 0.0), "Eye_R": (31.0, 0.0, 0.0),
        "Lung_LUL": (-70.0, 0.0, 0.0), "lung_upper_lobe_right": (70.0, 0.0, 0.0),
        "gluteus_maximus_left": (-50.0, 0.0, 0.0), "gluteus_maximus_right": (50.0, 0.0, 0.0),
        "Femur_L": (-80.0, 0.0, 0.0), "Heart": (20.0, 0.0, 0.0), "VB_L5": (-3.0, 0.0, 0.0),
    }  # fmt: skip
    sides = {name: NAMES.side_of(name) for name in centres}
    assert (sides["Heart"], sides["right kidney"]) == (None, ("Kidney_L/Kidney_R", "R"))
    placed = [(name, side, centres[name]) for name, side in sides.items() if side is not None]
    assert laterality_faults(placed) == (
        "Eye_L lies 61 mm to the right of Eye_R",
        "Lung_LUL lies 140 mm to the right of lung_upper_lobe_right",
        "gluteus_maximus_left lies 100 mm to the right of gluteus_maximus_right",
    )
