"""The onnx runtime, on networks of one or two operators whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses

from mqi_dagster.imaging.models.card import Model, read_model
from mqi_dagster.imaging.models.model_errors import ModelCardError, ModelError
from mqi_dagster.imaging.models.running import RunOptions
from mqi_dagster.imaging.models.segment import segment
from tests.imaging.models.model_folders import (
    Content,
    block,
    card,
    image,
    labels_in,
    region,
    weights,
    write_card,
    write_inputs,
)

onnx = pytest.importorskip("onnx", reason="the package onnx makes the networks of these tests")

ANY = (None, None, None)


def network(nodes: list[Any], constants: dict[str, Any], inputs: int, outputs: int, size: Any = ANY) -> bytes:
    """A network ``image`` → ``channels`` in ONNX."""
    helper, numbers = onnx.helper, onnx.TensorProto
    shape = [f"axis{i}" if one is None else one for i, one in enumerate(size)]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("image", numbers.FLOAT, [1, inputs, *shape])],
        [helper.make_tensor_value_info("channels", numbers.FLOAT, [1, outputs, *shape])],
        [onnx.numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()


def linear(weight: list[list[float]], bias: list[float], size: Any = ANY) -> bytes:
    """Each channel of the output is a weighted sum of the inputs, voxel by voxel."""
    matrix = np.array(weight, float)
    node = onnx.helper.make_node("Conv", ["image", "weight", "bias"], ["channels"], kernel_shape=[1, 1, 1])
    kernel = matrix.reshape(*matrix.shape, 1, 1, 1)
    return network([node], {"weight": kernel, "bias": bias}, matrix.shape[1], matrix.shape[0], size)


ABOVE_50 = ([[0.0], [1.0]], [50.0, 0.0])
"""Channel 1 is greater than channel 0 where the image is above 50."""


def make_model(folder: Path, content: bytes, section: Content | None = None, **changes: Any) -> Model:
    """A model of one network on the image's own grid."""
    entry = weights(folder, "net.onnx", content)
    described = {"weights": "net.onnx", "spacing_mm": [1, 1, 1], "labels": [0, 1], **changes}
    runtime = {"network": described, **(section or {})}
    roles = {"inputs": [{"role": "CT"}]}
    return read_model(write_card(folder, card("onnx", runtime, weights=[entry], **roles)))


def run(model: Model, tmp_path: Path, options: RunOptions | None = None, **images: sitk.Image) -> Any:
    """The labels that a model gives."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    segment(model, write_inputs(tmp_path / "in", **images), out, options)
    return labels_in(out)


def test_network_gives_its_label_where_its_channel_is_greatest(tmp_path: Path) -> None:
    values = block((6, 7, 8), (1, 2, 3), (4, 5, 6))
    model = make_model(tmp_path / "model", linear(*ABOVE_50))

    assert (run(model, tmp_path, CT=image(values)) == (values == 100)).all()


def test_record_tells_what_was_asked_for_and_what_was_used(tmp_path: Path) -> None:
    values = block((6, 7, 8), (1, 2, 3), (4, 5, 6))
    model = make_model(tmp_path / "model", linear(*ABOVE_50))
    folder = write_inputs(tmp_path / "in", CT=image(values, (1, 1, 2)))
    (tmp_path / "out").mkdir()

    record = segment(model, folder, tmp_path / "out", RunOptions(device="gpu", threads=1))

    assert (record.device_asked, record.device_used, record.provider) == (
        "gpu",
        "cpu",
        "CPUExecutionProvider",
    )
    assert record.remarks == ("gpu was asked for, and onnxruntime has no provider for it here",)
    assert list(record.weights_sha256) == ["net.onnx"]
    assert [(one.name, one.voxels, one.volume_cm3) for one in record.regions] == [("Brain", 27, 0.054)]
    assert (tmp_path / "out" / "segmentation.json").read_text() == record.to_json()


@pytest.mark.parametrize("axes", ["xyz", "zyx"])
@pytest.mark.parametrize(
    ("orientation", "first_half_is"), [("LPS", (0, 4)), ("RAS", (4, 8)), ("RPS", (4, 8)), ("LAS", (0, 4))]
)
def test_network_sees_the_image_in_the_orientation_and_axes_of_the_card(
    tmp_path: Path, axes: str, orientation: str, first_half_is: tuple[int, int]
) -> None:
    # The image runs to left, back and head; this network marks the first half of its own x axis.
    marked = np.zeros((8, 6, 4) if axes == "xyz" else (4, 6, 8))
    marked[:4] = 1 if axes == "xyz" else 0
    if axes == "zyx":
        marked[:, :, :4] = 1
    node = onnx.helper.make_node("Add", ["image", "marked"], ["channels"])
    content = network([node], {"marked": marked[None, None]}, 1, 1, marked.shape)
    model = make_model(
        tmp_path / "model", content, {"orientation": orientation, "axes": axes}, labels=[1], threshold=0.5
    )

    labels = run(model, tmp_path, CT=image(np.zeros((4, 6, 8), np.int16)))

    expected = np.zeros((4, 6, 8))
    expected[:, :, slice(*first_half_is)] = 1
    assert (labels == expected).all()


def test_inputs_are_channels_in_the_order_of_the_card(tmp_path: Path) -> None:
    first, second = block((4, 4, 4), (0, 0, 0), (2, 4, 4)), block((4, 4, 4), (0, 0, 0), (4, 2, 4))
    folder = tmp_path / "model"
    entry = weights(folder, "net.onnx", linear([[0, 0], [1, -1]], [50, 0]))
    section = {"network": {"weights": "net.onnx", "spacing_mm": [1, 1, 1], "labels": [0, 1]}}
    inputs = [{"role": "late"}, {"role": "early"}]
    model = read_model(write_card(folder, card("onnx", section, weights=[entry], inputs=inputs)))

    labels = run(model, tmp_path, early=image(second), late=image(first))

    assert (labels == block((4, 4, 4), (0, 2, 0), (2, 4, 4)) / 100).all()


def test_second_input_comes_to_the_grid_of_the_first(tmp_path: Path) -> None:
    first = image(np.full((4, 4, 4), 100, np.int16), origin=(10, 0, 0))
    second = image(block((4, 4, 14), (0, 0, 12), (4, 4, 14)))
    folder = tmp_path / "model"
    entry = weights(folder, "net.onnx", linear([[0, 0], [1, -1]], [50, 0]))
    section = {"network": {"weights": "net.onnx", "spacing_mm": [1, 1, 1], "labels": [0, 1]}}
    inputs = [{"role": "A"}, {"role": "B"}]
    model = read_model(write_card(folder, card("onnx", section, weights=[entry], inputs=inputs)))

    assert (run(model, tmp_path, A=first, B=second)[:, :, 2:] == 0).all()
    assert (run(model, tmp_path, A=first, B=second)[:, :, :2] == 1).all()


@pytest.mark.parametrize("patch", [[4, 4, 4], [5, 3, 16], [16, 16, 16]])
@pytest.mark.parametrize("axes", ["xyz", "zyx"])
def test_windows_that_slide_give_what_the_whole_gives(tmp_path: Path, patch: list[int], axes: str) -> None:
    values = block((9, 10, 11), (2, 3, 4), (8, 7, 11))
    fixed = patch if axes == "xyz" else patch[::-1]
    model = make_model(
        tmp_path / "model", linear(*ABOVE_50, size=fixed), {"axes": axes}, patch=patch, overlap=0.25
    )

    assert (run(model, tmp_path, CT=image(values)) == (values == 100)).all()


def test_windows_are_weighted_by_the_distance_from_their_centre(tmp_path: Path) -> None:
    # A window of 8 marks its own first half, and windows start at 0 and 4: where two disagree, the nearer
    # centre decides.
    marked = np.zeros((8, 1, 1))
    marked[:4] = 1
    node = onnx.helper.make_node("Add", ["image", "marked"], ["channels"])
    content = network([node], {"marked": marked[None, None]}, 1, 1, (8, 1, 1))
    model = make_model(
        tmp_path / "model", content, {"orientation": "LPS"}, labels=[1], threshold=0.5, patch=[8, 1, 1]
    )

    labels = run(model, tmp_path, CT=image(np.zeros((1, 1, 12), np.int16)))

    assert labels[0, 0].tolist() == [1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("intensity", "above", "voxels"),
    [
        ({}, 299.5, 700),
        ({"clip": {"values": [0, 500]}}, 499.5, 500),
        ({"clip": {"values": [0, 500]}, "rescale": True}, 0.9999, 500),
        ({"clip": {"percentiles": [0, 50]}, "rescale": True}, 0.5, 750),
        ({"standardise": "whole"}, 0.0, 500),
        ({"standardise": {"mean": 100, "std": 10}}, 0.0, 899),
        ({"standardise": "nonzero"}, 0.0, 499),
        ({"multiply": 2, "add": 1}, 1998.0, 1),
    ],
)
def test_values_are_brought_to_what_the_network_expects(
    tmp_path: Path, intensity: Content, above: float, voxels: int
) -> None:
    # The values are 0 to 999, each once.
    model = make_model(tmp_path / "model", linear([[0.0], [1.0]], [above, 0.0]), intensity=[intensity])

    labels = run(model, tmp_path, CT=image(np.arange(1000).reshape(10, 10, 10).astype(np.int16)))

    assert int(labels.sum()) == voxels


@pytest.mark.parametrize(("back", "wrong"), [("linear", 8), ("nearest", 0)])
def test_block_keeps_its_place_on_a_coarser_grid(tmp_path: Path, back: str, wrong: int) -> None:
    values = block((40, 40, 40), (8, 12, 16), (28, 32, 36))
    model = make_model(tmp_path / "model", linear(*ABOVE_50), spacing_mm=[2, 2, 2], back=back)

    labels = run(model, tmp_path, CT=image(values, origin=(-17, 3, 5)))

    # Linear: at each of the eight corners 0.75³ of the block is below a half.
    assert int((labels != (values == 100)).sum()) == wrong


def test_field_is_stretched_to_the_shape_of_the_card(tmp_path: Path) -> None:
    values = block((10, 20, 40), (0, 0, 0), (5, 20, 40))
    model = make_model(
        tmp_path / "model",
        linear(*ABOVE_50, size=(8, 8, 8)),
        spacing_mm=None,
        shape=[8, 8, 8],
        back="nearest",
    )
    assert (run(model, tmp_path, CT=image(values)) == (values == 100)).all()


@pytest.mark.parametrize(
    "decision",
    [{"labels": [0, 1], "threshold": 0.5, "back": "nearest"}, {"labels": [1, 0], "back": "linear"}],
)
def test_first_network_tells_the_second_where_to_look(tmp_path: Path, decision: Content) -> None:
    values = block((20, 20, 20), (4, 6, 8), (8, 10, 12))
    values[15, 15, 15] = 100
    folder = tmp_path / "model"
    entries = [
        weights(folder, "where.onnx", linear(*ABOVE_50)),
        weights(
            folder,
            "all.onnx",
            linear([[0.0], [0.0]], [float(label) for label in decision["labels"]], (6, 6, 6)),
        ),
    ]
    first = {"weights": "where.onnx", "spacing_mm": [1, 1, 1], "labels": [0, 1]}
    second = {"weights": "all.onnx", "shape": [6, 6, 6], **decision}
    section = {"locate": {"network": first, "margin": 0.25}, "network": second}
    model = read_model(write_card(folder, card("onnx", section, weights=entries)))

    labels = run(model, tmp_path, CT=image(values))

    # The larger block, wider by a quarter of its 4 voxels on each side.
    assert (labels == block((20, 20, 20), (3, 5, 7), (9, 11, 13)) / 100).all()


def test_pieces_go_and_holes_are_filled_where_the_card_says_so(tmp_path: Path) -> None:
    values = block((10, 10, 10), (1, 1, 1), (6, 6, 6))
    values[3, 3, 3] = 0
    values[8, 8, 8] = values[6, 6, 6] = 100
    section = {"largest_component": True, "fill_holes": True}
    model = make_model(tmp_path / "model", linear(*ABOVE_50), section)

    labels = run(model, tmp_path, CT=image(values))

    expected = block((10, 10, 10), (1, 1, 1), (6, 6, 6)) / 100
    # What touches it by a corner belongs to it.
    expected[6, 6, 6] = 1
    assert (labels == expected).all()


def test_greatest_of_the_channels_above_the_threshold_decides(tmp_path: Path) -> None:
    values = np.array([0, 10, 20, 30], np.int16).reshape(1, 1, 4)
    folder = tmp_path / "model"
    # Channels x / 10, 3 - x / 10 and 0 for the labels 1, 2 and background.
    entry = weights(folder, "net.onnx", linear([[0.1], [-0.1], [0.0]], [0.0, 3.0, 9.0]))
    section = {
        "network": {"weights": "net.onnx", "spacing_mm": [1, 1, 1], "labels": [1, 2, 0], "threshold": 2.5}
    }
    regions = [region("A", 1), region("B", 2)]
    model = read_model(write_card(folder, card("onnx", section, weights=[entry], regions=regions)))

    assert run(model, tmp_path, CT=image(values))[0, 0].tolist() == [2, 0, 0, 1]


@pytest.mark.parametrize(
    ("content", "changes", "words"),
    [
        ("linear3", {}, r"its output is \[1, 3, 4, 4, 4\], the card says \[1, 2, 4, 4, 4\]"),
        ("fixed", {}, r"its input is \[1, 1, 8, 8, 8\], the card makes \[1, 1, 4, 4, 4\]"),
        ("channels2", {}, r"its input is \[1, 2, .*\], the card makes \[1, 1, 4, 4, 4\]"),
    ],
)
def test_network_that_is_not_the_one_of_the_card_is_refused(
    tmp_path: Path, content: str, changes: Content, words: str
) -> None:
    made = {
        "linear3": linear([[0.0], [1.0], [0.0]], [0, 0, 0]),
        "fixed": linear(*ABOVE_50, size=(8, 8, 8)),
        "channels2": linear([[0, 0], [1, 0]], [0, 0]),
    }[content]
    model = make_model(tmp_path / "model", made, **changes)
    with pytest.raises(ModelCardError, match=f"a network is not the one of the card: {words}"):
        run(model, tmp_path, CT=image(block((4, 4, 4), (0, 0, 0), (1, 1, 1))))


def test_file_that_is_no_network_is_a_failure_of_the_model(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", b"\x08\x08 no network")
    with pytest.raises(ModelError, match="model made: onnxruntime could not run a network"):
        run(model, tmp_path, CT=image(block((4, 4, 4), (0, 0, 0), (1, 1, 1))))


def test_network_that_points_to_another_file_is_refused(tmp_path: Path) -> None:
    made = onnx.load_from_string(linear(*ABOVE_50))
    (tmp_path / "model").mkdir()
    onnx.save_model(
        made, tmp_path / "model" / "big.onnx", save_as_external_data=True, size_threshold=0, location="data"
    )
    model = make_model(tmp_path / "model", (tmp_path / "model" / "big.onnx").read_bytes())
    with pytest.raises(ModelError, match="model made: onnxruntime could not run a network"):
        run(model, tmp_path, CT=image(block((4, 4, 4), (0, 0, 0), (1, 1, 1))))


def test_network_that_gives_no_numbers_or_nothing_is_a_failure(tmp_path: Path) -> None:
    one = image(block((4, 4, 4), (0, 0, 0), (1, 1, 1)))
    model = make_model(tmp_path / "nan", linear([[0.0], [1.0]], [0.0, float("nan")]))
    with pytest.raises(ModelError, match="a network gave values that are no numbers"):
        run(model, tmp_path, CT=one)
    model = make_model(tmp_path / "empty", linear([[0.0], [0.0]], [1.0, 0.0]))
    with pytest.raises(ModelError, match="it is empty, and the card does not allow that"):
        run(model, tmp_path, CT=one)
    assert not list((tmp_path / "out").iterdir())


def test_same_image_gives_the_same_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(7).normal(50, 40, (20, 21, 22)).astype(np.float32)
    model = make_model(
        tmp_path / "model", linear(*ABOVE_50), {"threads": 2}, spacing_mm=[1.3, 1.3, 1.3], patch=[8, 8, 8]
    )
    run(model, tmp_path, CT=image(noise))
    first = (tmp_path / "out" / "segmentation.nii.gz").read_bytes()
    run(model, tmp_path, RunOptions(threads=1), CT=image(noise))
    assert (tmp_path / "out" / "segmentation.nii.gz").read_bytes() == first
