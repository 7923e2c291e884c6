"""A model with four inputs, whole: four series of the PACS by a program of the site to one SEG there."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mqi_dagster.operations.segmentation_request import RequestState
from tests.imaging.models.model_folders import card, region, write_card
from tests.segmentation.four_input_program import ROLES, WINDOW
from tests.segmentation.on_request_site import OnRequestSite, images
from tests.segmentation.pacs_stand_in import StandIn
from tests.segmentation.test_on_request import of_modality

PROGRAM = Path(__file__).with_name("four_input_program.py")


def network(path: Path) -> None:
    """Two convolutions over four channels, with random weights."""
    generator = np.random.default_rng(7)

    def weights(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(generator.normal(0, 0.2, shape).astype(np.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w1"], ["x"], pads=[1] * 6),
            helper.make_node("Relu", ["x"], ["y"]),
            helper.make_node("Conv", ["y", "w2"], ["score"], pads=[1] * 6),
        ],
        "four",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, *["z", "y", "x"]])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [1, 1, *["z", "y", "x"]])],
        [weights("w1", 8, 4, 3, 3, 3), weights("w2", 1, 8, 3, 3, 3)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, str(path))


@pytest.mark.slow
def test_four_series_become_one_segmentation(site: OnRequestSite, pacs: StandIn, tmp_path: Path) -> None:
    network(tmp_path / "network.onnx")
    argv = [sys.executable, str(PROGRAM), "{inputs}", str(tmp_path / "network.onnx"), "{output}", "{threads}"]
    content = card(
        "command",
        {"argv": argv},
        name="four",
        modality="MR",
        inputs=[{"role": role} for role in ROLES],
        regions=[region("Tumour", volume_cm3=[0, 100000])],
        may_find_nothing=True,
    )
    write_card(site.folder / "models" / "four", content)
    site.reopen()
    changes = {"modality": "MR", "RescaleIntercept": None, "RescaleSlope": None}
    four = [pacs.store(*images(20 + one, taken=f"10{one:02d}00", **changes)) for one in range(4)]
    found = site.ask(*reversed(four), model="four")
    assert [one.error for one in site.services.outcomes] == [""]
    assert found.state is RequestState.COMPLETED and found.result is not None
    (tumour,) = found.result.regions
    assert tumour.volume_mm3 == pytest.approx(27 * tumour.voxels)
    assert found.result.model_seconds > 0
    (seg,) = of_modality(pacs, "SEG")
    # It lies on the grid of the first series by time, whatever the order in which they were named.
    referred = {one.SeriesInstanceUID for one in seg.ReferencedSeriesSequence}
    assert referred == {pacs.of(2, four[0])[0].tags["SeriesInstanceUID"]}
    assert seg.Rows > WINDOW
