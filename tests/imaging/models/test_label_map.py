"""Images in and label maps out: what is taken, and what is refused."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
from hypothesis import given
from hypothesis import strategies as st

from mqi_dagster.imaging.models.card import Model, read_model
from mqi_dagster.imaging.models.label_map import (
    input_files,
    read_image,
    read_label_map,
    region_volumes,
    verified,
    write_label_map,
)
from mqi_dagster.imaging.models.model_errors import ModelError, ModelInputError
from tests.imaging.models.model_folders import block, command_card, image, region, write_card, write_inputs

SIZE = (4, 5, 6)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Two regions, of which the first holds the second."""
    regions = [
        region("Body", 1, includes=[2], volume_cm3=[0.01, 0.05]),
        region("Lung", 2, volume_cm3=[0.01, 1]),
    ]
    content = command_card(
        "run", "{inputs}", "{output}", inputs=[{"role": "T1"}, {"role": "T2"}], regions=regions
    )
    return read_model(write_card(tmp_path / "model", content))


def test_inputs_are_known_by_their_roles(model: Model, tmp_path: Path) -> None:
    one = image(block(SIZE, (0, 0, 0), (1, 1, 1)))
    folder = write_inputs(tmp_path / "in", T2=one, T1=one)
    assert list(input_files(model.card, folder)) == ["T1", "T2"]


def test_missing_and_unnamed_inputs_are_refused(model: Model, tmp_path: Path) -> None:
    one = image(block(SIZE, (0, 0, 0), (1, 1, 1)))
    folder = write_inputs(tmp_path / "in", T1=one)
    with pytest.raises(ModelInputError, match="model made needs an image for the role T2"):
        input_files(model.card, folder)
    write_inputs(folder, T2=one, FLAIR=one)
    with pytest.raises(ModelInputError, match="was given 1 images whose role its card does not name"):
        input_files(model.card, folder)


def test_what_is_no_image_is_refused_without_its_path(tmp_path: Path) -> None:
    path = tmp_path / "secret.nii.gz"
    path.write_bytes(b"no image")
    with pytest.raises(ModelInputError, match="image CT: it is no NIfTI image, or damaged") as caught:
        read_image(path, "CT")
    assert "secret" not in str(caught.value)


def test_image_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "CT.nii.gz"
    noise = np.random.default_rng(1).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    sitk.WriteImage(image(noise), path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(ModelInputError, match="it is damaged: what it is compressed to cannot be read"):
        read_image(path, "CT")


def test_image_of_four_dimensions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "CT.nii.gz"
    sitk.WriteImage(sitk.Image([4, 4, 4, 3], sitk.sitkInt16), path)
    with pytest.raises(ModelInputError, match="it has not three dimensions"):
        read_image(path, "CT")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (image(np.ones((4, 5, 7), np.uint8)), "it has (7, 5, 4) voxels, the image (6, 5, 4)"),
        (image(np.ones(SIZE, np.uint8), origin=(0.5, 0, 0)), "it lies 0.5 mm beside the image"),
        (image(np.ones(SIZE, np.uint8), spacing=(1, 1, 1.1)), "it lies 0.3 mm beside the image"),
        (
            image(np.ones(SIZE, np.uint8), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1)),
            "it lies 10 mm beside the image",
        ),
        (image(np.full(SIZE, 3, np.uint8)), "it has the label 3, which the card does not name"),
        (image(np.full(SIZE, -1, np.int16)), "it has the value -1"),
        (image(np.full(SIZE, 70000, np.int32)), "it has the value 70000"),
        (image(np.full(SIZE, 0.5, np.float32)), "it has values that are no whole numbers"),
        (image(np.zeros(SIZE, np.uint8)), "it is empty, and the card does not allow that"),
    ],
)
def test_wrong_label_map_is_refused(model: Model, tmp_path: Path, made: sitk.Image, words: str) -> None:
    path = tmp_path / "made.nii.gz"
    sitk.WriteImage(made, path)
    with pytest.raises(ModelError) as caught:
        read_label_map(path, model, image(np.zeros(SIZE, np.int16)))
    assert f"model made: its label map cannot be used: {words}" in str(caught.value)


def test_label_map_that_is_not_there_or_no_image_is_refused(model: Model, tmp_path: Path) -> None:
    like = image(np.zeros(SIZE, np.int16))
    with pytest.raises(ModelError, match="it has left no label map"):
        read_label_map(tmp_path / "none.nii.gz", model, like)
    (tmp_path / "text.nii.gz").write_text("done")
    with pytest.raises(ModelError, match="it is no NIfTI image, or damaged"):
        read_label_map(tmp_path / "text.nii.gz", model, like)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (300, np.float32(1e30), "its header has numbers that no image has"),
        (280, np.float32(np.nan), "its header has numbers that no image has"),
        (268, np.float32(np.inf), "its header has numbers that no image has"),
        (42, np.int16(30000), "it is damaged: there are fewer bytes than its header says"),
        (42, np.int16(-1), "voxels, or none"),
        (344, b"ni1", "it is no NIfTI image, or damaged"),
    ],
)
def test_header_with_numbers_that_make_no_sense_is_refused(
    model: Model, tmp_path: Path, place: int, value: np.generic | bytes, words: str
) -> None:
    # SimpleITK never ends reading some of these.
    sitk.WriteImage(image(np.ones(SIZE, np.uint8)), tmp_path / "plain.nii")
    content = bytearray((tmp_path / "plain.nii").read_bytes())
    written = value if isinstance(value, bytes) else value.tobytes()
    content[place : place + len(written)] = written
    (tmp_path / "map.nii.gz").write_bytes(content)
    with pytest.raises(ModelError, match=words):
        read_label_map(tmp_path / "map.nii.gz", model, image(np.zeros(SIZE, np.int16)))


@given(changes=st.dictionaries(st.integers(0, 500), st.integers(0, 255), min_size=1, max_size=6))
def test_damaged_label_map_is_refused_or_read_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[int, int]
) -> None:
    folder = tmp_path_factory.mktemp("map")
    model = read_model(write_card(folder / "model", command_card()))
    like = image(np.zeros(SIZE, np.int16))
    sitk.WriteImage(image(np.ones(SIZE, np.uint8)), folder / "plain.nii")
    content = bytearray((folder / "plain.nii").read_bytes())
    for place, value in changes.items():
        content[place % len(content)] = value
    # Gzip is not needed in a file of this name: its content decides.
    (folder / "map.nii.gz").write_bytes(content)
    try:
        labels = read_label_map(folder / "map.nii.gz", model, like)
    except ModelError as error:
        assert "its label map cannot be used" in str(error)
    else:
        assert labels.shape == SIZE
        assert set(np.unique(labels)) <= {0, 1}


@pytest.mark.slow
def test_image_that_the_memory_cannot_hold_is_told_as_that(tmp_path: Path) -> None:
    path = tmp_path / "CT.nii.gz"
    sitk.WriteImage(sitk.Image([500, 500, 400], sitk.sitkUInt8), path)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 200_000_000, before[1]))
    try:
        with pytest.raises(MemoryError):
            read_image(path, "CT")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_whole_numbers_in_another_type_are_labels(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "made.nii.gz"
    sitk.WriteImage(image(np.full(SIZE, 2, np.float64)), path)
    labels = read_label_map(path, model, image(np.zeros(SIZE, np.int16)))
    assert labels.dtype == np.uint16
    assert (labels == 2).all()


def test_label_map_is_written_where_its_image_lies(model: Model, tmp_path: Path) -> None:
    like = image(np.zeros(SIZE, np.int16), (0.7, 0.8, 2.5), (-100.3, 20.2, 7.7), (0, 1, 0, 1, 0, 0, 0, 0, -1))
    labels = np.arange(120).reshape(SIZE) % 3
    write_label_map(labels.astype(np.uint16), like, tmp_path / "map.nii.gz")

    back = read_label_map(tmp_path / "map.nii.gz", model, like)

    assert (back == labels).all()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["map.nii.gz"]


def test_disk_that_takes_no_more_leaves_no_label_map(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (40, 40, 40)).astype(np.uint16)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_label_map(noise, image(noise), tmp_path / "map.nii.gz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_volumes_count_what_a_region_includes(model: Model) -> None:
    labels = np.zeros(SIZE, np.uint16)
    labels[0, 0, :3] = 1
    labels[1, 0, :2] = 2

    body, lung = region_volumes(model.card, verified(labels, model), voxel_mm3=4.0)

    assert (body.voxels, body.volume_cm3, body.plausible) == (5, 0.02, True)
    assert (lung.voxels, lung.volume_cm3, lung.plausible) == (2, 0.008, False)
