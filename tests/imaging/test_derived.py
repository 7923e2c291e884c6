"""Structures made of others: by definitions in any order, each with its own faults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.imaging.derived import CustomStructures, DerivedStructures, derive, read_custom_structures
from mqi_dagster.imaging.structure_names import read_structure_names
from tests.imaging.mask_shapes import Mask, ball, box
from tests.imaging.shapes import axial_grid

GRID = axial_grid(1.0, planes=40, pixels=40)
NAMES = read_structure_names()


def there() -> dict[str, Mask]:
    return {
        "PTV": box(GRID, (-5, -5, -5), (5, 5, 5)),
        "Heart": box(GRID, (0, -5, -5), (12, 5, 5)),
        "Kidney_L": box(GRID, (10, -3, -3), (16, 3, 3)),
        "Kidney_R": box(GRID, (-16, -3, -3), (-10, 3, 3)),
        "External": box(GRID, (-18, -7, -18), (18, 7, 18)),
        "Empty": np.zeros(GRID.shape, bool),
    }


def defined(tmp_path: Path, text: str) -> CustomStructures:
    path = tmp_path / "custom_structures.yaml"
    path.write_text("custom_structures:\n" + text)
    return read_custom_structures(path)


def made(tmp_path: Path, text: str, masks: dict[str, Mask] | None = None) -> DerivedStructures:
    file = defined(tmp_path, text)
    assert file.faults == ()
    return derive(file.definitions, there() if masks is None else masks, GRID, NAMES)


@pytest.mark.parametrize(
    ("definition", "voxels"),
    [
        ("{operation: union, source_structures: [PTV, Heart]}", 1700),
        ("{source_structures: [PTV, Heart]}", 1700),
        ("{operation: intersection, source_structures: [PTV, Heart]}", 500),
        ("{operation: subtract, source_structures: [PTV, Heart]}", 500),
        ("{operation: difference, source_structures: [Heart, PTV, Kidney_L]}", 700 - 2 * 36),
        ("{operation: xor, source_structures: [PTV, Heart]}", 1200),
        ("{operation: margin, source_structures: [PTV], margin: {superior_mm: 3, left_mm: 0}}", 1300),
        ("{operation: union, source_structures: [PTV], margin: {inferior_mm: -4}}", 600),
        ("{operation: union, source_structures: [PTV], margin: -2}", 216),
        ("{operation: union, source_structures: [PTV], margin: {uniform_mm: -2}}", 216),
        ("{operation: ring, source_structures: [PTV], inner_mm: -2, outer_mm: 0}", 1000 - 216),
        ("{operation: crop, source_structures: [PTV, External], distance_mm: 3}", 10 * 8 * 10),
        ("{operation: crop, source_structures: [PTV, External]}", 1000),
        ("{operation: crop, source_structures: [PTV, Heart], keep: outside, distance_mm: 2}", 300),
        ("{operation: intersection, source_structures: [PTV, Empty]}", 0),
    ],
)
def test_every_operation(tmp_path: Path, definition: str, voxels: int) -> None:
    found = made(tmp_path, f"  - {{name: made, {definition[1:]}")
    assert found.faults == {}
    assert int(found.masks["made"].sum()) == voxels


def test_a_ring_around_a_ball(tmp_path: Path) -> None:
    masks = {"GTV": ball(GRID, 6.0)}
    text = "  - {name: r, operation: ring, source_structures: [GTV], inner_mm: 3, outer_mm: 8}"
    ring = made(tmp_path, text, masks).masks["r"]
    assert not (ring & ball(GRID, 8.5)).any()
    assert not (ring & ~ball(GRID, 14.5)).any()
    # 4/3 π (14³ − 9³)
    assert int(ring.sum()) == pytest.approx(8440, rel=0.04)


def test_the_files_of_the_original_are_understood(tmp_path: Path) -> None:
    masks = {
        "A_Iliac_L": box(GRID, (5, 0, -10), (8, 3, 10)), "A_Iliac_R": box(GRID, (-8, 0, -10), (-5, 3, 10)),
        "V_Iliac_L": box(GRID, (5, 3, -10), (8, 6, 10)), "V_Iliac_R": box(GRID, (-8, 3, -10), (-5, 6, 10)),
    }  # fmt: skip
    text = """
  - name: "iliac_vess"
    operation: "union"
    source_structures: ["iliac_artery_left", "iliac_artery_right", "iliac_vena_left", "iliac_vena_right"]
    description: "Combined iliac vessels (arteries and veins)"
  - name: "iliac_area"
    operation: "union"
    source_structures: ["iliac_vess"]
    margin: 7
  - name: "GTV_asymmetric"
    operation: "union"
    source_structures: ["iliac_artery_left"]
    margin: {anterior_mm: 10, posterior_mm: 5, left_mm: 7, right_mm: 7, superior_mm: 3, inferior_mm: 5}
"""
    found = made(tmp_path, text, masks)
    assert found.faults == {}
    assert int(found.masks["iliac_vess"].sum()) == 4 * 180
    extent = np.argwhere(found.masks["GTV_asymmetric"])
    assert (extent.max(axis=0) - extent.min(axis=0) + 1).tolist() == [28, 18, 17]


def test_the_order_does_not_matter_and_a_bad_one_stops_no_other(tmp_path: Path) -> None:
    found = made(
        tmp_path,
        """
  - {name: last, source_structures: [middle], margin: 1}
  - {name: middle, source_structures: [first, Heart]}
  - {name: first, operation: subtract, source_structures: [PTV, Heart]}
  - {name: needs nobody, source_structures: [Spleen]}
  - {name: needs that, source_structures: [needs nobody, PTV]}
  - {name: round, source_structures: [and, PTV]}
  - {name: and, source_structures: [round]}
  - {name: beside, source_structures: [and]}
  - {name: itself, source_structures: [itself]}
  - {name: either, source_structures: [Kidney]}
  - {name: twice, source_structures: [PTV]}
  - {name: twice, source_structures: [Heart]}
  - {name: Heart, source_structures: [PTV]}
""",
    )
    assert list(found.masks) == ["last", "middle", "first"]
    assert int(found.masks["middle"].sum()) == 1700
    assert found.faults == {
        "needs nobody": "needs Spleen, which is not there (nearest names: PTV, Empty, Heart,"
        " External, Kidney_L, Kidney_R)",
        "needs that": "needs needs nobody, which cannot be made",
        "round": "needs itself: round → and → round",
        "and": "needs itself: round → and → round",
        "beside": "needs and, which cannot be made",
        "itself": "needs itself: itself → itself",
        "either": "needs Kidney, which may be Kidney_L or Kidney_R",
        "twice": "is defined twice",
        "Heart": "is the name of a structure that is there already",
    }


def test_a_name_that_may_mean_two_structures_is_a_fault(tmp_path: Path) -> None:
    masks = {"PTV-1": there()["PTV"], "PTV_1": there()["Heart"]}
    found = made(
        tmp_path,
        "  - {name: a, source_structures: [PTV 1]}\n  - {name: b, source_structures: [PTV_1]}",
        masks,
    )
    assert found.faults == {"a": "needs PTV 1, which may be any of PTV-1, PTV_1"}
    assert int(found.masks["b"].sum()) == 1200


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        ("{name: a, operation: add, source_structures: [PTV]}", "operation: must be"),
        ("{name: a, source_structures: []}", "source_structures: must have at least 1 values"),
        (
            "{name: a, operation: subtract, source_structures: [PTV]}",
            "subtract takes at least 2 source_structures",
        ),
        ("{name: a, operation: crop, source_structures: [PTV]}", "crop takes 2 source_structures"),
        ("{name: a, operation: margin, source_structures: [PTV]}", "the operation margin needs a margin"),
        ("{name: a, operation: ring, source_structures: [PTV], inner_mm: 5}", "a ring needs outer_mm"),
        ("{name: a, operation: ring, source_structures: [PTV], inner_mm: 5, outer_mm: 5}", "above inner_mm"),
        ("{name: a, source_structures: [PTV], outer_mm: 5}", "union has no outer_mm"),
        ("{name: a, source_structures: [PTV], margin: 500}", "must be at most 200"),
        ("{name: a, source_structures: [PTV], margin: {up_mm: 3}}", "there is no such key"),
        (
            "{name: a, source_structures: [PTV], margin: {uniform_mm: 3, left_mm: 1}}",
            "uniform_mm stands alone",
        ),
        ("{name: a, source_structure: [PTV]}", "did you mean source_structures?"),
        ("{source_structures: [PTV]}", "name: is missing"),
        ("PTV", "must be a section"),
    ],
)
def test_a_definition_that_is_none_says_why(tmp_path: Path, definition: str, reason: str) -> None:
    file = defined(tmp_path, f"  - {definition}\n  - {{name: good, source_structures: [PTV]}}")
    assert [one.name for one in file.definitions] == ["good"]
    (fault,) = file.faults
    assert fault.startswith("definition 1")
    assert reason in fault


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no list custom_structures"),
        ("custom_structures: {a: b}", "holds no list custom_structures"),
        ("custom_structures: []\nother: 1", "there is no such key: other"),
        ("custom_structures: [" + "a, " * 301 + "]", "more than 300 definitions"),
        ("custom_structures: !!python/object:os.system []", "is not YAML"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "custom_structures.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=reason):
        read_custom_structures(path)


def test_a_chain_of_three_hundred_is_made(tmp_path: Path) -> None:
    text = "".join(f"  - {{name: n{i}, source_structures: [n{i + 1}]}}\n" for i in range(299))
    found = made(tmp_path, text + "  - {name: n299, source_structures: [PTV]}\n")
    assert found.faults == {}
    assert int(found.masks["n0"].sum()) == 1000
