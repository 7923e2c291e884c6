"""TotalSegmentator and nnU-Net: how stand-ins are called, and what is looked for before the start."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses

from mqi_dagster.imaging.models.card import Model, read_model
from mqi_dagster.imaging.models.model_errors import ModelCardError
from mqi_dagster.imaging.models.running import RunOptions
from mqi_dagster.imaging.models.segment import SegmentationRecord, segment
from tests.imaging.models.model_folders import (
    Content,
    block,
    card,
    image,
    weights,
    write_card,
    write_inputs,
)

SIZE = (6, 7, 8)
DATASET = "weights/Dataset297_total_3mm"
STAND_IN = """#!{python}
import json, os, pathlib, shutil, sys
here = pathlib.Path(__file__).parent
words = sys.argv[1:]
seen = {{"words": words, "environment": dict(os.environ)}}
if home := os.environ.get("TOTALSEG_HOME_DIR"):
    seen["config"] = json.loads((pathlib.Path(home) / "config.json").read_text())
if weights := os.environ.get("TOTALSEG_WEIGHTS_PATH"):
    seen["datasets"] = {{one.name: str(one.resolve()) for one in pathlib.Path(weights).iterdir()}}
given = pathlib.Path(words[words.index("-i") + 1])
seen["given"] = sorted(path.name for path in given.iterdir()) if given.is_dir() else [given.name]
(here / "seen.json").write_text(json.dumps(seen))
output = pathlib.Path(words[words.index("-o") + 1])
shutil.copy(here / "answer.nii.gz", output / "case.nii.gz" if output.is_dir() else output)
"""


def stand_in(folder: Path) -> str:
    """A program that notes how it was called and gives a known answer."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "stand_in.py"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    answer = block(SIZE, (1, 2, 3), (4, 5, 6)) // 100
    sitk.WriteImage(image(answer.astype(np.uint8)), folder / "answer.nii.gz")
    return str(program)


def totalsegmentator(folder: Path, **section: Any) -> Model:
    """A model of TotalSegmentator, its weights of data set 297 in place."""
    content = {"program": stand_in(folder), "task": "total", "datasets": [297], "mode": "fast", **section}
    entry = weights(folder, f"{DATASET}/trainer__plans__3d_fullres/fold_0/checkpoint_final.pth", b"weights")
    weights(folder, "weights/Dataset298_total_6mm/old.pth", b"other weights")
    return read_model(write_card(folder, card("totalsegmentator", content, weights=[entry])))


def nnunet(folder: Path, dataset: Content | None = None, **section: Any) -> Model:
    """A model of nnU-Net with a trained folder of one fold."""
    entry = weights(folder, "weights/fold_0/checkpoint_final.pth", b"weights")
    known = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "Brain": 1}, "file_ending": ".nii.gz"}
    (folder / "weights" / "plans.json").write_text("{}")
    (folder / "weights" / "dataset.json").write_text(json.dumps({**known, **(dataset or {})}))
    content = card("nnunet", {"program": stand_in(folder), **section}, weights=[entry])
    return read_model(write_card(folder, content))


def run(
    model: Model, tmp_path: Path, spacing_z: float = 1.0, **options: Any
) -> tuple[SegmentationRecord, Content]:
    """Segment a block; the record, and how the stand-in was called."""
    one = image(block(SIZE, (1, 2, 3), (4, 5, 6)), (1, 1, spacing_z))
    answer = model.folder / "answer.nii.gz"
    like = sitk.ReadImage(answer)
    like.CopyInformation(one)
    sitk.WriteImage(like, answer)
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    record = segment(model, write_inputs(tmp_path / "in", CT=one), out, RunOptions(**options))
    return record, json.loads((model.folder / "seen.json").read_text())


def value(words: list[str], name: str) -> str:
    """The word behind an option."""
    return words[words.index(name) + 1]


def test_totalsegmentator_is_called_with_local_weights_and_without_telemetry(tmp_path: Path) -> None:
    model = totalsegmentator(tmp_path / "model", roi_subset=["liver", "spleen"])

    record, seen = run(model, tmp_path, threads=2, nr_threads_resample=3)

    words = seen["words"]
    assert (value(words, "--task"), value(words, "--device")) == ("total", "cpu")
    assert (value(words, "--nr_thr_resamp"), value(words, "--nr_thr_saving")) == ("3", "2")
    assert {"--ml", "--fast"} <= set(words) and "--force_split" not in words
    assert words[-3:] == ["--roi_subset", "liver", "spleen"]
    assert seen["config"]["send_usage_stats"] is False
    assert seen["datasets"] == {"Dataset297_total_3mm": str(tmp_path / "model" / DATASET)}
    assert record.regions[0].voxels == 27


@pytest.mark.parametrize(
    ("spacing_z", "split"),
    [(29.0, False), (31.0, True)],
)
def test_totalsegmentator_splits_what_is_long_enough_for_three_pieces(
    tmp_path: Path, spacing_z: float, split: bool
) -> None:
    # Six planes; its fast mode works at 3 mm, and 60 planes of those are 180 mm.
    record, seen = run(totalsegmentator(tmp_path / "model"), tmp_path, spacing_z, in_pieces=True)

    assert (record.in_pieces, "--force_split" in seen["words"]) == (split, split)
    assert any("too short for its three pieces" in one for one in record.remarks) is not split


def test_missing_checkpoints_are_named_before_the_start(tmp_path: Path) -> None:
    model = totalsegmentator(tmp_path / "model")
    (model.folder / model.card.weights[0].file).unlink()
    with pytest.raises(
        ModelCardError, match=r"weights weights/Dataset297_total_3mm/.* cannot be read: No such"
    ):
        run(model, tmp_path)
    assert not (tmp_path / "model" / "seen.json").exists()


@pytest.mark.parametrize(
    ("make", "section", "words"),
    [
        (totalsegmentator, {"datasets": [297, 5, 298]}, "weights/Dataset005_, weights/Dataset298_"),
        (nnunet, {"folds": [0, 3]}, "weights/fold_3/checkpoint_final.pth"),
    ],
)
def test_card_must_name_every_checkpoint(tmp_path: Path, make: Any, section: Content, words: str) -> None:
    with pytest.raises(ModelCardError, match=f"weights must name {words}"):
        make(tmp_path / "model", **section)


def test_nnunet_is_given_its_channels_in_the_order_of_the_card(tmp_path: Path) -> None:
    model = nnunet(tmp_path / "model", folds=[0], mirroring=False)

    record, seen = run(
        model, tmp_path, device="gpu", in_pieces=True, num_proc_preprocessing=2, nr_threads_save=4
    )

    words = seen["words"]
    assert seen["given"] == ["case_0000.nii.gz"]
    assert value(words, "-m") == str(tmp_path / "model" / "weights")
    assert (value(words, "-device"), value(words, "-npp"), value(words, "-nps")) == ("cuda", "2", "1")
    assert {"--disable_tta", "--not_on_device"} <= set(words)
    assert (value(words, "-f"), value(words, "-chk")) == ("0", "checkpoint_final.pth")
    assert record.in_pieces
    assert "nr_threads_save is set, and this program has no such option" in record.remarks


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ({"channel_names": {"0": "CT", "1": "PET"}}, "was trained with 2 inputs, the card names 1"),
        ({"labels": {"background": 0, "Lung": 2}}, "was trained with labels that the card does not name"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, "its dataset.json is not one of nnU-Net v2"),
        ({"file_ending": ".nrrd"}, r"was trained with another format than \.nii\.gz"),
        ({"channel_names": None}, "its dataset.json is not one of nnU-Net v2"),
    ],
)
def test_nnunet_of_another_kind_than_the_card_is_refused(
    tmp_path: Path, dataset: Content, words: str
) -> None:
    with pytest.raises(ModelCardError, match=words):
        run(nnunet(tmp_path / "model", dataset), tmp_path)


def test_nnunet_without_its_plans_is_refused(tmp_path: Path) -> None:
    model = nnunet(tmp_path / "model")
    (model.folder / "weights" / "plans.json").unlink()
    with pytest.raises(ModelCardError, match=r"its trained folder has no plans\.json"):
        run(model, tmp_path)
