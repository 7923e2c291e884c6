"""The image that a model is given, and how a job finds its model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses

from mqi_dagster.imaging.image_volume import ImageVolume
from mqi_dagster.imaging.models.card import read_card
from mqi_dagster.imaging.models.job_files import JobOptions, ModelJob, write_series_image
from mqi_dagster.imaging.models.model_errors import ModelCardError
from mqi_dagster.imaging.models.segment_job import model_of
from tests.imaging.ct_series import oblique_grid
from tests.imaging.models.model_folders import command_card, write_card

OPTIONS = JobOptions(
    device="cpu",
    threads=1,
    in_pieces=False,
    gpu=None,
    require_isolation=False,
    nr_threads_resample=None,
    nr_threads_save=None,
    num_proc_preprocessing=None,
    num_proc_export=None,
)


@pytest.mark.parametrize(("part", "kind"), [(0.0, sitk.sitkInt16), (0.25, sitk.sitkFloat32)])
def test_image_lies_where_the_series_does(tmp_path: Path, part: float, kind: int) -> None:
    grid = oblique_grid(20.0)
    values = np.zeros(grid.shape, np.float32)
    values[3, 5, 7] = 1200 + part
    volume = ImageVolume(grid, values, "CT", "1.2.3", (), "HFS", 0)

    write_series_image(volume, tmp_path / "CT.nii.gz")

    image = sitk.ReadImage(tmp_path / "CT.nii.gz")
    assert image.GetPixelID() == kind
    assert image.GetSize() == (40, 48, 24)
    assert image[7, 5, 3] == 1200 + part
    # -40 + 7 · 1.1; 12.5 + 4.5 cos 20° - 7.5 sin 20°; -7 + 4.5 sin 20° + 7.5 cos 20°.
    assert image.TransformIndexToPhysicalPoint((7, 5, 3)) == pytest.approx((-32.3, 14.1635, 1.5868), abs=1e-3)
    assert b"1.2.3" not in (tmp_path / "CT.nii.gz").read_bytes()


def test_job_takes_only_the_model_whose_card_it_was_told(tmp_path: Path) -> None:
    folder = write_card(tmp_path / "made", command_card())
    told = ModelJob(model="made", card_sha256=read_card(folder).digest(), root=str(tmp_path), options=OPTIONS)
    assert model_of(told).folder == folder
    with pytest.raises(ModelCardError, match="model made has another card where it is run"):
        model_of(told.model_copy(update={"card_sha256": "0" * 64}))
    with pytest.raises(ModelCardError, match="model made cannot be used where it is run: there is no folder"):
        model_of(told.model_copy(update={"root": None}))
    write_card(tmp_path / "made", command_card(network=True))
    with pytest.raises(ModelCardError, match="asks for the network"):
        model_of(told)


def test_words_for_a_series_do_not_change_what_a_model_makes(tmp_path: Path) -> None:
    plain = read_card(write_card(tmp_path / "a", command_card()))
    told = plain.model_copy(update={"inputs": (plain.inputs[0].model_copy(update={"series": "T1"}),)})
    assert told.digest() == plain.digest()
